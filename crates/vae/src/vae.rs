//! The variational autoencoder, written by hand on slices for the CPU.
//!
//! Kingma and Welling, "Auto-encoding variational Bayes", 2014. The loss of an image is its
//! reconstruction error plus beta times KL(q(z|x) || N(0, 1)) (their appendix B). This file
//! checks lengths and chooses the precision; `computation.rs` keeps the memory, and the
//! computation is in `pass.rs`. The same objective in tch, as the oracle of tests, is in the crate `vae-conv`.

use std::sync::Arc;

use data::{Batch, Stream};
use images::Images;
use vae_options::{Binarize, ModelConfig, Precision, VaeOptions};

use model::{Bf16, Isa, Layout, Model, ModelError, StepContext, Sums, Team, initialise_linear};

use crate::{
    computation::Computation,
    network::{Network, side},
};

/// The most samples per image. More are useful for an evaluation, not for training.
pub(crate) const SAMPLES_MAX: usize = 1 << 16;

/// The number of terms that the VAE reports: the loss, the reconstruction, and the KL divergence without beta.
pub const TERMS: usize = 3;

/// The model with its working memory.
#[derive(Debug)]
pub struct Vae {
    computation: Precise,
    settings: Settings,
    beta: f64,
}

#[derive(Debug)]
enum Precise {
    F32(Computation<f32>),
    Bf16(Computation<Bf16>),
}

/// Evaluates the expression with `computation` bound to the one of the chosen precision.
macro_rules! with_computation {
    ($vae:expr, $computation:ident => $result:expr) => {
        match $vae {
            Precise::F32($computation) => $result,
            Precise::Bf16($computation) => $result,
        }
    };
}

/// The settings of a run besides the network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The number format of the factors of matrix products.
    pub precision: Precision,
    /// Latents drawn for each image. With more than one, the loss is the importance-weighted bound
    /// (see `importance.rs`).
    pub samples: u32,
    /// Whether grey pixels are made black or white.
    pub binarize: Binarize,
    /// Epochs in which the weight of the KL divergence grows from zero to beta.
    pub kl_warmup_epochs: u32,
}

impl Default for Settings {
    /// The plain VAE on grey pixels, in f32.
    fn default() -> Self {
        let (precision, binarize) = (Precision::F32, Binarize::None);
        Self { precision, samples: 1, binarize, kl_warmup_epochs: 0 }
    }
}

impl Settings {
    /// The settings of a run's options.
    #[must_use]
    pub const fn of(options: &VaeOptions) -> Self {
        Self {
            precision: options.precision,
            samples: options.importance_samples,
            binarize: options.binarize,
            kl_warmup_epochs: options.kl_warmup_epochs,
        }
    }

    /// The share of beta that applies in a step.
    #[must_use]
    pub fn kl_weight(&self, context: &StepContext) -> f64 {
        let warmup = context.steps_per_epoch * u64::from(self.kl_warmup_epochs);
        if context.step >= warmup { 1.0 } else { (context.step + 1) as f64 / warmup as f64 }
    }
}

impl Vae {
    /// The plain VAE on grey pixels in f32: [`Vae::with`] and the default settings.
    ///
    /// # Errors
    ///
    /// [`ModelError`] if a size is out of range or the vectors would not fit into memory.
    pub fn new(config: &ModelConfig) -> Result<Self, ModelError> {
        Self::with(config, Settings::default())
    }

    /// Checks the sizes. Working memory is allocated by [`Model::reserve`] or the first batch.
    ///
    /// # Errors
    ///
    /// As [`Vae::new`], and [`ModelError::Size`] for zero samples.
    pub fn with(config: &ModelConfig, settings: Settings) -> Result<Self, ModelError> {
        Self::with_isa(config, settings, Isa::best())
    }

    /// [`Vae::with`] for a chosen instruction set. The bits are the same for all.
    ///
    /// # Errors
    ///
    /// As [`Vae::with`].
    pub fn with_isa(
        config: &ModelConfig,
        settings: Settings,
        isa: Isa,
    ) -> Result<Self, ModelError> {
        let (network, beta) = (Network::new(config)?, config.beta);
        let samples = side("importance_samples", settings.samples, SAMPLES_MAX)?;
        let binarize = settings.binarize;
        let computation = match settings.precision {
            Precision::F32 => Precise::F32(Computation::new(network, beta, isa, samples, binarize)),
            Precision::Bf16 => {
                Precise::Bf16(Computation::new(network, beta, isa, samples, binarize))
            }
        };
        Ok(Self { computation, settings, beta })
    }

    fn network(&self) -> &Network {
        with_computation!(&self.computation, computation => computation.network())
    }

    /// Numbers of an image: pixels times channels.
    #[must_use]
    pub fn pixels(&self) -> usize {
        self.network().pixels
    }

    /// The number of dimensions of the latent space.
    #[must_use]
    pub fn latent_dim(&self) -> usize {
        self.network().latent
    }

