//! The log-likelihood of images, estimated by importance sampling.
//!
//! log p(x) >= E log 1/k sum p(x|z) p(z) / q(z|x) with z from q(z|x), the tighter the larger k
//! (Burda, Grosse and Salakhutdinov 2016). The cores share the images; each image has its own
//! noise, so the result does not depend on the number of cores.

use anyhow::Result;
use data::{Batch, Domain, Stream};
use images::Images;
use model::{Isa, noise};
use vae::{Codec, Settings};

use crate::{
    progress::Progress,
    threads,
    trained::{Latents, Trained},
};

/// Latents that are decoded together.
const ROWS: usize = 500;

/// A lower bound, in expectation, of log p(x) of every image, in nats, from `samples` latents each.
pub(crate) fn log_likelihoods(
    trained: &mut Trained,
    images: &Images,
    samples: usize,
    seed: u64,
) -> Result<Vec<f64>> {
    let latents = trained.encode(images)?;
    let share = images.len().div_ceil(threads::team().threads()).max(1);
    let bar = Progress::new("Sampling the likelihood", images.len());
    let (parameters, config) = (&trained.parameters[..], &trained.options.model());
    let mut found = vec![0.0; images.len()];
    // Each thread multiplies its own matrices, so no thread waits for another.
    let shares = found.chunks_mut(share).enumerate().collect();
    let outcomes = threads::map(shares, |(number, out)| -> Result<()> {
        let mut codec = vae_conv::codec(config, Settings::default())?;
        for (offset, out) in out.iter_mut().enumerate() {
            let image = Image { images, latents: &latents, index: number * share + offset };
            *out = image.log_likelihood(&mut *codec, parameters, samples, seed)?;
            bar.inc(1);
        }
        Ok(())
    });
    outcomes.into_iter().collect::<Result<()>>()?;
    Ok(found)
}

/// One of the images.
struct Image<'a> {
    images: &'a Images,
    latents: &'a Latents,
    index: usize,
}

impl Image<'_> {
    fn log_likelihood(
        &self,
        codec: &mut dyn Codec,
        parameters: &[f32],
        samples: usize,
        seed: u64,
    ) -> Result<f64> {
        let dim = self.latents.dim;
        let row = self.index * dim..(self.index + 1) * dim;
        let (mean, log_variance) =
            (&self.latents.mean[row.clone()], &self.latents.log_variance[row]);
        let deviation: Vec<f32> = log_variance.iter().map(|lv| (0.5 * lv).exp()).collect();
        let entropy: f64 = log_variance.iter().map(|lv| f64::from(*lv)).sum();
        let indices = [self.index as u32];
        let batch = Batch::of(self.images, &indices);
        let mut log_weights = Vec::with_capacity(samples);
        for (chunk, start) in (0..samples).step_by(ROWS).enumerate() {
            let rows = ROWS.min(samples - start);
            let mut noise = vec![0.0; rows * dim];
            let stream = Stream::new(seed, Domain::Evaluation, chunk as u64, self.index as u32);
            noise::normals(Isa::best(), stream, &mut noise);
            let draw = |(place, noise): (usize, &f32)| {
                deviation[place % dim].mul_add(*noise, mean[place % dim])
            };
            let z: Vec<f32> = noise.iter().enumerate().map(draw).collect();
            let mut losses = vec![0.0; rows];
            codec.reconstruction(parameters, &batch, &z, &mut losses)?;
            for (loss, (z, noise)) in losses.iter().zip(z.chunks(dim).zip(noise.chunks(dim))) {
                let square = |values: &[f32]| -> f64 {
                    values.iter().map(|value| f64::from(*value).powi(2)).sum()
                };
                log_weights.push(0.5 * (square(noise) - square(z) + entropy) - loss);
            }
        }
        Ok(log_mean_exp(&log_weights))
    }
}

/// The log of the mean of the exponentials, without overflow.
fn log_mean_exp(values: &[f64]) -> f64 {
    let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = values.iter().map(|value| (value - largest).exp()).sum();
    largest + (sum / values.len() as f64).ln()
}

#[cfg(test)]
mod tests {
    use images::PIXELS;
    use serde_json::json;
    use vae_options::{Likelihood, VaeOptions};

    use super::*;

    /// The change of a pixel per unit of the latent, the log-variance of a pixel, and a bias that keeps ReLU active.
    const SLOPE: f32 = 0.02;
    const LOG_VARIANCE: f32 = -0.6;
    const OPEN: f32 = 10.0;

    /// x = SLOPE z + 0.2 + noise for every pixel, and q(z|x) = N(0, 1) whatever x is.
    fn linear() -> Trained {
        let likelihood = Likelihood::Gaussian;
        let options =
            VaeOptions { hidden_dim: 1, latent_dim: 1, likelihood, ..VaeOptions::default() };
        let config = json!({
            "seed": 0, "shards": 1, "batch_size": 1, "learning_rate": 0.1,
            "train_examples": 1, "test_examples": 1,
            "task": options.describe(images::named::mnist()).unwrap()
        });
        let config: config::Training = serde_json::from_value(config).unwrap();
        let codec = vae_conv::codec(&options.model(), Settings::default()).unwrap();
        let mut parameters = vec![0.0; codec.layout().len()];
        for (name, value) in [
            ("decoder.0.weight", 1.0),
            ("decoder.0.bias", OPEN),
            ("decoder.2.weight", 1.0),
            ("decoder.4.weight", SLOPE),
            ("decoder.4.bias", 0.2 - SLOPE * OPEN),
            ("log_variance", LOG_VARIANCE),
        ] {
            parameters[codec.layout().range(name).unwrap()].fill(value);
        }
        let (path, sha256) = ("checkpoint".into(), String::new());
        Trained { path, config, options, step: 0, sha256, parameters, codec }
    }

    /// The pixels are jointly normal, with covariance variance I + SLOPE^2 1 1'. The matrix
    /// determinant lemma and the Sherman-Morrison formula give the density.
    fn exact(image: &[u8]) -> f64 {
        let (n, variance) = (PIXELS as f64, f64::from(LOG_VARIANCE).exp());
        let part = f64::from(SLOPE).powi(2) / variance;
        let rest = |level: &u8| f64::from(*level) / 255.0 - 0.2;
        let sum: f64 = image.iter().map(rest).sum();
        let squares: f64 = image.iter().map(|level| rest(level).powi(2)).sum();
        let distance = (squares - part * sum * sum / (1.0 + part * n)) / variance;
        let log_determinant = n * variance.ln() + (part * n).ln_1p();
        -0.5 * (n * std::f64::consts::TAU.ln() + log_determinant + distance)
    }

    #[test]
    fn of_a_linear_model_it_is_the_closed_form() {
        let pixels: Vec<u8> =
            (0..3 * PIXELS).map(|at| (at * at % 101 + at / PIXELS) as u8).collect();
        let images = Images::new(images::Shape::grey(28, 28), pixels, vec![0; 3]).unwrap();
        let found = log_likelihoods(&mut linear(), &images, 20_000, 1).unwrap();
        for (index, found) in found.into_iter().enumerate() {
            let expected = exact(images.image(index as u32));
            assert!((found - expected).abs() < 0.02, "{found} is not {expected}");
        }
    }

    #[test]
    fn the_mean_is_taken_of_the_exponentials() {
        assert!((log_mean_exp(&[-1000.0, -1000.0]) + 1000.0).abs() < 1e-12);
        let expected = ((1.0_f64.exp() + 3.0_f64.exp()) / 2.0).ln();
        assert!((log_mean_exp(&[1.0, 3.0]) - expected).abs() < 1e-12);
    }
}
