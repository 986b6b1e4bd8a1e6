//! The variational autoencoder, computed by hand on slices for the CPU.
//!
//! Kingma and Welling, "Auto-encoding variational Bayes", 2014. The loss of an image is its
//! reconstruction error plus beta times KL(q(z|x) || N(0, 1)) (their appendix B). This file
//! fetches pixels and noise and keeps the memory; the computation is in `pass.rs`. The same
//! objective in tch, for other devices and as the oracle of the tests, is in `objective.rs`.

use config::ModelConfig;
use data::{Batch, PIXELS, Stream};

use crate::{
    Isa, Layout, Model, ModelError, Sums, TERMS, blas, initialise_linear,
    network::Network,
    noise,
    pass::{Pass, WORK, Work},
    scratch::Scratch,
};

/// The names of the VAE's sums; kl is without beta.
pub(crate) const VAE_TERMS: [&str; TERMS] = ["loss", "reconstruction", "kl"];

/// The model with its working memory.
#[derive(Debug)]
pub struct Vae {
    network: Network,
    beta: f64,
    isa: Isa,
    /// Pixels and noise.
    inputs: Scratch<2>,
    work: Scratch<WORK>,
}

impl Vae {
    /// Checks the sizes; working memory comes with [`Model::reserve`] or the first batch.
    ///
    /// # Errors
    ///
    /// [`ModelError`] where a size is out of range or its vectors would not fit into memory.
    pub fn new(config: &ModelConfig) -> Result<Self, ModelError> {
        Self::with_isa(config, Isa::best())
    }

    /// [`Vae::new`] with a chosen instruction set; the bits are the same for all.
    ///
    /// # Errors
    ///
    /// As [`Vae::new`].
    pub fn with_isa(config: &ModelConfig, isa: Isa) -> Result<Self, ModelError> {
        blas::deterministic();
        let network = Network::new(config)?;
        Ok(Self {
            inputs: Scratch::new([PIXELS, network.latent]),
            work: Scratch::new(Work::floats_per_image(&network)),
            network,
            beta: config.beta,
            isa,
        })
    }

    /// Dimensions of the latent space.
    #[must_use]
    pub const fn latent_dim(&self) -> usize {
        self.network.latent
    }

    /// [`Model::gradient`] with given pixels, 0 to 1, `[n, 784]`, and noise, `[n, latent]`.
    ///
    /// # Panics
    ///
    /// Where a length does not fit.
    pub fn gradient_from(
        &mut self,
        parameters: &[f32],
        pixels: &[f32],
        noise: &[f32],
        gradient: &mut [f32],
    ) -> Sums {
        let images = noise.len() / self.network.latent;
        assert_eq!(noise.len(), images * self.network.latent, "noise of {images} images");
        assert_eq!(pixels.len(), images * PIXELS, "pixels of {images} images");
        let mut work = Work::new(&mut self.work, images);
        let pass = pass(&self.network, self.isa, self.beta, parameters);
        differentiate(pass, pixels, noise, &mut work, gradient)
    }

    /// Writes mean and log-variance of q(z|x), each `[n, latent]`.
    ///
    /// # Panics
    ///
    /// Where a length does not fit.
    pub fn encode(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_>,
        mean: &mut [f32],
        log_variance: &mut [f32],
    ) {
        let (images, latent) = (batch.len(), self.network.latent);
        assert_eq!(mean.len(), images * latent, "means of {images} images");
        assert_eq!(log_variance.len(), images * latent, "log-variances of {images} images");
        let [x, _] = self.inputs.slices(images);
        batch.gather_pixels(x);
        let mut work = Work::new(&mut self.work, images);
        pass(&self.network, self.isa, self.beta, parameters).encode(x, &mut work);
        let rows = mean.chunks_exact_mut(latent).zip(log_variance.chunks_exact_mut(latent));
        for (stats, (mean, log_variance)) in work.stats.chunks_exact(2 * latent).zip(rows) {
            mean.copy_from_slice(&stats[..latent]);
            log_variance.copy_from_slice(&stats[latent..]);
        }
    }

