//! The use of a trained network: images are encoded to latents, and latents decoded to images. The user need not know
//! which network it is.

use std::fmt;

use data::{Batch, Stream};
use images::Images;
use model::{Isa, Model, ModelError, noise};

use crate::Vae;

/// A network that encodes and decodes.
///
/// # Panics
///
/// The methods panic if the length of a slice does not fit.
pub trait Codec: Model<Data = Images> + fmt::Debug {
    /// The number of dimensions of the latent space.
    fn latent_dim(&self) -> usize;

    /// Numbers of an image.
    fn pixels(&self) -> usize;

    /// Writes mean and log-variance of q(z|x), each `[n, latent]`.
    ///
    /// # Errors
    ///
    /// As [`Model::gradient`]. The same holds for the other methods.
    fn encode(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        mean: &mut [f32],
        log_variance: &mut [f32],
    ) -> Result<(), ModelError>;

    /// Writes the expected pixels, 0 to 1, `[n, pixels]`, for latents `[n, latent]`.
    fn decode(
        &mut self,
        parameters: &[f32],
        z: &[f32],
        pixels: &mut [f32],
    ) -> Result<(), ModelError>;

    /// Writes -log p(x|z) of every image for its k latents, in nats: `z` is `[n, k, latent]`,
    /// `losses` `[n, k]`.
    fn reconstruction(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        z: &[f32],
        losses: &mut [f64],
    ) -> Result<(), ModelError>;

    /// Writes the expected pixels, 0 to 1, `[n, pixels]`, for latents sampled from q(z|x).
    fn reconstruct(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        noise: Stream,
        pixels: &mut [f32],
    ) -> Result<(), ModelError> {
        let len = batch.len() * self.latent_dim();
        let (mut mean, mut log_variance, mut z) = (vec![0.0; len], vec![0.0; len], vec![0.0; len]);
        self.encode(parameters, batch, &mut mean, &mut log_variance)?;
        noise::normals(Isa::best(), noise, &mut z);
        for (z, (mean, log_variance)) in z.iter_mut().zip(mean.iter().zip(&log_variance)) {
            *z = mean + (0.5 * log_variance).exp() * *z;
        }
        self.decode(parameters, &z, pixels)
    }
}

impl Codec for Vae {
    fn latent_dim(&self) -> usize {
        self.latent_dim()
    }

    fn pixels(&self) -> usize {
        self.pixels()
    }

    fn encode(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        mean: &mut [f32],
        log_variance: &mut [f32],
    ) -> Result<(), ModelError> {
        self.encode(parameters, batch, mean, log_variance);
        Ok(())
    }

    fn decode(
        &mut self,
        parameters: &[f32],
        z: &[f32],
        pixels: &mut [f32],
    ) -> Result<(), ModelError> {
        self.decode(parameters, z, pixels);
        Ok(())
    }

    fn reconstruction(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        z: &[f32],
        losses: &mut [f64],
    ) -> Result<(), ModelError> {
        self.reconstruction(parameters, batch, z, losses);
        Ok(())
    }

    fn reconstruct(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        noise: Stream,
        pixels: &mut [f32],
    ) -> Result<(), ModelError> {
        self.reconstruct(parameters, batch, noise, pixels);
        Ok(())
    }
}
