//! A table of steps that are under way, and what comes back of each: the sums of its losses, and the
//! gradient's norm where that is wanted.

use model::{
    Sums,
    cuda::{Buffer, Event, Gpu, GpuError, Pinned, Place},
    resident::AHEAD,
};

use crate::vae::TERMS;

use super::{
    kernels::Step,
    line::{LINE_WORDS, Line, Shape},
};

/// Words before the lines: the cursor, and one that is not used.
pub(super) const CURSOR_WORDS: usize = 2;

/// A line for each step that may be under way; a step takes the one of the step that was begun as many
/// before it.
#[derive(Debug)]
pub(super) struct Table {
    slots: Vec<Slot>,
    lines: Buffer<u32>,
    order: Buffer<u32>,
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
    order: Pinned<u32>,
    sums: Pinned<f64>,
    norm: Pinned<f64>,
    wants_norm: bool,
    done: Event,
}

impl Table {
    pub(super) fn new(gpu: &Gpu, shape: Shape, nodes: usize) -> Result<Self, GpuError> {
        let slot = |_| -> Result<_, GpuError> {
            Ok(Slot {
                line: gpu.pinned(LINE_WORDS)?,
                order: gpu.pinned(shape.images())?,
                sums: gpu.pinned(nodes * TERMS)?,
                norm: gpu.pinned(1)?,
                wants_norm: false,
                done: gpu.event()?,
            })
        };
        Ok(Self {
            slots: (0..AHEAD).map(slot).collect::<Result<_, _>>()?,
            lines: gpu.zeros(CURSOR_WORDS + AHEAD * LINE_WORDS)?,
            order: gpu.zeros(AHEAD * shape.images())?,
            sums: gpu.zeros(AHEAD * nodes * TERMS)?,
            norms: gpu.zeros(AHEAD)?,
            shape,
            nodes,
        })
    }

    /// What the kernels are told of a step.
    pub(super) fn step(&self) -> Step {
        let cursor = self.lines.place();
        Step { cursor, table: cursor.offset::<u32>(CURSOR_WORDS), shape: self.shape }
    }

    pub(super) fn order(&self) -> Place {
        self.order.place()
    }

    pub(super) fn sums(&self) -> Place {
        self.sums.place()
    }

    pub(super) fn norms(&self) -> Place {
        self.norms.place()
    }

    /// Begins to write the line of a step, with positions that count from its own first one, and its
    /// images.
    pub(super) fn write(
        &mut self,
        gpu: &Gpu,
        step: u64,
        line: &Line,
        images: impl Iterator<Item = u32>,
    ) -> Result<(), GpuError> {
        let (index, room) = (index(step), self.shape.images());
        let Self { slots, lines, order, .. } = self;
        let slot = &mut slots[index];
        let list = slot.order.as_mut_slice()?;
        list.iter_mut().zip(images).for_each(|(place, image)| *place = image);
        gpu.upload_part(&mut slot.order, order, index * room, room)?;
        let first = (index * room) as u32;
        let positions = (first + line.positions.0, first + line.positions.1);
        let words = Line { positions, ..*line }.words();
        slot.line.as_mut_slice()?.copy_from_slice(&words);
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
