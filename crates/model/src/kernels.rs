//! The VAE's elementwise passes and sums. They know rows and columns, not layers.
//!
//! Every matrix is row-major with a row an image. A sum over a row goes through sixteen
//! lanes in a fixed order, whatever the width of the CPU's vectors, so that all instruction
//! sets add in the same order; sums over rows are in f64. NaN stays NaN everywhere: a
//! training run that diverges must show it.

use data::PIXELS;

use crate::{
    isa::kernel,
    math::{exp, sigmoid, sigmoid_and_softplus},
};

const LANES: usize = 16;

/// The sum of a slice: lane i adds the elements i, i + 16, ..; then the lanes are added.
#[inline(always)]
fn sum(values: &[f32]) -> f64 {
    let mut lanes = [0.0_f32; LANES];
    let mut chunks = values.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    for (lane, value) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane += value;
    }
    lanes.into_iter().map(f64::from).sum()
}

kernel! {
    /// y + b for every row of `y`.
    pub(crate) fn add_bias(y: &mut [f32], bias: &[f32]) {
        for row in y.chunks_exact_mut(bias.len()) {
            for (y, b) in row.iter_mut().zip(bias) {
                *y += b;
            }
        }
    }
}

kernel! {
    /// relu(y + b) for every row of `y`.
    pub(crate) fn add_bias_relu(y: &mut [f32], bias: &[f32]) {
        for row in y.chunks_exact_mut(bias.len()) {
            for (y, b) in row.iter_mut().zip(bias) {
                let sum = *y + b;
                *y = if sum < 0.0 { 0.0 } else { sum };
            }
        }
    }
}

kernel! {
    /// Zeroes the gradient where the activation is zero, and writes its column sums, the
    /// gradient of the bias.
    pub(crate) fn relu_backward(dy: &mut [f32], activation: &[f32], bias_gradient: &mut [f32]) {
        bias_gradient.fill(0.0);
        let width = bias_gradient.len();
        for (dy, activation) in dy.chunks_exact_mut(width).zip(activation.chunks_exact(width)) {
            for ((dy, a), db) in dy.iter_mut().zip(activation).zip(bias_gradient.iter_mut()) {
                let d = if *a > 0.0 { *dy } else { 0.0 };
                *dy = d;
                *db += d;
            }
        }
    }
}

kernel! {
    /// Writes the sums of the columns.
    pub(crate) fn column_sums(dy: &[f32], out: &mut [f32]) {
        out.fill(0.0);
        for row in dy.chunks_exact(out.len()) {
            for (sum, d) in out.iter_mut().zip(row) {
                *sum += d;
            }
        }
    }
}

kernel! {
    /// From the encoder's output, mean and log-variance side by side in a row: the standard
    /// deviation, z = mean + deviation * noise, and the sum of the KL divergences
    /// 1/2 (mean^2 + variance - 1 - log-variance). `terms` is overwritten.
    pub(crate) fn sample(
        stats: &[f32],
        noise: &[f32],
        deviation: &mut [f32],
        z: &mut [f32],
        terms: &mut [f32],
        latent: usize,
    ) -> f64 {
        let rows = stats.chunks_exact(2 * latent).zip(noise.chunks_exact(latent));
        let outs = deviation
            .chunks_exact_mut(latent)
            .zip(z.chunks_exact_mut(latent))
            .zip(terms.chunks_exact_mut(latent));
        let mut divergence = 0.0;
        for ((stats, noise), ((deviation, z), terms)) in rows.zip(outs) {
            let (mean, log_variance) = stats.split_at(latent);
            for i in 0..latent {
                let s = exp(0.5 * log_variance[i]);
                deviation[i] = s;
                z[i] = s.mul_add(noise[i], mean[i]);
                let variance_part = s.mul_add(s, -1.0) - log_variance[i];
                terms[i] = 0.5 * mean[i].mul_add(mean[i], variance_part);
            }
            divergence += sum(terms);
        }
        divergence
    }
}

