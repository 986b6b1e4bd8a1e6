//! A VAE in one precision: the network with its working memory.
//!
//! It fetches pixels and noise, rounds the weights where the precision asks for it, and runs
//! the passes of `pass.rs`. Lengths are checked in `vae.rs`.

use std::sync::Arc;

use data::{Batch, Stream};
use images::Images;
use vae_options::Binarize;

use model::{Isa, ModelError, Scratch, Sums, Team, noise};

use crate::{
    element::{self, Element},
    network::Network,
    pass::{FACTORS, FLOATS, Pass, Work},
};

#[derive(Debug)]
pub(crate) struct Engine<E> {
    network: Network,
    beta: f64,
    /// Latents drawn an image; of more than one the loss is the importance-weighted bound.
    samples: usize,
    binarize: Binarize,
    /// Whether most pixels of the set are zero; unknown until the first batch.
    sparse: Option<bool>,
    isa: Isa,
    team: Arc<Team>,
    floats: Scratch<f32, FLOATS>,
    factors: Scratch<E, FACTORS>,
    /// A gradient of the last bias that nobody reads.
    unused: Vec<f32>,
    /// The rounded parameters; its one image is the layout.
    weights: Scratch<E, 1>,
}

impl<E: Element> Engine<E> {
    /// Working memory comes with [`Engine::reserve`] or the first batch.
    pub(crate) fn new(
        network: Network,
        beta: f64,
        isa: Isa,
        samples: usize,
        binarize: Binarize,
    ) -> Self {
        Self {
            floats: Scratch::new(Work::<E>::floats_per_image(&network, samples)),
            factors: Scratch::new(Work::<E>::factors_per_image(&network, samples)),
            weights: Scratch::new([if E::ROUNDS { network.layout.len() } else { 0 }]),
            unused: vec![0.0; network.pixels],
            network,
            beta,
            samples,
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
        self.floats.reserve(images)?;
        self.factors.reserve(images)?;
        self.weights.reserve(1)
    }

    /// What a pass needs, with pixels and noise yet to be written. `kl_weight` is the share of
    /// beta that counts.
    fn begin<'a>(
        &'a mut self,
        parameters: &'a [f32],
        images: usize,
        kl_weight: f64,
    ) -> (Pass<'a, E>, Work<'a, E>) {
        let Self { network, beta, sparse, isa, team, floats, factors, weights, .. } = self;
        let len = network.layout.len();
        assert_eq!(parameters.len(), len, "parameters and layout differ in length");
        let [memory] = weights.slices(1);
        let weights = E::weights(*isa, team, parameters, memory);
        let beta = *beta * kl_weight;
        let sparse = sparse.unwrap_or_default();
        let pass = Pass { network, isa: *isa, team, beta, sparse, parameters, weights };
        (pass, Work::new(floats, factors, images))
    }

    /// [`Engine::begin`] with the batch's pixels and the stream's noise.
    fn begin_batch<'a>(
        &'a mut self,
        parameters: &'a [f32],
        batch: &Batch<'_, Images>,
        stream: Stream,
        kl_weight: f64,
    ) -> (Pass<'a, E>, Work<'a, E>) {
        let binarize = self.binarize;
        self.sparse.get_or_insert_with(|| element::is_sparse(batch.data));
        let (pass, work) = self.begin(parameters, batch.len(), kl_weight);
        element::gather(pass.isa, batch, binarize, work.x);
        noise::normals(pass.isa, stream, work.noise);
        (pass, work)
    }

    pub(crate) fn gradient(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        stream: Stream,
        kl_weight: f64,
        gradient: &mut [f32],
    ) -> Sums {
        let samples = self.samples;
        let (pass, mut work) = self.begin_batch(parameters, batch, stream, kl_weight);
        differentiate(pass, &mut work, samples, gradient)
    }

    pub(crate) fn gradient_from(
        &mut self,
        parameters: &[f32],
        pixels: &[f32],
        noise: &[f32],
        gradient: &mut [f32],
    ) -> Sums {
        let samples = self.samples;
        let images = pixels.len() / self.network.pixels;
        let (pass, mut work) = self.begin(parameters, images, 1.0);
        E::store_pixels(pass.isa, pixels, work.x);
        work.noise.copy_from_slice(noise);
        differentiate(pass, &mut work, samples, gradient)
    }

    pub(crate) fn evaluate(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        stream: Stream,
    ) -> Sums {
        let samples = self.samples;
        let mut unused = std::mem::take(&mut self.unused);
        let (pass, mut work) = self.begin_batch(parameters, batch, stream, 1.0);
        let sums = match samples {
            1 => pass.forward(&mut work, &mut unused).0,
            _ => pass.forward_weighted(&mut work, samples, &mut unused).sums,
        };
        self.unused = unused;
        sums
    }

    pub(crate) fn encode(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        mean: &mut [f32],
        log_variance: &mut [f32],
    ) {
        let (latent, binarize) = (self.network.latent, self.binarize);
        let (pass, mut work) = self.begin(parameters, batch.len(), 1.0);
        element::gather(pass.isa, batch, binarize, work.x);
        pass.encode(&mut work);
        let rows = mean.chunks_exact_mut(latent).zip(log_variance.chunks_exact_mut(latent));
        for (stats, (mean, log_variance)) in work.stats.chunks_exact(2 * latent).zip(rows) {
            mean.copy_from_slice(&stats[..latent]);
            log_variance.copy_from_slice(&stats[latent..]);
        }
    }

    pub(crate) fn decode(&mut self, parameters: &[f32], z: &[f32], pixels: &mut [f32]) {
        let images = pixels.len() / self.network.pixels;
        let (pass, work) = self.begin(parameters, images, 1.0);
        let mut work = work.single();
        for (element, z) in work.z.iter_mut().zip(z) {
            *element = E::round(*z);
        }
        pass.pixels(&mut work, pixels);
    }

    pub(crate) fn reconstruction(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        z: &[f32],
        losses: &mut [f64],
    ) {
        let binarize = self.binarize;
        let (pass, work) = self.begin(parameters, losses.len(), 1.0);
        let mut work = work.single();
        work.x = &mut work.x[..batch.len() * pass.network.pixels];
        element::gather(pass.isa, batch, binarize, work.x);
        for (element, z) in work.z.iter_mut().zip(z) {
            *element = E::round(*z);
        }
        pass.decode(&mut work);
        pass.likelihood(&mut work, losses);
    }

    pub(crate) fn reconstruct(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        stream: Stream,
        pixels: &mut [f32],
    ) {
        let (pass, work) = self.begin_batch(parameters, batch, stream, 1.0);
        let mut work = work.single();
        pass.encode(&mut work);
        pass.sample(&mut work);
        pass.pixels(&mut work, pixels);
    }
}

fn differentiate<E: Element>(
    pass: Pass<'_, E>,
    work: &mut Work<'_, E>,
    samples: usize,
    gradient: &mut [f32],
) -> Sums {
    let network = pass.network;
    assert_eq!(gradient.len(), network.layout.len(), "gradient and layout differ in length");
    network.layout.zero_padding(gradient);
    let bias_gradient = network.decoder[2].bias_gradient(gradient);
    if samples > 1 {
        let weighted = pass.forward_weighted(work, samples, bias_gradient);
        return pass.backward_weighted(work, &weighted, gradient);
    }
    let (sums, log_variance_gradient) = pass.forward(work, bias_gradient);
    if let Some(place) = network.log_variance {
        gradient[place] = log_variance_gradient;
    }
    pass.backward(work, gradient);
    sums
}
