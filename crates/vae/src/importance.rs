//! The importance-weighted bound of k latents an image, forward and backward.
//!
//! Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders", 2016. The loss of an
//! image is -log of the mean of w_1..w_k with w = p(x|z) (p(z) / q(z|x))^beta. With z = mean +
//! deviation * noise, log q(z|x) depends on the parameters through the log-variance alone, so
//!
//! log p(z) - log q(z|x) = 1/2 sum(noise^2 - z^2 + log-variance),
//!
//! and the loss's gradient is the mean of that of -log w under the normalised weights. This
//! file knows rows and weights; the layers are passed as for the plain loss, in `pass.rs`.

use model::{
    Sums, kernel,
    math::{self, exp, ln, sigmoid_and_softplus},
};

use crate::{
    element::Element,
    kernels::{self, PIECE, sum},
    pass::{LN_TAU, Pass, Work},
};

/// What the forward pass leaves to the backward pass.
#[derive(Debug)]
pub(crate) struct Weighted {
    pub(crate) sums: Sums,
    /// Rows an image.
    samples: usize,
    /// Normalised, a row a latent.
    weights: Vec<f32>,
    log_variance_gradient: f32,
}

impl<E: Element> Pass<'_, E> {
    /// -log p(x|z) of every row of `y`, of which each image has as many; `d_output` becomes its
    /// gradient.
    pub(crate) fn likelihood(&self, work: &mut Work<'_, E>, losses: &mut [f64]) {
        let bias = self.network.decoder[2].bias(self.parameters);
        let pixels = self.network.pixels;
        let y = &work.y[..losses.len() * pixels];
        match self.network.log_variance {
            None => bernoulli_rows(self.isa, y, bias, work.x, work.d_output, losses),
            Some(place) => {
                let log_variance = self.parameters[place];
                let precision = math::exp(-log_variance);
                gaussian_rows(self.isa, y, bias, work.x, precision, work.d_output, losses);
                let constant = pixels as f64 * (f64::from(log_variance) + LN_TAU);
                for loss in losses {
                    *loss = 0.5 * (*loss * f64::from(precision) + constant);
                }
            }
        }
    }

    /// All the way forward, and the gradient of the output and of its bias.
    pub(crate) fn forward_weighted(
        &self,
        work: &mut Work<'_, E>,
        samples: usize,
        bias_gradient: &mut [f32],
    ) -> Weighted {
        let latent = self.network.latent;
        let rows = work.z.len() / latent;
        self.encode(work);
        let mut ratios = vec![0.0; rows];
        let mut terms = vec![0.0; latent];
        let Work { stats, noise, deviation, z, .. } = work;
        let kl =
            sample_rows(self.isa, stats, noise, deviation, z, &mut terms, &mut ratios, samples);
        self.decode(work);
        let mut losses = vec![0.0; rows];
        self.likelihood(work, &mut losses);

        let mut weights = vec![0.0; rows];
        let rows = losses.chunks_exact(samples).zip(ratios.chunks_exact(samples));
        let loss = rows
            .zip(weights.chunks_exact_mut(samples))
            .map(|((losses, ratios), weights)| {
                let log_weight = |(loss, ratio): (&f64, &f64)| self.beta * ratio - loss;
                normalise(losses.iter().zip(ratios).map(log_weight), weights)
            })
            .sum();
        weigh(self.isa, &weights, work.d_output, bias_gradient);
        let reconstruction = losses.iter().sum::<f64>() / samples as f64;
        let log_variance_gradient = self.log_variance_gradient(&losses, &weights);
        Weighted {
            sums: Sums::of([loss, reconstruction, kl]),
            samples,
            weights,
            log_variance_gradient,
        }
    }

    /// The gaussian's: that of 1/2 (squares / variance + pixels (log-variance + ln 2 pi)).
    fn log_variance_gradient(&self, losses: &[f64], weights: &[f32]) -> f32 {
        let Some(place) = self.network.log_variance else { return 0.0 };
        let pixels = self.network.pixels as f64;
        let constant = pixels * (f64::from(self.parameters[place]) + LN_TAU);
        let of_row = |loss: f64| 0.5 * (pixels + constant) - loss;
        losses.iter().zip(weights).map(|(l, w)| f64::from(*w) * of_row(*l)).sum::<f64>() as f32
    }

    /// All the way back, after [`Pass::forward_weighted`].
    pub(crate) fn backward_weighted(
        &self,
        work: &mut Work<'_, E>,
        weighted: &Weighted,
        gradient: &mut [f32],
    ) -> Sums {
        if let Some(place) = self.network.log_variance {
            gradient[place] = weighted.log_variance_gradient;
        }
        self.decode_backward(work, gradient);
        let bias = self.network.encoder[2].bias_gradient(gradient);
        let Weighted { samples, weights, .. } = weighted;
        let rows = Rows { samples: *samples, latent: self.network.latent, beta: self.beta as f32 };
        let Work { dz, noise, stats, deviation, d_stats, .. } = work;
        let mut d = vec![0.0; stats.len()];
        sample_rows_backward(self.isa, dz, noise, stats, deviation, weights, rows, &mut d);
        kernels::store(self.isa, &d, d_stats, bias);
        self.encode_backward(work, gradient);
        weighted.sums
    }
}

