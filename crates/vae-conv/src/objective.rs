//! The VAE's objective in plain tch operations: that of the network with convolutions, and the oracle of the tests of
//! dense layers. The terms are those of `pass.rs` in the crate `vae`.

use std::f64::consts::TAU;

use autograd::{Autograd, Inputs, Parameters};
use images::Images;
use model::{Device, Model, ModelError};
use tch::{Reduction, Tensor};
use vae::Settings;
use vae_options::{Binarize, ModelConfig};

/// The network as the objective sees it.
pub trait Coder {
    /// Means and log-variances of the latents, `[n, 2 latent]`, for pixels `[n, width]`.
    fn encode(&self, pixels: &Tensor) -> Tensor;

    /// Decodes latents `[n, latent]` to each pixel's logit, or to its mean with the Gaussian likelihood:
    /// `[n, width]`.
    fn decode(&self, z: &Tensor) -> Tensor;

    /// The log-variance of all pixels; only with the Gaussian likelihood.
    fn log_variance(&self) -> Option<&Tensor>;
}

/// The parameters of [`vae::Vae`].
impl Coder for Parameters {
    fn encode(&self, pixels: &Tensor) -> Tensor {
        let h = self.linear("encoder.0", pixels).relu();
        self.linear("encoder.4", &self.linear("encoder.2", &h).relu())
    }

    fn decode(&self, z: &Tensor) -> Tensor {
        let h = self.linear("decoder.0", z).relu();
        self.linear("decoder.4", &self.linear("decoder.2", &h).relu())
    }

    fn log_variance(&self) -> Option<&Tensor> {
        self.get("log_variance")
    }
}

/// A function that returns the sums over a batch: loss, reconstruction, KL without beta. The
/// settings' precision is ignored.
pub(crate) fn objective<N: Coder>(
    config: &ModelConfig,
    settings: Settings,
) -> impl Fn(&N, &Inputs<'_, Images>) -> Vec<Tensor> + use<N> {
    let ModelConfig { latent_dim, beta, .. } = *config;
    let (latent, samples) = (i64::from(latent_dim), i64::from(settings.samples));
    move |network, inputs| {
        let pixels = pixels(inputs, settings.binarize);
        let x = pixels.repeat_interleave_self_int(samples, 0, None::<i64>);
        let stats = network.encode(&pixels);
        let (mean, log_variance) = (stats.narrow(1, 0, latent), stats.narrow(1, latent, latent));
        let kl = (mean.square() + log_variance.exp() - 1.0 - &log_variance).sum(None) * 0.5;

        let stats = stats.repeat_interleave_self_int(samples, 0, None::<i64>);
        let (mean, log_variance) = (stats.narrow(1, 0, latent), stats.narrow(1, latent, latent));
        let noise = inputs.normals(&[x.size()[0], latent]);
        let z = &mean + (&log_variance * 0.5).exp() * noise;
        let output = network.decode(&z);
        let errors = errors(network, &x, &output);
        let beta = beta * inputs.context.map_or(1.0, |context| settings.kl_weight(&context));
        let reconstruction = errors.sum(None) / samples as f64;
        let loss = if samples == 1 {
            &reconstruction + &kl * beta
        } else {
            let errors = errors.sum_dim_intlist(1, false, None);
            let prior = log_normal(&z, &z.zeros_like(), &z.zeros_like());
            let ratios =
                (prior - log_normal(&z, &mean, &log_variance)).sum_dim_intlist(1, false, None);
            let log_weights = (ratios * beta - errors).view([-1, samples]);
            ((samples as f64).ln() - log_weights.logsumexp(1, false)).sum(None)
        };
        vec![loss, reconstruction, kl]
    }
}

/// The batch's pixels from 0 to 1, one row per image, as drawn for this visit.
fn pixels(inputs: &Inputs<'_, Images>, binarize: Binarize) -> Tensor {
    let width = inputs.batch.data.shape().bytes();
    let mut pixels = vec![0.0; inputs.batch.len() * width];
    vae::gather(inputs.batch, binarize, &mut pixels);
    inputs.rows(&pixels, width)
}

/// -log p(x|z) of every pixel, for the decoder's output.
pub(crate) fn errors<N: Coder>(network: &N, x: &Tensor, output: &Tensor) -> Tensor {
    match network.log_variance() {
        None => output.binary_cross_entropy_with_logits::<&Tensor>(x, None, None, Reduction::None),
        Some(log_variance) => -log_normal(x, output, log_variance),
    }
}

/// The log density of a normal distribution, elementwise.
fn log_normal(x: &Tensor, mean: &Tensor, log_variance: &Tensor) -> Tensor {
    ((x - mean).square() * (-log_variance).exp() + log_variance + TAU.ln()) * -0.5
}

/// The VAE with dense layers through libtorch's autograd, on `device`.
///
/// # Errors
///
/// As [`vae::Vae::new`], and [`ModelError::Libtorch`] if the device fails.
pub fn vae_autograd(
    config: &ModelConfig,
    settings: Settings,
    device: Device,
) -> Result<impl Model<Data = Images> + use<>, ModelError> {
    Autograd::of_layout(vae::layout(config)?, device, objective(config, settings))
}
