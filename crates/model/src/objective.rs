//! The VAE's objective in plain tch operations: what `pass.rs` computes by hand, for the
//! other devices and as the oracle that the tests compare with. Start there for the words.

use std::f64::consts::TAU;

use config::{Likelihood, ModelConfig};
use tch::{Device, Reduction, Tensor};

use crate::{
    Autograd, ModelError, TERMS,
    autograd::{Inputs, Parameters},
    network::Network,
    vae::VAE_TERMS,
};

/// A function that gives the sums over a batch: loss, reconstruction, KL without beta. The
/// parameters are those of [`crate::Vae`].
pub fn vae_objective(
    config: &ModelConfig,
) -> impl Fn(&Parameters, &Inputs) -> [Tensor; TERMS] + use<> {
    let ModelConfig { latent_dim, likelihood, beta, .. } = *config;
    let latent = i64::from(latent_dim);
    move |parameters, inputs| {
        let x = &inputs.pixels;
        let h = parameters.linear("encoder.0", x).relu();
        let h = parameters.linear("encoder.2", &h).relu();
        let stats = parameters.linear("encoder.4", &h);
        let mean = stats.narrow(1, 0, latent);
        let log_variance = stats.narrow(1, latent, latent);
        let noise = inputs.normals(x.size()[0], latent);
        let z = &mean + (&log_variance * 0.5).exp() * noise;
        let h = parameters.linear("decoder.0", &z).relu();
        let h = parameters.linear("decoder.2", &h).relu();
        let output = parameters.linear("decoder.4", &h);
        let reconstruction = match likelihood {
            Likelihood::Bernoulli => {
                output.binary_cross_entropy_with_logits::<&Tensor>(x, None, None, Reduction::Sum)
            }
            Likelihood::Gaussian => {
                let log_variance = &parameters["log_variance"];
                let squares = (x - output).square() * (-log_variance).exp();
                (squares + log_variance + TAU.ln()).sum(None) * 0.5
            }
        };
        let kl = (mean.square() + log_variance.exp() - 1.0 - &log_variance).sum(None) * 0.5;
        let loss = &reconstruction + &kl * beta;
        [loss, reconstruction, kl]
    }
}

/// The VAE through libtorch's autograd, on `device`.
///
/// # Errors
///
/// As [`crate::Vae::new`].
pub fn vae_autograd(
    config: &ModelConfig,
    device: Device,
) -> Result<Autograd<impl Fn(&Parameters, &Inputs) -> [Tensor; TERMS] + use<>>, ModelError> {
    let layout = Network::new(config)?.layout;
    Ok(Autograd::new(layout, VAE_TERMS, device, vae_objective(config)))
}
