//! The time that a cache line takes from one core to another and back: two threads, each pinned to
//! a core, write to the line in turn.
//!
//! Hosts move the cores of a virtual machine between core complexes, which changes the speed of two
//! cores that work together. Does not know what is measured meanwhile.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Round trips that are timed together, so that the time to read the clock does not matter.
const TRIPS: u32 = 200;
/// Number of samples; samples in which a thread lost its core do not change their median.
const SAMPLES: usize = 51;
/// All samples together take some milliseconds; beside other busy programs, at most this long.
const BOUND: Duration = Duration::from_millis(250);
/// With fewer samples than this within the bound, there is no figure.
const SAMPLES_MIN: usize = 11;
/// Turns of the waiting loop between two readings of the clock.
const TURNS: u32 = 1024;

/// The number that tells the second thread to end.
const STOP: u32 = u32::MAX;

/// A word alone in its cache line and in the neighbouring line, which the CPU fetches together.
#[repr(align(128))]
struct Line(AtomicU32);

/// The median round trip in nanoseconds between the first two cores of this process. None if the
/// process has one core, may not pin threads, or gets too little time on its cores.
pub(super) fn nanoseconds() -> Option<f64> {
    let allowed = sched_getaffinity(None).ok()?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    between(cores.next()?, cores.next()?)
}

fn between(first: usize, second: usize) -> Option<f64> {
    let line = Line(AtomicU32::new(0));
    let mut samples = thread::scope(|scope| {
        let asker = scope.spawn(|| {
            let samples = pin(first).map(|()| ask(&line.0)).unwrap_or_default();
            line.0.store(STOP, Ordering::Release);
            samples
        });
        scope.spawn(|| match pin(second) {
            Some(()) => answer(&line.0),
            None => line.0.store(STOP, Ordering::Release),
        });
        asker.join().unwrap_or_default()
    });
    samples.sort_by(f64::total_cmp);
    (samples.len() >= SAMPLES_MIN).then(|| samples[samples.len() / 2])
}

fn pin(core: usize) -> Option<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).ok()
}

/// Writes odd numbers, and after each waits for the next even number. Returns the nanoseconds of a
/// round trip, one value for each sample.
fn ask(line: &AtomicU32) -> Vec<f64> {
    let deadline = Instant::now() + BOUND;
    let mut samples = Vec::with_capacity(SAMPLES);
    let mut number = 1;
    // The first sample waits for the other thread to start, and is dropped.
    for sample in 0..=SAMPLES {
        let begun = Instant::now();
        for _ in 0..TRIPS {
            line.store(number, Ordering::Release);
            if !answered(line, number + 1, deadline) {
                return samples;
            }
            number += 2;
        }
        if sample > 0 {
            samples.push(begun.elapsed().as_nanos() as f64 / f64::from(TRIPS));
        }
    }
    samples
}

/// Waits for a number; false after the deadline, or if the other thread could not start.
fn answered(line: &AtomicU32, number: u32, deadline: Instant) -> bool {
    loop {
        for _ in 0..TURNS {
            let found = line.load(Ordering::Acquire);
            if found == number || found == STOP {
                return found == number;
            }
            std::hint::spin_loop();
        }
        if Instant::now() >= deadline {
            return false;
        }
    }
}

/// Answers every odd number with the next even number, until it reads `STOP`, which the first
/// thread writes within the bound.
fn answer(line: &AtomicU32) {
    loop {
        let found = line.load(Ordering::Acquire);
        if found == STOP {
            return;
        }
        if found % 2 == 1 {
            // `STOP` may have been written in between, and must stay.
            let swapped =
                line.compare_exchange(found, found + 1, Ordering::AcqRel, Ordering::Relaxed);
            if swapped.is_err() {
                return;
            }
        } else {
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_takes_some_nanoseconds_or_is_not_known() {
        // Beside other tests the cores may be too busy: then there is no figure, but the call ends.
        let ping = nanoseconds();
        assert!(ping.is_none_or(|ping| ping > 1.0), "{ping:?}");
    }

    #[test]
    fn numbers_are_answered_until_the_end_is_written() {
        let line = AtomicU32::new(0);
        let samples = thread::scope(|scope| {
            scope.spawn(|| answer(&line));
            let samples = ask(&line);
            line.store(STOP, Ordering::Release);
            samples
        });
        assert!(samples.len() <= SAMPLES);
        assert!(samples.iter().all(|sample| *sample > 0.0));
    }

    #[test]
    fn waiting_ends_with_the_time_and_with_the_end_mark() {
        let line = AtomicU32::new(1);
        assert!(!answered(&line, 2, Instant::now()));
        line.store(STOP, Ordering::Release);
        assert!(!answered(&line, 2, Instant::now() + BOUND));
    }
}
