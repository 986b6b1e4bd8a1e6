//! The times of kernels and the amount of copies, for programs that measure. Times come from events that
//! are recorded together with the work.

#![allow(unsafe_code, reason = "calls the driver")]

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use super::{
    GpuError,
    driver::{Driver, Handle, call},
    memory::Context,
};

/// The flag of an event that is recorded in a graph and whose time can be read afterwards.
const EXTERNAL: u32 = 1;

/// Bytes that were copied since the GPU was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From the host to the GPU.
    pub to_gpu: u64,
    /// From the GPU to the host.
    pub from_gpu: u64,
}

/// What is timed in the work that is recorded from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timed {
    /// Each graph as a whole.
    Graphs,
    /// Each kernel. The additional events make the graph slower.
    Kernels,
}

/// A part of a graph, and the microseconds that it took when the graph was last launched.
pub type Time = (String, f64);

/// The counters of one GPU.
#[derive(Debug, Default)]
pub(super) struct Meter {
    to_gpu: AtomicU64,
    from_gpu: AtomicU64,
    marks: Mutex<Option<Marks>>,
}

#[derive(Debug)]
struct Marks {
    timed: Timed,
    is_recording: bool,
    /// For each graph: its parts, and the events before and after each part.
    graphs: Vec<Vec<(String, [Handle; 2])>>,
}

impl Meter {
    pub(super) fn note_copy_in(&self, bytes: usize) {
        self.to_gpu.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn note_copy_out(&self, bytes: usize) {
        self.from_gpu.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn traffic(&self) -> Traffic {
        let [to_gpu, from_gpu] =
            [&self.to_gpu, &self.from_gpu].map(|bytes| bytes.load(Ordering::Relaxed));
        Traffic { to_gpu, from_gpu }
    }

    pub(super) fn begin(&self, timed: Timed) {
        *self.marks.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Marks { timed, is_recording: false, graphs: Vec::new() });
    }

    /// What is timed in the work that is being recorded, if anything.
    fn timed(&self) -> Option<Timed> {
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.as_ref().filter(|marks| marks.is_recording).map(|marks| marks.timed)
    }

    /// Takes the events, so that the caller can destroy them.
    pub(super) fn events(&self) -> Vec<Handle> {
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner).take();
        let graphs = marks.into_iter().flat_map(|marks| marks.graphs);
        graphs.flatten().flat_map(|(_, events)| events).collect()
    }
}

impl Context {
    /// Notes the beginning or the end of the recording of a graph.
    pub(super) fn note_recording(&self, is_recording: bool) {
        let mut marks = self.meter.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(marks) = marks.as_mut() else { return };
        marks.is_recording = is_recording;
        if is_recording {
            marks.graphs.push(Vec::new());
        }
    }

    /// Runs work that is being recorded, between two events if this kind of part is timed.
    pub(super) fn time<T>(
        &self,
        part: Timed,
        name: &str,
        work: impl FnOnce() -> Result<T, GpuError>,
    ) -> Result<T, GpuError> {
        if self.meter.timed() != Some(part) {
            return work();
        }
        let begun = self.mark()?;
        let done = work()?;
        let ended = self.mark()?;
        let mut marks = self.meter.marks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(graph) = marks.as_mut().and_then(|marks| marks.graphs.last_mut()) {
            graph.push((name.to_owned(), [begun, ended]));
        }
        Ok(done)
    }

    fn mark(&self) -> Result<Handle, GpuError> {
        let mut event = 0;
        call!(self.driver, event_create(&raw mut event, 0))?;
        call!(self.driver, event_record_with(event, self.stream, EXTERNAL))?;
        Ok(event)
    }

    /// The times of each graph in its last launch; graphs that were never launched are left out.
    pub(super) fn times(&self) -> Result<Vec<Vec<Time>>, GpuError> {
        self.wait()?;
        let marks = self.meter.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let graphs = marks.iter().flat_map(|marks| &marks.graphs);
        Ok(graphs.filter_map(|graph| self.times_of(graph)).collect())
    }

    /// `None` for a graph that was never launched, because its events have no time.
    fn times_of(&self, graph: &[(String, [Handle; 2])]) -> Option<Vec<Time>> {
        let time = |(name, [begun, ended]): &(String, [Handle; 2])| {
            let mut milliseconds = 0.0;
            call!(self.driver, event_time(&raw mut milliseconds, *begun, *ended)).ok()?;
            Some((name.clone(), f64::from(milliseconds) * 1e3))
        };
        graph.iter().map(time).collect()
    }
}