kernel! {
    /// Turns the encoder's output in `stats` into its gradient, from that of z and from beta
    /// times the KL divergence.
    pub(crate) fn sample_backward(
        dz: &[f32],
        noise: &[f32],
        deviation: &[f32],
        beta: f32,
        stats: &mut [f32],
        latent: usize,
    ) {
        let rows = noise.chunks_exact(latent).zip(deviation.chunks_exact(latent));
        let rows = rows.zip(dz.chunks_exact(latent)).zip(stats.chunks_exact_mut(2 * latent));
        for (((noise, deviation), dz), stats) in rows {
            let (mean, log_variance) = stats.split_at_mut(latent);
            for i in 0..latent {
                let s = deviation[i];
                mean[i] = beta.mul_add(mean[i], dz[i]);
                let divergence = beta * s.mul_add(s, -1.0);
                log_variance[i] = 0.5 * (dz[i] * noise[i]).mul_add(s, divergence);
            }
        }
    }
}

kernel! {
    /// Bernoulli likelihood. `logits` come without their bias and become the gradient
    /// sigmoid(logit) - x; its column sums are written to `bias_gradient`. Gives the sum of
    /// the cross-entropies softplus(logit) - x logit.
    pub(crate) fn bernoulli(
        logits: &mut [f32],
        bias: &[f32],
        x: &[f32],
        bias_gradient: &mut [f32],
    ) -> f64 {
        bias_gradient.fill(0.0);
        let mut terms = [0.0_f32; PIXELS];
        let mut total = 0.0;
        for (row, x) in logits.chunks_exact_mut(PIXELS).zip(x.chunks_exact(PIXELS)) {
            let columns = bias.iter().zip(bias_gradient.iter_mut());
            for (((d, x), (b, db)), term) in row.iter_mut().zip(x).zip(columns).zip(&mut terms) {
                let logit = *d + b;
                let (sigmoid, softplus) = sigmoid_and_softplus(logit);
                *term = (-x).mul_add(logit, softplus);
                *d = sigmoid - x;
                *db += *d;
            }
            total += sum(&terms);
        }
        total
    }
}

kernel! {
    /// Gaussian likelihood with one precision 1/variance. `means` come without their bias
    /// and become the gradient (mean - x) precision; its column sums are written to
    /// `bias_gradient`. Gives the sum of the squared errors, not weighted.
    pub(crate) fn gaussian(
        means: &mut [f32],
        bias: &[f32],
        x: &[f32],
        precision: f32,
        bias_gradient: &mut [f32],
    ) -> f64 {
        bias_gradient.fill(0.0);
        let mut terms = [0.0_f32; PIXELS];
        let mut total = 0.0;
        for (row, x) in means.chunks_exact_mut(PIXELS).zip(x.chunks_exact(PIXELS)) {
            let columns = bias.iter().zip(bias_gradient.iter_mut());
            for (((d, x), (b, db)), term) in row.iter_mut().zip(x).zip(columns).zip(&mut terms) {
                let error = *d + b - x;
                *term = error * error;
                *d = error * precision;
                *db += *d;
            }
            total += sum(&terms);
        }
        total
    }
}

kernel! {
    /// sigmoid(y + b) for every row of `y`.
    pub(crate) fn add_bias_sigmoid(y: &mut [f32], bias: &[f32]) {
        for row in y.chunks_exact_mut(bias.len()) {
            for (y, b) in row.iter_mut().zip(bias) {
                *y = sigmoid(*y + b);
            }
        }
    }
}

kernel! {
    /// y + b, clamped to 0..1, for every row of `y`.
    pub(crate) fn add_bias_clamp(y: &mut [f32], bias: &[f32]) {
        for row in y.chunks_exact_mut(bias.len()) {
            for (y, b) in row.iter_mut().zip(bias) {
                *y = (*y + b).clamp(0.0, 1.0);
            }
        }
    }
}