/// Latents an image, their dimensions, and the weight of the KL divergence.
#[derive(Clone, Copy, Debug)]
struct Rows {
    samples: usize,
    latent: usize,
    beta: f32,
}

/// Writes the normalised weights; gives -log of the mean weight.
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
    /// As [`kernels::sample`], for `samples` rows of noise an image; the sums of
    /// log p(z) - log q(z|x) go to `ratios`. Gives the sum of the KL divergences.
    fn sample_rows<E: Element>(
        stats: &[f32],
        noise: &[f32],
        deviation: &mut [f32],
        z: &mut [E],
        terms: &mut [f32],
        ratios: &mut [f64],
        samples: usize,
    ) -> f64 {
        let latent = terms.len();
        let mut divergence = 0.0;
        let rows = noise.chunks_exact(samples * latent).zip(z.chunks_exact_mut(samples * latent));
        let images = stats.chunks_exact(2 * latent).zip(deviation.chunks_exact_mut(latent));
        for (((stats, deviation), (noise, z)), ratios) in
            images.zip(rows).zip(ratios.chunks_exact_mut(samples))
        {
            let (mean, log_variance) = stats.split_at(latent);
            for i in 0..latent {
                let s = exp(0.5 * log_variance[i]);
                deviation[i] = s;
                let variance_part = s.mul_add(s, -1.0) - log_variance[i];
                terms[i] = 0.5 * mean[i].mul_add(mean[i], variance_part);
            }
            divergence += sum(terms);
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
        divergence
    }
}

kernel! {
    /// Writes the gradient of the encoder's output to `out`, from the weighted gradient of the
    /// latents and from beta times that of log q(z|x) - log p(z).
    fn sample_rows_backward(
        dz: &[f32],
        noise: &[f32],
        stats: &[f32],
        deviation: &[f32],
        weights: &[f32],
        shape: Rows,
        out: &mut [f32],
    ) {
        let Rows { samples, latent, beta } = shape;
        let rows = dz.chunks_exact(samples * latent).zip(noise.chunks_exact(samples * latent));
        let images = stats.chunks_exact(2 * latent).zip(deviation.chunks_exact(latent));
        let outs = out.chunks_exact_mut(2 * latent).zip(weights.chunks_exact(samples));
        for (((stats, deviation), (dz, noise)), (out, weights)) in images.zip(rows).zip(outs) {
            let mean = &stats[..latent];
            let (mean_out, log_variance_out) = out.split_at_mut(latent);
            mean_out.fill(0.0);
            log_variance_out.fill(-0.5 * beta);
            let rows = dz.chunks_exact(latent).zip(noise.chunks_exact(latent));
            for ((dz, noise), weight) in rows.zip(weights) {
                let pull = weight * beta;
                for i in 0..latent {
                    let z = deviation[i].mul_add(noise[i], mean[i]);
                    let d = pull.mul_add(z, dz[i]);
                    mean_out[i] += d;
                    log_variance_out[i] += 0.5 * d * deviation[i] * noise[i];
                }
            }
        }
    }
}

kernel! {
    /// As [`kernels::bernoulli`], but a loss a row and as many rows an image as there are.
    fn bernoulli_rows<E: Element>(
        logits: &[f32],
        bias: &[f32],
        x: &[E],
        out: &mut [E],
        losses: &mut [f64],
    ) {
        let width = bias.len();
        let samples = losses.len() / (x.len() / width).max(1);
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
    /// As [`kernels::gaussian`], but a sum of squares a row and as many rows an image as there
    /// are.
    fn gaussian_rows<E: Element>(
        means: &[f32],
        bias: &[f32],
        x: &[E],
        precision: f32,
        out: &mut [E],
        squares: &mut [f64],
    ) {
        let width = bias.len();
        let samples = squares.len() / (x.len() / width).max(1);
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
    /// Multiplies every row of the output's gradient with its weight, and writes the column
    /// sums, the gradient of the bias.
    fn weigh<E: Element>(weights: &[f32], out: &mut [E], bias_gradient: &mut [f32]) {
        bias_gradient.fill(0.0);
        for (row, weight) in out.chunks_exact_mut(bias_gradient.len()).zip(weights) {
            for (out, db) in row.iter_mut().zip(bias_gradient.iter_mut()) {
                let d = weight * out.widen();
                *out = E::round(d);
                *db += d;
            }
        }
    }
}
