//! A VAE in one precision: the network with its working memory and its threads.
//!
//! It gathers pixels and noise, rounds the weights if the precision requires it, and runs
//! the passes of `pass.rs`, where each thread takes some of the images. `vae.rs` checks lengths.

use std::{iter, sync::Arc};

use data::{Batch, Stream};
use images::Images;
use vae_options::Binarize;

use model::{Isa, ModelError, Scratch, Sums, Team, noise};

use crate::{
    element::{self, Element},
    network::Network,
    pass::ForwardBackward,
    work::{Memory, Work},
};

#[derive(Debug)]
pub(crate) struct Computation<E> {
    network: Network,
    beta: f64,
    binarize: Binarize,
    /// Whether most pixels of the set are zero; `None` before the first batch.
    sparse: Option<bool>,
    isa: Isa,
    team: Arc<Team>,
    memory: Memory<E>,
    /// The rounded parameters, as a scratch whose one "example" is the layout.
    weights: Scratch<E, 1>,
}

impl<E: Element> Computation<E> {
    /// Working memory is allocated by [`Computation::reserve`] or the first batch. With more than one sample per
    /// image, the loss is the importance-weighted bound.
    pub(crate) fn new(
        network: Network,
        beta: f64,
        isa: Isa,
        samples: usize,
        binarize: Binarize,
    ) -> Self {
        Self {
            memory: Memory::new(&network, samples),
            weights: Scratch::new([if E::ROUNDS { network.layout.len() } else { 0 }]),
            network,
            beta,
            binarize,
            sparse: None,
            isa,
            team: Arc::default(),
        }
    }

    pub(crate) const fn network(&self) -> &Network {
        &self.network
    }

    pub(crate) fn set_team(&mut self, team: Arc<Team>) {
        self.team = team;
    }

    pub(crate) fn reserve(&mut self, images: usize) -> Result<(), ModelError> {
        self.memory.reserve(images)?;
        self.weights.reserve(1)
    }

    /// The inputs of a pass; `kl_weight` is the share of beta that applies in the step.
    fn begin<'a>(
        &'a mut self,
        parameters: &'a [f32],
        kl_weight: f64,
    ) -> (ForwardBackward<'a, E>, &'a Team, &'a mut Memory<E>) {
        let Self { network, beta, sparse, isa, team, memory, weights, .. } = self;
        let len = network.layout.len();
        assert_eq!(parameters.len(), len, "parameters and layout differ in length");
        let [rounded] = weights.slices(1);
        let weights = E::weights(*isa, team, parameters, rounded);
        let (beta, sparse) = (*beta * kl_weight, sparse.unwrap_or_default());
        (ForwardBackward { network, isa: *isa, beta, sparse, parameters, weights }, team, memory)
    }

    /// [`Computation::begin`] for a batch, with noise from the stream.
    fn begin_batch<'a>(
        &'a mut self,
        parameters: &'a [f32],
        batch: &Batch<'_, Images>,
        stream: Stream,
        kl_weight: f64,
    ) -> (ForwardBackward<'a, E>, &'a Team, &'a mut Memory<E>) {
        self.sparse.get_or_insert_with(|| element::is_sparse(batch.data));
        let (pass, team, memory) = self.begin(parameters, kl_weight);
        noise::normals(pass.isa, stream, memory.work(batch.len()).noise);
        (pass, team, memory)
    }

    pub(crate) fn gradient(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        stream: Stream,
        kl_weight: f64,
        gradient: &mut [f32],
    ) -> Sums {
        let binarize = self.binarize;
        let (pass, team, memory) = self.begin_batch(parameters, batch, stream, kl_weight);
        differentiate(pass, team, memory, batch.len(), gradient, |first, work| {
            gather(pass.isa, batch, binarize, first, work);
        })
    }

    pub(crate) fn gradient_from(
        &mut self,
        parameters: &[f32],
        pixels: &[f32],
        noise: &[f32],
        gradient: &mut [f32],
    ) -> Sums {
        let width = self.network.pixels;
        let (pass, team, memory) = self.begin(parameters, 1.0);
        let images = pixels.len() / width;
        memory.work(images).noise.copy_from_slice(noise);
        differentiate(pass, team, memory, images, gradient, |first, work| {
            E::store_pixels(pass.isa, &pixels[first * width..][..work.x.len()], work.x);
        })
    }

    pub(crate) fn evaluate(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        stream: Stream,
    ) -> Sums {
        let binarize = self.binarize;
        let (pass, team, memory) = self.begin_batch(parameters, batch, stream, 1.0);
        in_blocks(team, memory.work(batch.len()), |first, work| {
            gather(pass.isa, batch, binarize, first, work);
            pass.forward(work);
        });
        pass.sums(&memory.work(batch.len()))
    }

    pub(crate) fn encode(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        mean: &mut [f32],
        log_variance: &mut [f32],
    ) {
        let (latent, binarize) = (self.network.latent, self.binarize);
        let (pass, team, memory) = self.begin(parameters, 1.0);
        in_blocks(team, memory.work(batch.len()), |first, work| {
            gather(pass.isa, batch, binarize, first, work);
            pass.encode(work);
        });
        let work = memory.work(batch.len());
        let rows = mean.chunks_exact_mut(latent).zip(log_variance.chunks_exact_mut(latent));
        for (stats, (mean, log_variance)) in work.stats.chunks_exact(2 * latent).zip(rows) {
            mean.copy_from_slice(&stats[..latent]);
            log_variance.copy_from_slice(&stats[latent..]);
        }
    }

    pub(crate) fn decode(&mut self, parameters: &[f32], z: &[f32], pixels: &mut [f32]) {
        let images = pixels.len() / self.network.pixels;
        let (pass, team, memory) = self.begin(parameters, 1.0);
        let work = memory.work(images).regroup(images, 1);
        write_latents(z, work.z);
        in_blocks_with(team, work, pixels, |_, work, pixels| pass.pixels(work, pixels));
    }

    pub(crate) fn reconstruction(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        z: &[f32],
        losses: &mut [f64],
    ) {
        let (binarize, images) = (self.binarize, batch.len());
        let samples = losses.len().checked_div(images).unwrap_or_default();
        let (pass, team, memory) = self.begin(parameters, 1.0);
        let rows = memory.work(losses.len()).regroup(losses.len(), 1);
        let work = rows.regroup(images, samples);
        write_latents(z, work.z);
        in_blocks_with(team, work, losses, |first, work, losses| {
            gather(pass.isa, batch, binarize, first, work);
            pass.decode(work);
            pass.likelihood(work);
            losses.copy_from_slice(work.losses);
        });
    }

    pub(crate) fn reconstruct(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        stream: Stream,
        pixels: &mut [f32],
    ) {
        let binarize = self.binarize;
        let (pass, team, memory) = self.begin_batch(parameters, batch, stream, 1.0);
        let work = memory.work(batch.len()).regroup(batch.len(), 1);
        in_blocks_with(team, work, pixels, |first, work, pixels| {
            gather(pass.isa, batch, binarize, first, work);
            pass.encode(work);
            pass.sample(work);
            pass.pixels(work, pixels);
        });
    }
}

