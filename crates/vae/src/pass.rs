//! The VAE's forward and backward pass over some images of a batch, on one thread and in borrowed
//! memory, and then the gradients of all layers.
//!
//! It knows the layers and the objective, but neither the source of pixels and noise nor how
//! memory is kept. It is written once for both precisions (`element.rs`). ARITHMETIC.md defines
//! every operation; the formulas of each pass are with the kernels in `kernels.rs`.

use std::mem;

use model::{
    Isa, Sums, Team,
    gemm::{self, Matrix},
};

use crate::{
    element::Element,
    kernels,
    network::{Linear, Network},
    work::Work,
};

/// ln(2 pi).
pub(crate) const LN_TAU: f64 = 1.837_877_066_409_345_3;

/// The fewest rows of a weight's gradient that are worth giving to another thread.
const PART_ROWS_MIN: usize = 32;

/// The inputs of a pass.
#[derive(Clone, Copy)]
pub(crate) struct ForwardBackward<'a, E> {
    pub(crate) network: &'a Network,
    pub(crate) isa: Isa,
    pub(crate) beta: f64,
    /// Whether most pixels are zero.
    pub(crate) sparse: bool,
    pub(crate) parameters: &'a [f32],
    /// The parameters as factors.
    pub(crate) weights: &'a [E],
}

