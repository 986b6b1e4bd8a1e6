//! The use of a trained network: images are encoded to latents, and latents decoded to images.
//!
//! [`codec`] chooses the network by the architecture; its user need not know which one it is.

use std::fmt;

use data::{Batch, Stream};
use images::Images;
use model::{Autograd, Isa, Model, ModelError, autograd::Inputs, noise};
use tch::{Device, Tensor};
use vae_options::{Architecture, ModelConfig};

use crate::{
    ConvNet, Settings, Vae, conv_vae,
    objective::{Coder as _, errors},
};

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

/// The network of this configuration, on the CPU.
///
/// # Errors
///
/// As [`Vae::with`] and [`conv_vae`].
pub fn codec(config: &ModelConfig, settings: Settings) -> Result<Box<dyn Codec>, ModelError> {
    Ok(match config.architecture {
        Architecture::Dense => Box::new(Vae::with(config, settings)?),
        Architecture::Conv => Box::new(conv_vae(config, settings, Device::Cpu)?),
    })
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

impl<F> Codec for Autograd<Images, ConvNet, F>
where
    F: Fn(&ConvNet, &Inputs<'_, Images>) -> Vec<Tensor>,
{
    fn latent_dim(&self) -> usize {
        self.module().latent_dim()
    }

    fn pixels(&self) -> usize {
        self.module().pixels()
    }

    fn encode(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        mean: &mut [f32],
        log_variance: &mut [f32],
    ) -> Result<(), ModelError> {
        let (latent, device) = (self.latent_dim() as i64, self.device());
        assert_eq!(mean.len(), log_variance.len(), "means and log-variances differ in length");
        self.apply(parameters, |network| {
            let moments = network.encode(&gathered(batch, device));
            write(&moments.narrow(1, 0, latent), mean);
            write(&moments.narrow(1, latent, latent), log_variance);
        })
    }

    fn decode(
        &mut self,
        parameters: &[f32],
        z: &[f32],
        pixels: &mut [f32],
    ) -> Result<(), ModelError> {
        let (latent, device) = (self.latent_dim(), self.device());
        self.apply(parameters, |network| {
            let output = network.decode(&rows(z, latent, device));
            let expected = match network.log_variance() {
                None => output.sigmoid(),
                Some(_) => output.clamp(0.0, 1.0),
            };
            write(&expected, pixels);
        })
    }

    fn reconstruction(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        z: &[f32],
        losses: &mut [f64],
    ) -> Result<(), ModelError> {
        let (latent, device) = (self.latent_dim(), self.device());
        let samples = losses.len().checked_div(batch.len()).unwrap_or(0) as i64;
        self.apply(parameters, |network| {
            let output = network.decode(&rows(z, latent, device));
            let pixels = gathered(batch, device);
            let x = pixels.repeat_interleave_self_int(samples, 0, None::<i64>);
            let errors = errors(network, &x, &output).sum_dim_intlist(1, false, tch::Kind::Double);
            errors.to_device(Device::Cpu).copy_data(losses, losses.len());
        })
    }
}

/// The pixels of a batch as they are, one row per image.
fn gathered(batch: &Batch<'_, Images>, device: Device) -> Tensor {
    let width = batch.data.shape().bytes();
    let mut pixels = vec![0.0; batch.len() * width];
    batch.data.gather_pixels(batch.indices, &mut pixels);
    rows(&pixels, width, device)
}

fn rows(values: &[f32], width: usize, device: Device) -> Tensor {
    Tensor::from_slice(values).view([-1, width as i64]).to_device(device)
}

fn write(values: &Tensor, place: &mut [f32]) {
    values.to_device(Device::Cpu).contiguous().view(-1).copy_data(place, place.len());
}
