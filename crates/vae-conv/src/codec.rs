//! The network with convolutions as a model that also encodes and decodes.

use std::{fmt, sync::Arc};

use autograd::{Autograd, Inputs};
use data::{Batch, Stream};
use images::Images;
use model::{Layout, Model, ModelError, StepContext, Sums, Team};
use tch::{Device, Tensor};
use vae::Codec;

use crate::{
    ConvNet,
    objective::{Coder as _, errors},
};

/// The model of an objective.
pub(crate) struct ConvVae<F>(pub(crate) Autograd<Images, ConvNet, F>);

impl<F> fmt::Debug for ConvVae<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<F> Model for ConvVae<F>
where
    F: Fn(&ConvNet, &Inputs<'_, Images>) -> Vec<Tensor>,
{
    type Data = Images;

    fn layout(&self) -> &Layout {
        self.0.layout()
    }

    fn initialise(&self, seed: u64, parameters: &mut [f32]) {
        self.0.initialise(seed, parameters);
    }

    fn set_team(&mut self, team: Arc<Team>) {
        self.0.set_team(team);
    }

    fn fix_threads(&mut self, threads: u32) {
        self.0.fix_threads(threads);
    }

    fn gradient(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        context: &StepContext,
        gradient: &mut [f32],
    ) -> Result<Sums, ModelError> {
        self.0.gradient(parameters, batch, context, gradient)
    }

    fn evaluate(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        random: Stream,
    ) -> Result<Sums, ModelError> {
        self.0.evaluate(parameters, batch, random)
    }
}

impl<F> Codec for ConvVae<F>
where
    F: Fn(&ConvNet, &Inputs<'_, Images>) -> Vec<Tensor>,
{
    fn latent_dim(&self) -> usize {
        self.0.module().latent_dim()
    }

    fn pixels(&self) -> usize {
        self.0.module().pixels()
    }

    fn encode(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        mean: &mut [f32],
        log_variance: &mut [f32],
    ) -> Result<(), ModelError> {
        let (latent, device) = (self.latent_dim() as i64, self.0.device());
        assert_eq!(mean.len(), log_variance.len(), "means and log-variances differ in length");
        self.0.apply(parameters, |network| {
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
        let (latent, device) = (self.latent_dim(), self.0.device());
        self.0.apply(parameters, |network| {
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
        let (latent, device) = (self.latent_dim(), self.0.device());
        let samples = losses.len().checked_div(batch.len()).unwrap_or(0) as i64;
        self.0.apply(parameters, |network| {
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
