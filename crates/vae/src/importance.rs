//! The importance-weighted bound with k latents per image, forward and backward.
//!
//! Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders", 2016. The loss of an
//! image is -log of the mean of w_1..w_k with w = p(x|z) (p(z) / q(z|x))^beta. With z = mean +
//! deviation * noise, log q(z|x) depends on the parameters through the log-variance alone, so
//!
//! log p(z) - log q(z|x) = 1/2 sum(noise^2 - z^2 + log-variance),
//!
//! and the gradient of the loss is the mean of the gradients of -log w under the normalised weights. This
//! file knows rows and weights; the passes through the layers are those of the plain loss, in `pass.rs`.

use model::{
    kernel,
    math::{exp, ln},
};

use crate::{element::Element, kernels::sum, pass::ForwardBackward, work::Work};

impl<E: Element> ForwardBackward<'_, E> {
    /// As [`ForwardBackward::sample`], and also computes the log-ratio of each row.
    pub(crate) fn sample_rows(&self, work: &mut Work<'_, E>) {
        let terms = &mut work.dz[..self.network.latent];
        let Work { stats, noise, deviation, z, divergences, ratios, samples, .. } = work;
        sample_rows(self.isa, stats, noise, deviation, z, terms, divergences, ratios, *samples);
    }

    /// Computes the bound of each image and the weights of its rows, and multiplies the gradient of the output
    /// by the weights.
    pub(crate) fn weigh_rows(&self, work: &mut Work<'_, E>) {
        let Work { losses, ratios, weights, bounds, d_output, samples, .. } = work;
        let rows = losses.chunks_exact(*samples).zip(ratios.chunks_exact(*samples));
        for (((losses, ratios), weights), bound) in
            rows.zip(weights.chunks_exact_mut(*samples)).zip(bounds.iter_mut())
        {
            let log_weight = |(loss, ratio): (&f64, &f64)| self.beta * ratio - loss;
            *bound = normalise(losses.iter().zip(ratios).map(log_weight), weights);
        }
        weigh(self.isa, weights, d_output, self.network.pixels);
    }

    /// As `kernels::sample_backward`, for the weighted gradients of all rows.
    pub(crate) fn sample_rows_backward(&self, work: &mut Work<'_, E>) {
        let rows =
            Rows { samples: work.samples, latent: self.network.latent, beta: self.beta as f32 };
        let Work { y, dz, noise, stats, deviation, weights, d_stats, .. } = work;
        let sums = &mut y[..2 * rows.latent];
        sample_rows_backward(self.isa, dz, noise, stats, deviation, weights, rows, sums, d_stats);
    }
}

/// Latents per image, their dimensions, and the weight of the KL divergence.
#[derive(Clone, Copy, Debug)]
struct Rows {
    samples: usize,
    latent: usize,
    beta: f32,
}

/// Writes the normalised weights; returns -log of the mean weight.
fn normalise(log_weights: impl Iterator<Item = f64> + Clone, weights: &mut [f32]) -> f64 {
    let largest = log_weights.clone().fold(f64::NEG_INFINITY, f64::max);
    let mut total = 0.0_f32;
    for (weight, log_weight) in weights.iter_mut().zip(log_weights) {
        *weight = exp((log_weight - largest) as f32);
        total += *weight;
    }
    weights.iter_mut().for_each(|weight| *weight /= total);
    -(largest + f64::from(ln(total / weights.len() as f32)))
}

kernel! {
    /// As `kernels::sample`, for `samples` rows of noise per image. The sums of
    /// log p(z) - log q(z|x) are written to `ratios`.
    fn sample_rows<E: Element>(
        stats: &[f32],
        noise: &[f32],
        deviation: &mut [f32],
        z: &mut [E],
        terms: &mut [f32],
        divergences: &mut [f64],
        ratios: &mut [f64],
        samples: usize,
    ) {
        let latent = terms.len();
        let rows = noise.chunks_exact(samples * latent).zip(z.chunks_exact_mut(samples * latent));
        let images = stats.chunks_exact(2 * latent).zip(deviation.chunks_exact_mut(latent));
        let sums = divergences.iter_mut().zip(ratios.chunks_exact_mut(samples));
        for (((stats, deviation), (noise, z)), (divergence, ratios)) in
            images.zip(rows).zip(sums)
        {
            let (mean, log_variance) = stats.split_at(latent);
            for i in 0..latent {
                let s = exp(0.5 * log_variance[i]);
                deviation[i] = s;
                let variance_part = s.mul_add(s, -1.0) - log_variance[i];
                terms[i] = 0.5 * mean[i].mul_add(mean[i], variance_part);
            }
            *divergence = sum(terms);
            let rows = noise.chunks_exact(latent).zip(z.chunks_exact_mut(latent));
            for ((noise, z), ratio) in rows.zip(ratios) {
                for i in 0..latent {
                    let exact = deviation[i].mul_add(noise[i], mean[i]);
                    z[i] = E::round(exact);
                    let squares = noise[i].mul_add(noise[i], -(exact * exact));
                    terms[i] = 0.5 * (squares + log_variance[i]);
                }
                *ratio = sum(terms);
            }
        }
    }
}

kernel! {
    /// Writes the gradient of the encoder's output to `out`, from the weighted gradient of the
    /// latents and from beta times the gradient of log q(z|x) - log p(z).
    fn sample_rows_backward<E: Element>(
        dz: &[f32],
        noise: &[f32],
        stats: &[f32],
        deviation: &[f32],
        weights: &[f32],
        shape: Rows,
        sums: &mut [f32],
        out: &mut [E],
    ) {
        let Rows { samples, latent, beta } = shape;
        let rows = dz.chunks_exact(samples * latent).zip(noise.chunks_exact(samples * latent));
        let images = stats.chunks_exact(2 * latent).zip(deviation.chunks_exact(latent));
        let outs = out.chunks_exact_mut(2 * latent).zip(weights.chunks_exact(samples));
        for (((stats, deviation), (dz, noise)), (out, weights)) in images.zip(rows).zip(outs) {
            let mean = &stats[..latent];
            let (mean_sums, log_variance_sums) = sums.split_at_mut(latent);
            mean_sums.fill(0.0);
            log_variance_sums.fill(-0.5 * beta);
            let rows = dz.chunks_exact(latent).zip(noise.chunks_exact(latent));
            for ((dz, noise), weight) in rows.zip(weights) {
                let pull = weight * beta;
                for i in 0..latent {
                    let z = deviation[i].mul_add(noise[i], mean[i]);
                    let d = pull.mul_add(z, dz[i]);
                    mean_sums[i] += d;
                    log_variance_sums[i] += 0.5 * d * deviation[i] * noise[i];
                }
            }
            for (out, sum) in out.iter_mut().zip(sums.iter()) {
                *out = E::round(*sum);
            }
        }
    }
}

kernel! {
    /// Multiplies every row of the output's gradient by its weight.
    fn weigh<E: Element>(weights: &[f32], out: &mut [E], width: usize) {
        for (row, weight) in out.chunks_exact_mut(width).zip(weights) {
            for out in row {
                *out = E::round(weight * out.widen());
            }
        }
    }
}
