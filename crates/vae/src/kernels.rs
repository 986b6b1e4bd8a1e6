//! The VAE's elementwise passes and sums. They know rows and columns, not layers.
//!
//! Every matrix is row-major with one row per image. Results of matrix products are read as f32; inputs of
//! the next product are written as `E`, rounded once. A sum over a row uses sixteen
//! lanes in a fixed order, for any width of the CPU's vectors, so that all instruction
//! sets add in the same order. Sums over rows are in f64. NaN stays NaN everywhere, because a
//! training run that diverges must show it.

use model::{
    kernel,
    math::{exp, sigmoid, sigmoid_and_softplus},
};

use crate::element::Element;

const LANES: usize = 16;

/// Numbers of a row that are added up together; an MNIST image has fewer.
pub(crate) const PIECE: usize = 1024;

/// The sum of a slice: lane i adds the elements i, i + 16, and so on; then the lanes are added.
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
    /// Adds b to every row of `y`.
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
    /// Writes the gradient, with zeros where the activation is zero.
    pub(crate) fn relu_backward<E: Element>(dy: &[f32], activation: &[E], out: &mut [E]) {
        for ((dy, a), out) in dy.iter().zip(activation).zip(out) {
            *out = E::round(if a.widen() > 0.0 { *dy } else { 0.0 });
        }
    }
}

kernel! {
    /// Writes the sum of each column, which is the gradient of a bias.
    pub(crate) fn column_sums<E: Element>(values: &[E], out: &mut [f32]) {
        out.fill(0.0);
        for row in values.chunks_exact(out.len()) {
            for (sum, value) in out.iter_mut().zip(row) {
                *sum += value.widen();
            }
        }
    }
}

kernel! {
    /// Computes from the encoder's output, which has mean and log-variance side by side in a row: the standard
    /// deviation, z = mean + deviation * noise, and the KL divergence of each image,
    /// 1/2 sum(mean^2 + variance - 1 - log-variance). `terms` has the length of a latent and is overwritten.
    pub(crate) fn sample<E: Element>(
        stats: &[f32],
        noise: &[f32],
        deviation: &mut [f32],
        z: &mut [E],
        terms: &mut [f32],
        divergences: &mut [f64],
    ) {
        let latent = terms.len();
        let rows = stats.chunks_exact(2 * latent).zip(noise.chunks_exact(latent));
        let outs = deviation.chunks_exact_mut(latent).zip(z.chunks_exact_mut(latent));
        for (((stats, noise), (deviation, z)), divergence) in rows.zip(outs).zip(divergences) {
            let (mean, log_variance) = stats.split_at(latent);
            for i in 0..latent {
                let s = exp(0.5 * log_variance[i]);
                deviation[i] = s;
                z[i] = E::round(s.mul_add(noise[i], mean[i]));
                let variance_part = s.mul_add(s, -1.0) - log_variance[i];
                terms[i] = 0.5 * mean[i].mul_add(mean[i], variance_part);
            }
            *divergence = sum(terms);
        }
    }
}

kernel! {
    /// Writes the gradient of the encoder's output, in the layout of `stats`, from the gradient of z and from beta
    /// times the KL divergence.
    pub(crate) fn sample_backward<E: Element>(
        dz: &[f32],
        noise: &[f32],
        stats: &[f32],
        deviation: &[f32],
        latent: usize,
        beta: f32,
        out: &mut [E],
    ) {
        let rows = noise.chunks_exact(latent).zip(deviation.chunks_exact(latent));
        let rows = rows.zip(dz.chunks_exact(latent)).zip(stats.chunks_exact(2 * latent));
        for ((((noise, deviation), dz), stats), out) in rows.zip(out.chunks_exact_mut(2 * latent)) {
            let mean = &stats[..latent];
            let (mean_out, log_variance_out) = out.split_at_mut(latent);
            for i in 0..latent {
                let s = deviation[i];
                mean_out[i] = E::round(beta.mul_add(mean[i], dz[i]));
                let divergence = beta * s.mul_add(s, -1.0);
                log_variance_out[i] = E::round(0.5 * (dz[i] * noise[i]).mul_add(s, divergence));
            }
        }
    }
}