/// Writes the latents as factors.
fn write_latents<E: Element>(from: &[f32], to: &mut [E]) {
    for (element, z) in to.iter_mut().zip(from) {
        *element = E::round(*z);
    }
}

/// Writes the pixels of a block's images; `first` is the index of its first image in the batch.
fn gather<E: Element>(
    isa: Isa,
    batch: &Batch<'_, Images>,
    binarize: Binarize,
    first: usize,
    work: &mut Work<'_, E>,
) {
    let indices = &batch.indices[first..first + work.images];
    element::gather(isa, &Batch { indices, ..*batch }, binarize, work.x);
}

/// Runs the team's threads over the images, in blocks.
fn in_blocks<E: Element>(
    team: &Team,
    work: Work<'_, E>,
    run: impl Fn(usize, &mut Work<'_, E>) + Sync,
) {
    team.each(work.blocks(team.threads()), |(first, mut work)| run(first, &mut work));
}

/// [`in_blocks`] where each block also gets its part of `out`, which has the same number of elements for each image.
fn in_blocks_with<E: Element, T: Send>(
    team: &Team,
    work: Work<'_, E>,
    out: &mut [T],
    run: impl Fn(usize, &mut Work<'_, E>, &mut [T]) + Sync,
) {
    let width = out.len().checked_div(work.images).unwrap_or_default();
    let mut rest = out;
    let mut blocks = work.blocks(team.threads());
    let blocks = iter::from_fn(move || {
        let (first, work) = blocks.next()?;
        let (out, later) = std::mem::take(&mut rest).split_at_mut(work.images * width);
        rest = later;
        Some((first, work, out))
    });
    team.each(blocks, |(first, mut work, out)| run(first, &mut work, out));
}

/// The forward and backward pass through all layers; `begin` writes the pixels of a block.
fn differentiate<E: Element>(
    pass: ForwardBackward<'_, E>,
    team: &Team,
    memory: &mut Memory<E>,
    images: usize,
    gradient: &mut [f32],
    begin: impl Fn(usize, &mut Work<'_, E>) + Sync,
) -> Sums {
    let len = pass.network.layout.len();
    assert_eq!(gradient.len(), len, "gradient and layout differ in length");
    in_blocks(team, memory.work(images), |first, work| {
        begin(first, work);
        pass.forward(work);
        pass.backward(work);
    });
    let work = memory.work(images);
    pass.parameter_gradients(team, &work, gradient);
    pass.sums(&work)
}
