//! The VAE's elementwise passes and sums. They know rows and columns, not layers.
//!
//! Every matrix is row-major with a row an image. Results of matrix products come in as f32;
//! what goes into the next product goes out as `E`, rounded once. A sum over a row goes through sixteen
//! lanes in a fixed order, whatever the width of the CPU's vectors, so that all instruction
//! sets add in the same order; sums over rows are in f64. NaN stays NaN everywhere: a
//! training run that diverges must show it.

use model::{
    kernel,
    math::{exp, sigmoid, sigmoid_and_softplus},
};

use crate::element::Element;

const LANES: usize = 16;

/// Numbers of a row that are summed up at a time; an image of MNIST has fewer.
pub(crate) const PIECE: usize = 1024;

/// The sum of a slice: lane i adds the elements i, i + 16, ..; then the lanes are added.
#[inline(always)]
pub(crate) fn sum(values: &[f32]) -> f64 {
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
    /// Writes relu(y + b) for every row of `y`.
    pub(crate) fn add_bias_relu<E: Element>(y: &[f32], bias: &[f32], out: &mut [E]) {
        let width = bias.len();
        for (row, out) in y.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            for ((y, b), out) in row.iter().zip(bias).zip(out) {
                let sum = y + b;
                *out = E::round(if sum < 0.0 { 0.0 } else { sum });
            }
        }
    }
}

kernel! {
    /// Writes the gradient, zeroed where the activation is zero, and its column sums, the
    /// gradient of the bias.
    pub(crate) fn relu_backward<E: Element>(
        dy: &[f32],
        activation: &[E],
        out: &mut [E],
        bias_gradient: &mut [f32],
    ) {
        bias_gradient.fill(0.0);
        let width = bias_gradient.len();
        let rows = dy.chunks_exact(width).zip(activation.chunks_exact(width));
        for ((dy, activation), out) in rows.zip(out.chunks_exact_mut(width)) {
            let columns = out.iter_mut().zip(bias_gradient.iter_mut());
            for ((dy, a), (out, db)) in dy.iter().zip(activation).zip(columns) {
                let d = if a.widen() > 0.0 { *dy } else { 0.0 };
                *out = E::round(d);
                *db += d;
            }
        }
    }
}

kernel! {
    /// From the encoder's output, mean and log-variance side by side in a row: the standard
    /// deviation, z = mean + deviation * noise, and the sum of the KL divergences
    /// 1/2 (mean^2 + variance - 1 - log-variance). `terms` is overwritten.
    pub(crate) fn sample<E: Element>(
        stats: &[f32],
        noise: &[f32],
        deviation: &mut [f32],
        z: &mut [E],
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
                z[i] = E::round(s.mul_add(noise[i], mean[i]));
                let variance_part = s.mul_add(s, -1.0) - log_variance[i];
                terms[i] = 0.5 * mean[i].mul_add(mean[i], variance_part);
            }
            divergence += sum(terms);
        }
        divergence
    }
}

kernel! {
    /// Writes the gradient of the encoder's output in `stats`, from that of z and from beta
    /// times the KL divergence, and its column sums, the gradient of the bias.
    pub(crate) fn sample_backward<E: Element>(
        dz: &[f32],
        noise: &[f32],
        stats: &[f32],
        deviation: &[f32],
        beta: f32,
        out: &mut [E],
        bias_gradient: &mut [f32],
    ) {
        bias_gradient.fill(0.0);
        let latent = bias_gradient.len() / 2;
        let (mean_bias, log_variance_bias) = bias_gradient.split_at_mut(latent);
        let rows = noise.chunks_exact(latent).zip(deviation.chunks_exact(latent));
        let rows = rows.zip(dz.chunks_exact(latent)).zip(stats.chunks_exact(2 * latent));
        for ((((noise, deviation), dz), stats), out) in rows.zip(out.chunks_exact_mut(2 * latent)) {
            let mean = &stats[..latent];
            let (mean_out, log_variance_out) = out.split_at_mut(latent);
            for i in 0..latent {
                let s = deviation[i];
                let d = beta.mul_add(mean[i], dz[i]);
                mean_out[i] = E::round(d);
                mean_bias[i] += d;
                let divergence = beta * s.mul_add(s, -1.0);
                let d = 0.5 * (dz[i] * noise[i]).mul_add(s, divergence);
                log_variance_out[i] = E::round(d);
                log_variance_bias[i] += d;
            }
        }
    }
}

