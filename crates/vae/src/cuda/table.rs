//! The steps that are under way. Each has a line of a table, and gives back the sums of its losses and, if
//! wanted, the gradient's norm. A line has positions in the epoch's order, which is copied to the GPU once per
//! epoch.

use std::sync::Arc;

use model::{
    Sums,
    cuda::{Buffer, Event, Gpu, GpuAddress, GpuError, Pinned},
    resident::AHEAD,
};

use crate::vae::TERMS;

use super::{
    kernels::Step,
    line::{LINE_WORDS, Line, Shape},
};

/// Words before the lines: the cursor, and one that is not used.
pub(super) const CURSOR_WORDS: usize = 2;

/// A line for each step that may be under way. Step t and step t + [`AHEAD`] use the same line.
#[derive(Debug)]
pub(super) struct Table {
    slots: Vec<Slot>,
    lines: Buffer<u32>,
    order: Order,
    sums: Buffer<f64>,
    norms: Buffer<f64>,
    shape: Shape,
    /// Nodes of the shard tree whose sums come back.
    nodes: usize,
}

/// The host's side of a line.
#[derive(Debug)]
struct Slot {
    line: Pinned<u32>,
    sums: Pinned<f64>,
    norm: Pinned<f64>,
    wants_norm: bool,
    done: Event,
}

/// The order of an epoch on the GPU, with the memory that it is copied from.
#[derive(Debug)]
struct Order {
    there: Buffer<u32>,
    here: Pinned<u32>,
    /// The order that was copied last. It is kept, so that no other order can have its address.
    known: Option<Arc<[u32]>>,
}

impl Order {
    fn new(gpu: &Gpu, examples: usize) -> Result<Self, GpuError> {
        Ok(Self { there: gpu.zeros(examples)?, here: gpu.pinned(examples)?, known: None })
    }

    /// Begins to copy an order, unless it was copied last. The GPU copies it after the steps that were
    /// begun before. The host waits only for the copy of the order before it, an epoch ago.
    fn write(&mut self, gpu: &Gpu, order: &Arc<[u32]>) -> Result<(), GpuError> {
        if self.known.as_ref().is_some_and(|known| Arc::ptr_eq(known, order)) {
            return Ok(());
        }
        self.here.as_mut_slice()?.copy_from_slice(order);
        gpu.upload(&mut self.here, &mut self.there)?;
        self.known = Some(Arc::clone(order));
        Ok(())
    }
}

impl Table {
    /// A table for steps of this shape. The order of their epoch has `examples` examples.
    pub(super) fn new(
        gpu: &Gpu,
        shape: Shape,
        nodes: usize,
        examples: usize,
    ) -> Result<Self, GpuError> {
        let slot = |_| -> Result<_, GpuError> {
            Ok(Slot {
                line: gpu.pinned(LINE_WORDS)?,
                sums: gpu.pinned(nodes * TERMS)?,
                norm: gpu.pinned(1)?,
                wants_norm: false,
                done: gpu.event()?,
            })
        };
        Ok(Self {
            slots: (0..AHEAD).map(slot).collect::<Result<_, _>>()?,
            lines: gpu.zeros(CURSOR_WORDS + AHEAD * LINE_WORDS)?,
            order: Order::new(gpu, examples)?,
            sums: gpu.zeros(AHEAD * nodes * TERMS)?,
            norms: gpu.zeros(AHEAD)?,
            shape,
            nodes,
        })
    }

    /// What the kernels are told of a step.
    pub(super) fn step(&self) -> Step {
        let cursor = self.lines.address();
        Step { cursor, table: cursor.offset::<u32>(CURSOR_WORDS), shape: self.shape }
    }

    pub(super) fn order(&self) -> GpuAddress {
        self.order.there.address()
    }

    pub(super) fn sums(&self) -> GpuAddress {
        self.sums.address()
    }

    pub(super) fn norms(&self) -> GpuAddress {
        self.norms.address()
    }

    /// Begins to write the line of a step, and before the line the epoch's order, if the order is new.
    pub(super) fn write(
        &mut self,
        gpu: &Gpu,
        step: u64,
        line: &Line,
        order: &Arc<[u32]>,
    ) -> Result<(), GpuError> {
        self.order.write(gpu, order)?;
        let index = index(step);
        let Self { slots, lines, .. } = self;
        let slot = &mut slots[index];
        slot.line.as_mut_slice()?.copy_from_slice(&line.words());
        gpu.upload_part(&mut slot.line, lines, CURSOR_WORDS + index * LINE_WORDS, LINE_WORDS)
    }

    /// Begins to read what comes back of a step that was started.
    pub(super) fn read(&mut self, gpu: &Gpu, step: u64, wants_norm: bool) -> Result<(), GpuError> {
        let (index, numbers) = (index(step), self.nodes * TERMS);
        let slot = &mut self.slots[index];
        gpu.download_part(&self.sums, &mut slot.sums, index * numbers, numbers)?;
        if wants_norm {
            gpu.download_part(&self.norms, &mut slot.norm, index, 1)?;
        }
        slot.wants_norm = wants_norm;
        slot.done.record()
    }

    /// Waits for what was read of a step: the sums of each node, and the norm.
    pub(super) fn wait(&self, step: u64) -> Result<(Vec<Sums>, Option<f64>), GpuError> {
        let slot = &self.slots[index(step)];
        slot.done.wait()?;
        let of_node = |numbers: &[f64]| {
            let mut sums = Sums::default();
            sums.terms[..TERMS].copy_from_slice(numbers);
            sums
        };
        let sums = slot.sums.as_slice()?.chunks(TERMS).map(of_node).collect();
        let norm = if slot.wants_norm { Some(slot.norm.as_slice()?[0]) } else { None };
        Ok((sums, norm))
    }

    /// Waits for the norm of a step that is the last one begun.
    pub(super) fn norm(&mut self, gpu: &Gpu, step: u64) -> Result<f64, GpuError> {
        let index = index(step);
        let slot = &mut self.slots[index];
        gpu.download_part(&self.norms, &mut slot.norm, index, 1)?;
        Ok(slot.norm.as_slice()?[0])
    }
}

fn index(step: u64) -> usize {
    (step % AHEAD as u64) as usize
}
