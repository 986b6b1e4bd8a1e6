//! Training that stays on the GPU: parameters, moments, gradients, the data set, the order of the epoch
//! and a table of the steps. A step is one graph, which can be started several times before anybody waits,
//! and gives back the sums of its losses alone.
//!
//! This is a member that has all shards: it adds their gradients along the tree and applies Adam itself.

use images::Images;
use model::{
    Adam, Isa, ModelError,
    cuda::{Buffer, Gpu, GpuError, Graph, Pinned},
};
use vae_options::{Binarize, ModelConfig};

use crate::{
    Settings,
    network::{Network, side},
    vae::{SAMPLES_MAX, TERMS},
};

use super::{
    Tiles,
    kernels::{self, Kernels, Step, Updating},
    line::{LINE_WORDS, Line, Shape},
    pass::{Ends, Work},
};

/// What is the same in all steps.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Images of a shard in a step.
    pub batch: usize,
    /// Shards of a step.
    pub shards: usize,
    /// The most steps of a table.
    pub steps: usize,
    /// The optimizer.
    pub adam: Adam,
}

/// A step of the table.
#[derive(Clone, Copy, Debug)]
pub struct ResidentStep {
    /// Updates done before it.
    pub step: u64,
    /// The noise of shard 0; that of the others follows.
    pub noise: data::Stream,
    /// What is drawn for the images.
    pub visit: data::Visit,
    /// Its positions in the order, `first..end`.
    pub positions: (u32, u32),
    /// The weight of the KL divergence.
    pub beta: f64,
}

/// The state of a run on a GPU, and what advances it.
#[derive(Debug)]
pub struct Resident {
    graph: Graph,
    plan: Plan,
    length: usize,
    state: [Buffer<f32>; 3],
    order: (Buffer<u32>, Pinned<u32>),
    /// The cursor, a word that is not used, and the lines.
    table: (Buffer<u32>, Pinned<u32>),
    sums: (Buffer<f64>, Pinned<f64>),
    flat: Pinned<f32>,
    /// What the graph reads and writes.
    _parts: (Work, Buffer<f32>, Buffer<u8>, Buffer<u8>, Kernels),
    gpu: Gpu,
}

impl Resident {
    /// Takes the memory, copies the data set, and records a step. The state is zero until
    /// [`Resident::write_state`].
    ///
    /// # Errors
    /// As [`super::Vae::new`].
    pub fn new(
        config: &ModelConfig,
        settings: Settings,
        device: usize,
        data: &Images,
        plan: Plan,
    ) -> Result<Self, ModelError> {
        let network = Network::new(config)?;
        let samples = side("importance_samples", settings.samples, SAMPLES_MAX)?;
        let (gpu, length) = (Gpu::open(device)?, network.layout.len());
        let kernels = Kernels::load(&gpu, Tiles::Auto)?;
        let Network { pixels, hidden, latent, .. } = network;
        let Plan { batch, shards, steps, .. } = plan;
        let shape = Shape { batch, groups: shards, samples, pixels, hidden, latent };
        let words = 2 + steps * LINE_WORDS;
        let (order, table) = (gpu.zeros(steps * shape.images())?, gpu.zeros::<u32>(words)?);
        let state = [gpu.zeros(length)?, gpu.zeros(length)?, gpu.zeros(length)?];
        let (gradient, sums) = (gpu.zeros(shards * length)?, gpu.zeros(steps * TERMS)?);
        let (mut images, mut merges) = (gpu.zeros(data.bytes().len())?, gpu.zeros(shards)?);
        gpu.copy(data.bytes(), &mut images)?;
        gpu.copy(&merges_of(shards), &mut merges)?;
        let work = Work::new(&gpu, &network, &shape)?;
        let cursor = table.place();
        let step = Step { cursor, table: cursor.offset::<u32>(2), shape };
        let ends = Ends {
            images: images.place(),
            order: order.place(),
            parameters: state[0].place(),
            gradient: gradient.place(),
            sums: sums.place(),
            merges: merges.place(),
            binarize: settings.binarize != Binarize::None,
        };
        let updating = Updating {
            leaves: gradient.place(),
            count: shards,
            merges: merges.place(),
            length,
            state: state.each_ref().map(Buffer::place),
        };
        let graph = {
            let pass = work.pass(&network, &kernels, step, ends);
            gpu.record(|| {
                pass.forward()?;
                pass.backward()?;
                kernels.update(&step, &updating)?;
                pass.totals()
            })?
        };
        Ok(Self {
            graph,
            plan,
            length,
            state,
            order: (order, gpu.pinned(steps * shape.images())?),
            table: (table, gpu.pinned(words)?),
            sums: (sums, gpu.pinned(steps * TERMS)?),
            flat: gpu.pinned(length)?,
            _parts: (work, gradient, images, merges, kernels),
            gpu,
        })
    }