impl<E: Element> ForwardBackward<'_, E> {
    /// Writes x W' to `y`. The kernel that reads `y` next adds the bias.
    fn product(&self, layer: &Linear, x: Matrix<'_, E>, y: &mut [f32]) {
        gemm::multiply(self.isa, x, layer.matrix(self.weights).t(), y);
    }

    /// Writes the input's gradient dy W to `dx`.
    fn input_gradient(&self, layer: &Linear, dy: &[E], dx: &mut [f32]) {
        let dy = Matrix::new(dy, dx.len() / layer.inputs, layer.outputs);
        gemm::multiply(self.isa, dy, layer.matrix(self.weights), dx);
    }

    /// The pixels as the input of the first layer.
    fn pixel_matrix<'a>(&self, x: &'a [E]) -> Matrix<'a, E> {
        self.network.encoder[0].rows(x).scaled(E::PIXEL_SCALE).sparse(self.sparse)
    }

    /// Writes relu(x W' + b) to `out`; `y` is used as working memory.
    fn hidden_layer(&self, layer: &Linear, x: Matrix<'_, E>, y: &mut [f32], out: &mut [E]) {
        let y = &mut y[..out.len()];
        self.product(layer, x, y);
        kernels::add_bias_relu(self.isa, y, layer.bias(self.parameters), out);
    }

    /// Computes `stats` from the pixels.
    pub(crate) fn encode(&self, work: &mut Work<'_, E>) {
        let [first, second, third] = &self.network.encoder;
        self.hidden_layer(first, self.pixel_matrix(work.x), work.y, work.e1);
        self.hidden_layer(second, second.rows(work.e1), work.y, work.e2);
        self.product(third, third.rows(work.e2), work.stats);
        kernels::add_bias(self.isa, work.stats, third.bias(self.parameters));
    }

    /// Computes `z` from `stats` and noise, and the KL divergence of each image.
    pub(crate) fn sample(&self, work: &mut Work<'_, E>) {
        let terms = &mut work.dz[..self.network.latent];
        let Work { stats, noise, deviation, z, divergences, .. } = work;
        kernels::sample(self.isa, stats, noise, deviation, z, terms, divergences);
    }

    /// Computes `y` from `z`: logits or means, without their bias.
    pub(crate) fn decode(&self, work: &mut Work<'_, E>) {
        let [first, second, third] = &self.network.decoder;
        self.hidden_layer(first, first.rows(work.z), work.y, work.d1);
        self.hidden_layer(second, second.rows(work.d1), work.y, work.d2);
        let output = &mut work.y[..work.d_output.len()];
        self.product(third, third.rows(work.d2), output);
    }

    /// Computes the expected pixels, from 0 to 1, from `z`.
    pub(crate) fn pixels(&self, work: &mut Work<'_, E>, pixels: &mut [f32]) {
        self.decode(work);
        pixels.copy_from_slice(&work.y[..pixels.len()]);
        let bias = self.network.decoder[2].bias(self.parameters);
        match self.network.log_variance {
            None => kernels::add_bias_sigmoid(self.isa, pixels, bias),
            Some(_) => kernels::add_bias_clamp(self.isa, pixels, bias),
        }
    }

    /// The whole forward pass: from pixels and noise to -log p(x|z) of each row, with the gradient of the
    /// output.
    pub(crate) fn forward(&self, work: &mut Work<'_, E>) {
        self.encode(work);
        if work.samples == 1 {
            self.sample(work);
        } else {
            self.sample_rows(work);
        }
        self.decode(work);
        self.likelihood(work);
        if work.samples > 1 {
            self.weigh_rows(work);
        }
    }

    /// Computes -log p(x|z) of every row of `y`, and its gradient in `d_output`.
    pub(crate) fn likelihood(&self, work: &mut Work<'_, E>) {
        let bias = self.network.decoder[2].bias(self.parameters);
        let Work { y, x, d_output, losses, samples, .. } = work;
        let y = &y[..d_output.len()];
        match self.network.log_variance {
            None => kernels::bernoulli(self.isa, y, bias, x, *samples, d_output, losses),
            Some(place) => {
                let log_variance = self.parameters[place];
                let precision = model::math::exp(-log_variance);
                kernels::gaussian(self.isa, y, bias, x, *samples, precision, d_output, losses);
                let constant = self.gaussian_constant(place);
                for loss in losses.iter_mut() {
                    *loss = 0.5 * (*loss * f64::from(precision) + constant);
                }
            }
        }
    }

    /// pixels * (log-variance + ln 2 pi).
    fn gaussian_constant(&self, place: usize) -> f64 {
        self.network.pixels as f64 * (f64::from(self.parameters[place]) + LN_TAU)
    }

    /// The whole backward pass, after [`ForwardBackward::forward`]: the gradients of the outputs of all layers' products.
    pub(crate) fn backward(&self, work: &mut Work<'_, E>) {
        let [first, second, third] = &self.network.decoder;
        let Work { y, dz, d1, d2, dd1, dd2, d_output, .. } = work;
        self.hidden_gradient(third, d_output, y, d2, dd2);
        self.hidden_gradient(second, dd2, y, d1, dd1);
        self.input_gradient(first, dd1, dz);
        if work.samples == 1 {
            let (beta, latent) = (self.beta as f32, self.network.latent);
            let Work { dz, noise, stats, deviation, d_stats, .. } = work;
            kernels::sample_backward(self.isa, dz, noise, stats, deviation, latent, beta, d_stats);
        } else {
            self.sample_rows_backward(work);
        }
        let [_, second, third] = &self.network.encoder;
        let Work { y, e1, e2, de1, de2, d_stats, .. } = work;
        self.hidden_gradient(third, d_stats, y, e2, de2);
        self.hidden_gradient(second, de2, y, e1, de1);
    }

    /// Writes the gradient of the product from which `activation` was computed; `y` is used as working memory.
    fn hidden_gradient(
        &self,
        layer: &Linear,
        dy: &[E],
        y: &mut [f32],
        activation: &[E],
        out: &mut [E],
    ) {
        let dx = &mut y[..activation.len()];
        self.input_gradient(layer, dy, dx);
        kernels::relu_backward(self.isa, dx, activation, out);
    }

    /// Writes the gradients of all parameters, after [`ForwardBackward::backward`] of all images.
    pub(crate) fn parameter_gradients(
        &self,
        team: &Team,
        work: &Work<'_, E>,
        gradient: &mut [f32],
    ) {
        let Network { layout, encoder, decoder, log_variance, .. } = self.network;
        layout.zero_padding(gradient);
        if let Some(place) = *log_variance {
            gradient[place] = self.log_variance_gradient(work, place);
        }
        let [e0, e1, e2] = encoder;
        let [d0, d1, d2] = decoder;
        let layers: [(&Linear, &[E], Matrix<'_, E>); 6] = [
            (e0, work.de1, self.pixel_matrix(work.x)),
            (e1, work.de2, e1.rows(work.e1)),
            (e2, work.d_stats, e2.rows(work.e2)),
            (d0, work.dd1, d0.rows(work.z)),
            (d1, work.dd2, d1.rows(work.d1)),
            (d2, work.d_output, d2.rows(work.d2)),
        ];
        // The layers are in the order of their parameters.
        let (mut rest, mut place) = (gradient, 0);
        let mut next = |range: &std::ops::Range<usize>| {
            let (_, from) = mem::take(&mut rest).split_at_mut(range.start - place);
            let (part, later) = from.split_at_mut(range.len());
            (rest, place) = (later, range.end);
            part
        };
        let threads = team.threads();
        let parts = layers.map(|(layer, dy, x)| {
            let (weight, bias) = (next(&layer.weight), next(&layer.bias));
            (layer, dy, x, weight, bias)
        });
        let parts = parts.into_iter().flat_map(|(layer, dy, x, weight, bias)| {
            let rows = layer.outputs.div_ceil(threads.min(layer.outputs / PART_ROWS_MIN).max(1));
            let weights = weight.chunks_mut(rows * layer.inputs).enumerate();
            let weights = weights.map(move |(part, out)| (layer, dy, Some((x, part * rows)), out));
            weights.chain([(layer, dy, None, bias)])
        });
        team.each(parts, |(layer, dy, x, out)| match x {
            Some((x, first)) => {
                let dy = Matrix::new(dy, dy.len() / layer.outputs, layer.outputs).t();
                gemm::multiply_rows(self.isa, dy, first, x, out);
            }
            None => kernels::column_sums(self.isa, dy, out),
        });
    }

    /// The gradient of the Gaussian log-variance: that of 1/2 (squares / variance + pixels (log-variance + ln 2 pi)).
    fn log_variance_gradient(&self, work: &Work<'_, E>, place: usize) -> f32 {
        let constant = self.gaussian_constant(place);
        let of_row = |loss: &f64| 0.5 * (self.network.pixels as f64 + constant) - loss;
        let rows = work.losses.iter().map(of_row);
        if work.samples == 1 {
            return rows.sum::<f64>() as f32;
        }
        rows.zip(work.weights.iter()).map(|(of_row, w)| f64::from(*w) * of_row).sum::<f64>() as f32
    }

    /// The sums over all images, after [`ForwardBackward::forward`].
    pub(crate) fn sums(&self, work: &Work<'_, E>) -> Sums {
        let kl = work.divergences.iter().sum::<f64>();
        let reconstruction = work.losses.iter().sum::<f64>() / work.samples as f64;
        let loss = if work.samples == 1 {
            reconstruction + self.beta * kl
        } else {
            work.bounds.iter().sum()
        };
        Sums::of([loss, reconstruction, kl])
    }
}