kernel! {
    /// Writes rows as factors, and their column sums, the gradient of a bias.
    pub(crate) fn store<E: Element>(values: &[f32], out: &mut [E], bias_gradient: &mut [f32]) {
        bias_gradient.fill(0.0);
        let width = bias_gradient.len();
        for (values, out) in values.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            for ((value, out), db) in values.iter().zip(out).zip(bias_gradient.iter_mut()) {
                *out = E::round(*value);
                *db += value;
            }
        }
    }
}

kernel! {
    /// Bernoulli likelihood. `logits` come without their bias. Writes the gradient
    /// sigmoid(logit) - x, and its column sums to `bias_gradient`. Gives the sum of the
    /// cross-entropies softplus(logit) - x logit.
    pub(crate) fn bernoulli<E: Element>(
        logits: &[f32],
        bias: &[f32],
        x: &[E],
        out: &mut [E],
        bias_gradient: &mut [f32],
    ) -> f64 {
        bias_gradient.fill(0.0);
        let mut terms = [0.0_f32; PIECE];
        let (mut total, width) = (0.0, bias.len());
        let rows = logits.chunks_exact(width).zip(x.chunks_exact(width));
        for ((row, x), out) in rows.zip(out.chunks_exact_mut(width)) {
            let columns = bias.chunks(PIECE).zip(bias_gradient.chunks_mut(PIECE));
            let pieces = row.chunks(PIECE).zip(x.chunks(PIECE)).zip(out.chunks_mut(PIECE));
            for (((row, x), out), (bias, bias_gradient)) in pieces.zip(columns) {
                let terms = &mut terms[..row.len()];
                let columns = bias.iter().zip(bias_gradient);
                let outs = out.iter_mut().zip(terms.iter_mut());
                for (((y, x), (b, db)), (out, term)) in row.iter().zip(x).zip(columns).zip(outs) {
                    let x = x.pixel();
                    let logit = y + b;
                    let (sigmoid, softplus) = sigmoid_and_softplus(logit);
                    *term = (-x).mul_add(logit, softplus);
                    let d = sigmoid - x;
                    *out = E::round(d);
                    *db += d;
                }
                total += sum(terms);
            }
        }
        total
    }
}

kernel! {
    /// Gaussian likelihood with one precision 1/variance. `means` come without their bias.
    /// Writes the gradient (mean - x) precision, and its column sums to `bias_gradient`.
    /// Gives the sum of the squared errors, not weighted.
    pub(crate) fn gaussian<E: Element>(
        means: &[f32],
        bias: &[f32],
        x: &[E],
        precision: f32,
        out: &mut [E],
        bias_gradient: &mut [f32],
    ) -> f64 {
        bias_gradient.fill(0.0);
        let mut terms = [0.0_f32; PIECE];
        let (mut total, width) = (0.0, bias.len());
        let rows = means.chunks_exact(width).zip(x.chunks_exact(width));
        for ((row, x), out) in rows.zip(out.chunks_exact_mut(width)) {
            let columns = bias.chunks(PIECE).zip(bias_gradient.chunks_mut(PIECE));
            let pieces = row.chunks(PIECE).zip(x.chunks(PIECE)).zip(out.chunks_mut(PIECE));
            for (((row, x), out), (bias, bias_gradient)) in pieces.zip(columns) {
                let terms = &mut terms[..row.len()];
                let columns = bias.iter().zip(bias_gradient);
                let outs = out.iter_mut().zip(terms.iter_mut());
                for (((y, x), (b, db)), (out, term)) in row.iter().zip(x).zip(columns).zip(outs) {
                    let x = x.pixel();
                    let error = y + b - x;
                    *term = error * error;
                    let d = error * precision;
                    *out = E::round(d);
                    *db += d;
                }
                total += sum(terms);
            }
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