    /// Writes parameters and both moments.
    ///
    /// # Errors
    /// [`GpuError`] where the GPU has failed.
    ///
    /// # Panics
    /// Where a length does not fit.
    pub fn write_state(&mut self, vectors: [&[f32]; 3]) -> Result<(), GpuError> {
        for (from, to) in vectors.into_iter().zip(&mut self.state) {
            self.flat.as_mut_slice()?.copy_from_slice(from);
            self.gpu.upload(&mut self.flat, to)?;
        }
        self.gpu.wait()
    }

    /// Waits, and reads parameters and both moments.
    ///
    /// # Errors
    /// [`GpuError`] where the GPU has failed.
    pub fn read_state(&mut self) -> Result<[Vec<f32>; 3], GpuError> {
        let mut vectors = [const { Vec::new() }; 3];
        for (from, to) in self.state.iter().zip(&mut vectors) {
            self.gpu.download(from, &mut self.flat)?;
            *to = self.flat.as_slice()?.to_vec();
        }
        Ok(vectors)
    }

    /// Begins a table: the steps, in order, and the images at the positions that they name.
    ///
    /// # Errors
    /// [`GpuError`] where the GPU has failed.
    ///
    /// # Panics
    /// Where there are more steps or positions than the plan has room for.
    pub fn begin(&mut self, order: &[u32], steps: &[ResidentStep]) -> Result<(), GpuError> {
        self.order.1.as_mut_slice()?[..order.len()].copy_from_slice(order);
        self.gpu.upload(&mut self.order.1, &mut self.order.0)?;
        let words = self.table.1.as_mut_slice()?;
        words[..2].fill(0);
        let lines = words[2..].chunks_exact_mut(LINE_WORDS);
        assert!(steps.len() <= self.plan.steps, "{} steps", steps.len());
        for (line, step) in lines.zip(steps) {
            let ResidentStep { noise, visit, positions, beta, .. } = *step;
            let images = positions.1 - positions.0;
            let update = self.plan.adam.update(Isa::best(), step.step + 1, images);
            let update = Some(update.numbers());
            let described = Line { noise, noise_stride: 1, visit, positions, beta, update };
            line.copy_from_slice(&described.words());
        }
        self.gpu.upload(&mut self.table.1, &mut self.table.0)
    }

    /// Starts the next step of the table, and does not wait for it.
    ///
    /// # Errors
    /// [`GpuError`] where the GPU has failed.
    pub fn step(&mut self) -> Result<(), GpuError> {
        kernels::launch(&self.graph)
    }

    /// Waits, and reads the sums of the table's steps: loss, reconstruction, divergence.
    ///
    /// # Errors
    /// [`GpuError`] where the GPU has failed.
    pub fn sums(&mut self) -> Result<&[[f64; TERMS]], GpuError> {
        self.gpu.download(&self.sums.0, &mut self.sums.1)?;
        Ok(self.sums.1.as_slice()?.as_chunks().0)
    }

    /// Numbers of a vector of the state.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none, which no model has.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }
}

/// How often the two uppermost sums are added after each leaf of the tree, which splits a range at the
/// largest power of two below its length.
fn merges_of(leaves: usize) -> Vec<u8> {
    fn split(merges: &mut [u8]) {
        let [_, .., last] = merges else { return };
        *last += 1;
        let (left, right) = merges.split_at_mut(merges.len().next_power_of_two() / 2);
        split(left);
        split(right);
    }
    let mut merges = vec![0; leaves];
    split(&mut merges);
    merges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_added_from_a_stack() {
        assert_eq!(merges_of(1), [0]);
        assert_eq!(merges_of(2), [0, 1]);
        assert_eq!(merges_of(3), [0, 1, 1]);
        assert_eq!(merges_of(4), [0, 1, 0, 2]);
        assert_eq!(merges_of(7), [0, 1, 0, 2, 0, 1, 2]);
    }
}