kernel! {
    /// The Bernoulli likelihood, with `samples` rows per image. `logits` have no bias yet. Writes the
    /// gradient sigmoid(logit) - x, and the cross-entropy of each row: the sum of softplus(logit) - x
    /// logit.
    pub(crate) fn bernoulli<E: Element>(
        logits: &[f32],
        bias: &[f32],
        x: &[E],
        samples: usize,
        out: &mut [E],
        losses: &mut [f64],
    ) {
        let width = bias.len();
        let mut terms = [0.0_f32; PIECE];
        let rows = logits.chunks_exact(width).zip(out.chunks_exact_mut(width)).zip(losses);
        for (row, ((logits, out), loss)) in rows.enumerate() {
            let x = &x[row / samples * width..][..width];
            *loss = 0.0;
            let pieces = logits.chunks(PIECE).zip(bias.chunks(PIECE)).zip(x.chunks(PIECE));
            for (((logits, bias), x), out) in pieces.zip(out.chunks_mut(PIECE)) {
                let terms = &mut terms[..x.len()];
                let columns = logits.iter().zip(bias).zip(x);
                for (((y, b), x), (out, term)) in columns.zip(out.iter_mut().zip(terms.iter_mut())) {
                    let (x, logit) = (x.pixel(), y + b);
                    let (sigmoid, softplus) = sigmoid_and_softplus(logit);
                    *term = (-x).mul_add(logit, softplus);
                    *out = E::round(sigmoid - x);
                }
                *loss += sum(terms);
            }
        }
    }
}

kernel! {
    /// The Gaussian likelihood with one precision 1/variance, with `samples` rows per image. `means` have
    /// no bias yet. Writes the gradient (mean - x) precision, and the sum of squared errors of each
    /// row, without a weight.
    pub(crate) fn gaussian<E: Element>(
        means: &[f32],
        bias: &[f32],
        x: &[E],
        samples: usize,
        precision: f32,
        out: &mut [E],
        squares: &mut [f64],
    ) {
        let width = bias.len();
        let mut terms = [0.0_f32; PIECE];
        let rows = means.chunks_exact(width).zip(out.chunks_exact_mut(width)).zip(squares);
        for (row, ((means, out), squares)) in rows.enumerate() {
            let x = &x[row / samples * width..][..width];
            *squares = 0.0;
            let pieces = means.chunks(PIECE).zip(bias.chunks(PIECE)).zip(x.chunks(PIECE));
            for (((means, bias), x), out) in pieces.zip(out.chunks_mut(PIECE)) {
                let terms = &mut terms[..x.len()];
                let columns = means.iter().zip(bias).zip(x);
                for (((y, b), x), (out, term)) in columns.zip(out.iter_mut().zip(terms.iter_mut())) {
                    let error = y + b - x.pixel();
                    *term = error * error;
                    *out = E::round(error * precision);
                }
                *squares += sum(terms);
            }
        }
    }
}

kernel! {
    /// Replaces every row y by sigmoid(y + b).
    pub(crate) fn add_bias_sigmoid(y: &mut [f32], bias: &[f32]) {
        for row in y.chunks_exact_mut(bias.len()) {
            for (y, b) in row.iter_mut().zip(bias) {
                *y = sigmoid(*y + b);
            }
        }
    }
}

kernel! {
    /// Replaces every row y by y + b, clamped to 0..1.
    pub(crate) fn add_bias_clamp(y: &mut [f32], bias: &[f32]) {
        for row in y.chunks_exact_mut(bias.len()) {
            for (y, b) in row.iter_mut().zip(bias) {
                *y = (*y + b).clamp(0.0, 1.0);
            }
        }
    }
}