    /// [`Model::gradient`] with given pixels from 0 to 1, `[n, pixels]`, and noise, `[n, samples, latent]`.
    ///
    /// # Panics
    ///
    /// If a length does not fit.
    pub fn gradient_from(
        &mut self,
        parameters: &[f32],
        pixels: &[f32],
        noise: &[f32],
        gradient: &mut [f32],
    ) -> Sums {
        let images = pixels.len() / self.pixels();
        assert_eq!(pixels.len(), images * self.pixels(), "pixels of {images} images");
        with_computation!(&mut self.computation, computation => {
            computation.gradient_from(parameters, pixels, noise, gradient)
        })
    }

    /// Writes mean and log-variance of q(z|x), each `[n, latent]`.
    ///
    /// # Panics
    ///
    /// If a length does not fit.
    pub fn encode(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        mean: &mut [f32],
        log_variance: &mut [f32],
    ) {
        let (images, latent) = (batch.len(), self.latent_dim());
        assert_eq!(mean.len(), images * latent, "means of {images} images");
        assert_eq!(log_variance.len(), images * latent, "log-variances of {images} images");
        with_computation!(&mut self.computation, computation => computation.encode(parameters, batch, mean, log_variance));
    }

    /// Writes the expected pixels from 0 to 1, `[n, pixels]`, for latents `[n, latent]`.
    ///
    /// # Panics
    ///
    /// If a length does not fit.
    pub fn decode(&mut self, parameters: &[f32], z: &[f32], pixels: &mut [f32]) {
        let images = z.len() / self.latent_dim();
        assert_eq!(z.len(), images * self.latent_dim(), "latents of {images} images");
        assert_eq!(pixels.len(), images * self.pixels(), "pixels of {images} images");
        with_computation!(&mut self.computation, computation => computation.decode(parameters, z, pixels));
    }

    /// Writes -log p(x|z) of every image for its k latents, in nats: `z` is `[n, k, latent]`,
    /// `losses` `[n, k]`.
    ///
    /// # Panics
    ///
    /// If a length does not fit.
    pub fn reconstruction(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        z: &[f32],
        losses: &mut [f64],
    ) {
        assert_eq!(z.len(), losses.len() * self.latent_dim(), "latents of {} losses", losses.len());
        let rows = losses.len().checked_div(batch.len()).unwrap_or(0);
        assert_eq!(losses.len(), rows * batch.len(), "losses of {} images", batch.len());
        with_computation!(&mut self.computation, computation => computation.reconstruction(parameters, batch, z, losses));
    }

    /// Writes the expected pixels from 0 to 1, `[n, pixels]`, for latents sampled from q(z|x).
    ///
    /// # Panics
    ///
    /// If a length does not fit.
    pub fn reconstruct(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        noise: Stream,
        pixels: &mut [f32],
    ) {
        let images = batch.len();
        assert_eq!(pixels.len(), images * self.pixels(), "pixels of {images} images");
        with_computation!(&mut self.computation, computation => computation.reconstruct(parameters, batch, noise, pixels));
    }
}

impl Model for Vae {
    type Data = Images;

    fn layout(&self) -> &Layout {
        &self.network().layout
    }

    fn initialise(&self, seed: u64, parameters: &mut [f32]) {
        initialise_linear(self.layout(), seed, parameters);
    }

    fn set_team(&mut self, team: Arc<Team>) {
        with_computation!(&mut self.computation, computation => computation.set_team(team));
    }

    fn factors(&self, context: &StepContext) -> Vec<(&'static str, f64)> {
        vec![("kl_weight", self.beta * self.settings.kl_weight(context))]
    }

    fn reserve(&mut self, images: usize) -> Result<(), ModelError> {
        with_computation!(&mut self.computation, computation => computation.reserve(images))
    }

    fn gradient(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        context: &StepContext,
        gradient: &mut [f32],
    ) -> Result<Sums, ModelError> {
        let (random, kl_weight) = (context.random, self.settings.kl_weight(context));
        Ok(with_computation!(&mut self.computation, computation => {
            computation.gradient(parameters, batch, random, kl_weight, gradient)
        }))
    }

    fn evaluate(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        random: Stream,
    ) -> Result<Sums, ModelError> {
        Ok(
            with_computation!(&mut self.computation, computation => computation.evaluate(parameters, batch, random)),
        )
    }
}

#[cfg(test)]
mod tests {
    use data::Domain;

    use super::*;

    #[test]
    fn the_divergence_counts_more_with_every_step_of_the_warm_up() {
        let random = Stream::new(0, Domain::Noise, 0, 0);
        let at = |kl_warmup_epochs, step| {
            let settings = Settings { kl_warmup_epochs, ..Settings::default() };
            settings.kl_weight(&StepContext { step, steps_per_epoch: 10, steps: 50, random })
        };
        assert_eq!([0, 9, 19, 20, 1000].map(|step| at(2, step)), [0.05, 0.5, 1.0, 1.0, 1.0]);
        assert_eq!(at(0, 0), 1.0);
    }
}
