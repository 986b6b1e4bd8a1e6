//! The variational autoencoder, computed by hand on slices for the CPU.
//!
//! Kingma and Welling, "Auto-encoding variational Bayes", 2014. The loss of an image is its
//! reconstruction error plus beta times KL(q(z|x) || N(0, 1)) (their appendix B). This file
//! checks lengths and chooses the precision; `engine.rs` keeps the memory, and the
//! computation is in `pass.rs`. The same
//! objective in tch, for other devices and as the oracle of the tests, is in `objective.rs`.

use std::sync::Arc;

use config::{ModelConfig, Precision};
use data::{Batch, PIXELS, Stream};

use crate::{
    Bf16, Isa, Layout, Model, ModelError, Sums, TERMS, blas,
    engine::Engine,
    gemm::Factor,
    initialise_linear,
    network::{Network, side},
    team::Team,
};

/// More samples an image than this are for an evaluation, not for training.
const SAMPLES_MAX: usize = 1 << 16;

/// The names of the VAE's sums; kl is without beta.
pub(crate) const VAE_TERMS: [&str; TERMS] = ["loss", "reconstruction", "kl"];

/// The model with its working memory.
#[derive(Debug)]
pub struct Vae(Precise);

#[derive(Debug)]
enum Precise {
    F32(Engine<f32>),
    Bf16(Engine<Bf16>),
}

/// The expression with `engine` standing for the one there is.
macro_rules! with_engine {
    ($vae:expr, $engine:ident => $result:expr) => {
        match $vae {
            Precise::F32($engine) => $result,
            Precise::Bf16($engine) => $result,
        }
    };
}

impl Vae {
    /// Checks the sizes; working memory comes with [`Model::reserve`] or the first batch.
    /// It computes in f32.
    ///
    /// # Errors
    ///
    /// [`ModelError`] where a size is out of range or its vectors would not fit into memory.
    pub fn new(config: &ModelConfig) -> Result<Self, ModelError> {
        Self::with_precision(config, Precision::F32)
    }

    /// [`Vae::new`] with factors of matrix products in the given precision.
    ///
    /// # Errors
    ///
    /// As [`Vae::new`], and [`ModelError::Precision`] where the BLAS lacks it.
    pub fn with_precision(config: &ModelConfig, precision: Precision) -> Result<Self, ModelError> {
        Self::with_isa(config, precision, Isa::best())
    }

    /// [`Vae::with_precision`] with a chosen instruction set for all but matrix products; the
    /// bits are the same for all.
    ///
    /// # Errors
    ///
    /// As [`Vae::with_precision`].
    pub fn with_isa(
        config: &ModelConfig,
        precision: Precision,
        isa: Isa,
    ) -> Result<Self, ModelError> {
        Self::with_samples(config, precision, isa, 1)
    }

    /// [`Vae::with_isa`] with the importance-weighted bound of `samples` latents an image as
    /// its loss (see `importance.rs`); one is the plain VAE.
    ///
    /// # Errors
    ///
    /// As [`Vae::with_precision`], and [`ModelError::Size`] for no samples.
    pub fn with_samples(
        config: &ModelConfig,
        precision: Precision,
        isa: Isa,
        samples: u32,
    ) -> Result<Self, ModelError> {
        blas::deterministic();
        let (network, beta) = (Network::new(config)?, config.beta);
        let samples = side("importance_samples", samples, SAMPLES_MAX)?;
        Ok(Self(match precision {
            Precision::F32 => Precise::F32(Engine::new(network, beta, isa, samples)),
            Precision::Bf16 if Bf16::routine().is_none() => {
                return Err(ModelError::Precision("bf16"));
            }
            Precision::Bf16 => Precise::Bf16(Engine::new(network, beta, isa, samples)),
        }))
    }

    fn network(&self) -> &Network {
        with_engine!(&self.0, engine => engine.network())
    }

    /// Dimensions of the latent space.
    #[must_use]
    pub fn latent_dim(&self) -> usize {
        self.network().latent
    }

    /// [`Model::gradient`] with given pixels, 0 to 1, `[n, 784]`, and noise, `[n, samples, latent]`.
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
        let images = pixels.len() / PIXELS;
        assert_eq!(pixels.len(), images * PIXELS, "pixels of {images} images");
        with_engine!(&mut self.0, engine => {
            engine.gradient_from(parameters, pixels, noise, gradient)
        })
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
        let (images, latent) = (batch.len(), self.latent_dim());
        assert_eq!(mean.len(), images * latent, "means of {images} images");
        assert_eq!(log_variance.len(), images * latent, "log-variances of {images} images");
        with_engine!(&mut self.0, engine => engine.encode(parameters, batch, mean, log_variance));
    }

    /// Writes the expected pixels, 0 to 1, `[n, 784]`, for latents `[n, latent]`.
    ///
    /// # Panics
    ///
    /// Where a length does not fit.
    pub fn decode(&mut self, parameters: &[f32], z: &[f32], pixels: &mut [f32]) {
        let images = z.len() / self.latent_dim();
        assert_eq!(z.len(), images * self.latent_dim(), "latents of {images} images");
        assert_eq!(pixels.len(), images * PIXELS, "pixels of {images} images");
        with_engine!(&mut self.0, engine => engine.decode(parameters, z, pixels));
    }

    /// Writes -log p(x|z) of every image for its k latents, in nats: `z` is `[n, k, latent]`,
    /// `losses` `[n, k]`.
    ///
    /// # Panics
    ///
    /// Where a length does not fit.
    pub fn reconstruction(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_>,
        z: &[f32],
        losses: &mut [f64],
    ) {
        assert_eq!(z.len(), losses.len() * self.latent_dim(), "latents of {} losses", losses.len());
        let rows = losses.len().checked_div(batch.len()).unwrap_or(0);
        assert_eq!(losses.len(), rows * batch.len(), "losses of {} images", batch.len());
        with_engine!(&mut self.0, engine => engine.reconstruction(parameters, batch, z, losses));
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
        with_engine!(&mut self.0, engine => engine.reconstruct(parameters, batch, noise, pixels));
    }
}

impl Model for Vae {
    fn layout(&self) -> &Layout {
        &self.network().layout
    }

    fn terms(&self) -> [&'static str; TERMS] {
        VAE_TERMS
    }

    fn initialise(&self, seed: u64, parameters: &mut [f32]) {
        initialise_linear(self.layout(), seed, parameters);
    }

    fn set_team(&mut self, team: Arc<Team>) {
        // A product of one of its threads must not start threads of its own.
        tch::set_num_threads(1);
        with_engine!(&mut self.0, engine => engine.set_team(team));
    }

    fn reserve(&mut self, images: usize) -> Result<(), ModelError> {
        with_engine!(&mut self.0, engine => engine.reserve(images))
    }

    fn set_kl_weight(&mut self, weight: f64) {
        with_engine!(&mut self.0, engine => engine.set_kl_weight(weight));
    }

    fn gradient(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_>,
        noise: Stream,
        gradient: &mut [f32],
    ) -> Sums {
        with_engine!(&mut self.0, engine => engine.gradient(parameters, batch, noise, gradient))
    }

    fn evaluate(&mut self, parameters: &[f32], batch: &Batch<'_>, noise: Stream) -> Sums {
        with_engine!(&mut self.0, engine => engine.evaluate(parameters, batch, noise))
    }
}
