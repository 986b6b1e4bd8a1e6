//! The use of a trained network with convolutions.

use autograd::{Autograd, Inputs};
use data::Batch;
use images::Images;
use model::ModelError;
use tch::{Device, Tensor};
use vae::Codec;

use crate::{
    ConvNet,
    objective::{Coder as _, errors},
};

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