    /// Writes the expected pixels, 0 to 1, `[n, 784]`, for latents `[n, latent]`.
    ///
    /// # Panics
    ///
    /// Where a length does not fit.
    pub fn decode(&mut self, parameters: &[f32], z: &[f32], pixels: &mut [f32]) {
        let images = z.len() / self.network.latent;
        assert_eq!(z.len(), images * self.network.latent, "latents of {images} images");
        assert_eq!(pixels.len(), images * PIXELS, "pixels of {images} images");
        let mut work = Work::new(&mut self.work, images);
        work.z.copy_from_slice(z);
        pass(&self.network, self.isa, self.beta, parameters).pixels(&mut work, pixels);
    }

    /// Writes the expected pixels, 0 to 1, `[n, 784]`, for latents sampled from q(z|x).
    ///
    /// # Panics
    ///
    /// Where a length does not fit.
    pub fn reconstruct(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_>,
        noise: Stream,
        pixels: &mut [f32],
    ) {
        let images = batch.len();
        assert_eq!(pixels.len(), images * PIXELS, "pixels of {images} images");
        let (x, noise) = gather(&mut self.inputs, self.isa, batch, noise);
        let mut work = Work::new(&mut self.work, images);
        let pass = pass(&self.network, self.isa, self.beta, parameters);
        pass.encode(x, &mut work);
        pass.sample(noise, &mut work);
        pass.pixels(&mut work, pixels);
    }
}

impl Model for Vae {
    fn layout(&self) -> &Layout {
        &self.network.layout
    }

    fn terms(&self) -> [&'static str; TERMS] {
        VAE_TERMS
    }

    fn initialise(&self, seed: u64, parameters: &mut [f32]) {
        initialise_linear(&self.network.layout, seed, parameters);
    }

    fn reserve(&mut self, images: usize) -> Result<(), ModelError> {
        self.inputs.reserve(images)?;
        self.work.reserve(images)
    }

    fn gradient(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_>,
        noise: Stream,
        gradient: &mut [f32],
    ) -> Sums {
        let (x, noise) = gather(&mut self.inputs, self.isa, batch, noise);
        let mut work = Work::new(&mut self.work, batch.len());
        let pass = pass(&self.network, self.isa, self.beta, parameters);
        differentiate(pass, x, noise, &mut work, gradient)
    }

    fn evaluate(&mut self, parameters: &[f32], batch: &Batch<'_>, noise: Stream) -> Sums {
        let (x, noise) = gather(&mut self.inputs, self.isa, batch, noise);
        let mut work = Work::new(&mut self.work, batch.len());
        let mut unused = [0.0; PIXELS];
        let pass = pass(&self.network, self.isa, self.beta, parameters);
        pass.forward(x, noise, &mut work, &mut unused).0
    }
}

fn pass<'a>(network: &'a Network, isa: Isa, beta: f64, parameters: &'a [f32]) -> Pass<'a> {
    assert_eq!(parameters.len(), network.layout.len(), "parameters and layout differ in length");
    Pass { network, isa, beta, parameters }
}

/// The batch's pixels and noise.
fn gather<'a>(
    inputs: &'a mut Scratch<2>,
    isa: Isa,
    batch: &Batch<'_>,
    stream: Stream,
) -> (&'a [f32], &'a [f32]) {
    let [x, noise] = inputs.slices(batch.len());
    batch.gather_pixels(x);
    noise::normals(isa, stream, noise);
    (x, noise)
}

fn differentiate(
    pass: Pass<'_>,
    x: &[f32],
    noise: &[f32],
    work: &mut Work<'_>,
    gradient: &mut [f32],
) -> Sums {
    let network = pass.network;
    assert_eq!(gradient.len(), network.layout.len(), "gradient and layout differ in length");
    network.layout.zero_padding(gradient);
    let bias_gradient = network.decoder[2].bias_gradient(gradient);
    let (sums, log_variance_gradient) = pass.forward(x, noise, work, bias_gradient);
    if let Some(place) = network.log_variance {
        gradient[place] = log_variance_gradient;
    }
    pass.backward(x, noise, work, gradient);
    sums
}
