//! The VAE's forward and backward pass over one batch, on borrowed memory.
//!
//! It knows the layers and the objective, but neither where pixels and noise come from nor
//! how memory is kept, and is written once for both precisions (`element.rs`). The formulas of each pass are with the kernels in `kernels.rs`.

use model::{
    Isa, Scratch, Sums, Team,
    gemm::{self, Matrix},
    math,
};

use crate::{
    element::Element,
    kernels,
    network::{Linear, Network},
};

/// ln(2 pi).
pub(crate) const LN_TAU: f64 = 1.837_877_066_409_345_3;

/// How many vectors of f32 and of factors [`Work`] has.
pub(crate) const FLOATS: usize = 5;
pub(crate) const FACTORS: usize = 9;

/// The vectors between the layers, a row an image. Where the backward pass no longer needs
/// one, it holds a gradient.
pub(crate) struct Work<'a, E> {
    pub(crate) noise: &'a mut [f32],
    /// The result of a layer's product, its bias not added yet, or the gradient of its input.
    pub(crate) y: &'a mut [f32],
    /// The encoder's output, mean and log-variance side by side.
    pub(crate) stats: &'a mut [f32],
    pub(crate) deviation: &'a mut [f32],
    /// The gradient of z; before that, the KL divergence's terms.
    pub(crate) dz: &'a mut [f32],
    /// Pixels, as the elements store them.
    pub(crate) x: &'a mut [E],
    /// Activations of the encoder's hidden layers.
    e1: &'a mut [E],
    e2: &'a mut [E],
    /// The gradient of the encoder's output.
    pub(crate) d_stats: &'a mut [E],
    pub(crate) z: &'a mut [E],
    /// Activations of the decoder's hidden layers.
    d1: &'a mut [E],
    d2: &'a mut [E],
    /// The gradient of logits or means.
    pub(crate) d_output: &'a mut [E],
    /// The gradient of a hidden layer.
    dh: &'a mut [E],
}

impl<'a, E: Element> Work<'a, E> {
    /// The lengths of the vectors of f32, an image, in the order of the fields. From z on there
    /// are `samples` rows an image.
    pub(crate) const fn floats_per_image(network: &Network, samples: usize) -> [usize; FLOATS] {
        let Network { hidden, latent, pixels, .. } = *network;
        let widest = if hidden > pixels { hidden } else { pixels };
        [samples * latent, samples * widest, 2 * latent, latent, samples * latent]
    }

    /// The lengths of the vectors of factors, an image, in the order of the fields.
    pub(crate) const fn factors_per_image(network: &Network, samples: usize) -> [usize; FACTORS] {
        let (hidden, latent, decoder) = (network.hidden, network.latent, samples * network.hidden);
        let (pixels, z, output) = (network.pixels, samples * latent, samples * network.pixels);
        [pixels, hidden, hidden, 2 * latent, z, decoder, decoder, output, decoder]
    }

    pub(crate) fn new(
        floats: &'a mut Scratch<f32, FLOATS>,
        factors: &'a mut Scratch<E, FACTORS>,
        images: usize,
    ) -> Self {
        let [noise, y, stats, deviation, dz] = floats.slices(images);
        let [x, e1, e2, d_stats, z, d1, d2, d_output, dh] = factors.slices(images);
        Self { noise, y, stats, deviation, dz, x, e1, e2, d_stats, z, d1, d2, d_output, dh }
    }

    /// The same with one row an image from z on.
    pub(crate) fn single(self) -> Self {
        let (latent, hidden, pixels) = (self.deviation.len(), self.e1.len(), self.x.len());
        Self {
            noise: &mut self.noise[..latent],
            dz: &mut self.dz[..latent],
            z: &mut self.z[..latent],
            d1: &mut self.d1[..hidden],
            d2: &mut self.d2[..hidden],
            d_output: &mut self.d_output[..pixels],
            dh: &mut self.dh[..hidden],
            ..self
        }
    }
}

/// What a pass reads.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a, E> {
    pub(crate) network: &'a Network,
    pub(crate) isa: Isa,
    pub(crate) team: &'a Team,
    pub(crate) beta: f64,
    /// Whether most pixels are zero.
    pub(crate) sparse: bool,
    pub(crate) parameters: &'a [f32],
    /// The parameters as factors.
    pub(crate) weights: &'a [E],
}

impl<E: Element> Pass<'_, E> {
    /// Writes x W' to `y`; the bias is left to the kernel that passes over `y` next.
    fn product(&self, layer: &Linear, x: Matrix<'_, E>, y: &mut [f32]) {
        gemm::multiply(self.isa, self.team, x, layer.matrix(self.weights).t(), y);
    }

    /// Writes the weight's gradient dy' x.
    fn weight_gradient(&self, layer: &Linear, dy: &[E], x: Matrix<'_, E>, gradient: &mut [f32]) {
        let dy = Matrix::new(dy, dy.len() / layer.outputs, layer.outputs).t();
        gemm::multiply(self.isa, self.team, dy, x, &mut gradient[layer.weight.clone()]);
    }

    /// Writes the input's gradient dy W to `dx`.
    fn input_gradient(&self, layer: &Linear, dy: &[E], dx: &mut [f32]) {
        let dy = Matrix::new(dy, dx.len() / layer.inputs, layer.outputs);
        gemm::multiply(self.isa, self.team, dy, layer.matrix(self.weights), dx);
    }

    /// The pixels as the first layer's input.
    fn pixel_matrix<'a>(&self, x: &'a [E]) -> Matrix<'a, E> {
        self.network.encoder[0].rows(x).scaled(E::PIXEL_SCALE).sparse(self.sparse)
    }

    /// Pixels to `stats`.
    pub(crate) fn encode(&self, work: &mut Work<'_, E>) {
        let [first, second, third] = &self.network.encoder;
        let y = &mut work.y[..work.e1.len()];
        self.product(first, self.pixel_matrix(work.x), y);
        kernels::add_bias_relu(self.isa, y, first.bias(self.parameters), work.e1);
        self.hidden_layer(second, work.e1, y, work.e2);
        self.product(third, third.rows(work.e2), work.stats);
        kernels::add_bias(self.isa, work.stats, third.bias(self.parameters));
    }

    /// Writes relu(x W' + b) to `out`, by way of `y`.
    fn hidden_layer(&self, layer: &Linear, x: &[E], y: &mut [f32], out: &mut [E]) {
        self.product(layer, layer.rows(x), y);
        kernels::add_bias_relu(self.isa, y, layer.bias(self.parameters), out);
    }

    /// `stats` and noise to `z`; gives the sum of the KL divergences.
    pub(crate) fn sample(&self, work: &mut Work<'_, E>) -> f64 {
        let latent = self.network.latent;
        let Work { stats, noise, deviation, z, dz: terms, .. } = work;
        kernels::sample(self.isa, stats, noise, deviation, z, terms, latent)
    }

    /// `z` to `y`: logits or means, without their bias.
    pub(crate) fn decode(&self, work: &mut Work<'_, E>) {
        let [first, second, third] = &self.network.decoder;
        let y = &mut work.y[..work.d1.len()];
        self.hidden_layer(first, work.z, y, work.d1);
        self.hidden_layer(second, work.d1, y, work.d2);
        let output = &mut work.y[..work.d_output.len()];
        self.product(third, third.rows(work.d2), output);
    }

    /// `z` to the expected pixels, 0 to 1.
    pub(crate) fn pixels(&self, work: &mut Work<'_, E>, pixels: &mut [f32]) {
        self.decode(work);
        pixels.copy_from_slice(&work.y[..pixels.len()]);
        let bias = self.network.decoder[2].bias(self.parameters);
        match self.network.log_variance {
            None => kernels::add_bias_sigmoid(self.isa, pixels, bias),
            Some(_) => kernels::add_bias_clamp(self.isa, pixels, bias),
        }
    }

    /// All the way forward, and the gradient of the output. The gradients of its bias and of
    /// the gaussian's log-variance come with the sums.
    pub(crate) fn forward(&self, work: &mut Work<'_, E>, bias_gradient: &mut [f32]) -> (Sums, f32) {
        self.encode(work);
        let kl = self.sample(work);
        self.decode(work);
        let bias = self.network.decoder[2].bias(self.parameters);
        let pixels = work.x.len();
        let (isa, y) = (self.isa, &work.y[..pixels]);
        let (reconstruction, log_variance_gradient) = match self.network.log_variance {
            None => {
                let sum = kernels::bernoulli(isa, y, bias, work.x, work.d_output, bias_gradient);
                (sum, 0.0)
            }
            Some(place) => {
                let log_variance = self.parameters[place];
                let precision = math::exp(-log_variance);
                let d_output = &mut *work.d_output;
                let squares =
                    kernels::gaussian(isa, y, bias, work.x, precision, d_output, bias_gradient);
                let (weighted, pixels) = (squares * f64::from(precision), pixels as f64);
                let sum = 0.5 * (weighted + pixels * (f64::from(log_variance) + LN_TAU));
                (sum, (0.5 * (pixels - weighted)) as f32)
            }
        };
        let loss = reconstruction + self.beta * kl;
        (Sums::of([loss, reconstruction, kl]), log_variance_gradient)
    }

    /// All the way back, after [`Pass::forward`]: the weights' gradients and the hidden
    /// biases'. Gradients of activations overwrite what is not needed any more.
    pub(crate) fn backward(&self, work: &mut Work<'_, E>, gradient: &mut [f32]) {
        self.decode_backward(work, gradient);
        let (beta, bias) = (self.beta as f32, self.network.encoder[2].bias_gradient(gradient));
        let Work { dz, noise, stats, deviation, d_stats, .. } = work;
        kernels::sample_backward(self.isa, dz, noise, stats, deviation, beta, d_stats, bias);
        self.encode_backward(work, gradient);
    }

    /// From the gradient of the output to that of `z`.
    pub(crate) fn decode_backward(&self, work: &mut Work<'_, E>, gradient: &mut [f32]) {
        let Self { network, isa, .. } = *self;
        let Work { y, dz, z, d1, d2, d_output, dh, .. } = work;
        let dy = &mut y[..dh.len()];
        let [first, second, third] = &network.decoder;
        self.weight_gradient(third, d_output, third.rows(d2), gradient);
        self.input_gradient(third, d_output, dy);
        kernels::relu_backward(isa, dy, d2, dh, second.bias_gradient(gradient));
        self.weight_gradient(second, dh, second.rows(d1), gradient);
        self.input_gradient(second, dh, dy);
        kernels::relu_backward(isa, dy, d1, d2, first.bias_gradient(gradient));
        self.weight_gradient(first, d2, first.rows(z), gradient);
        self.input_gradient(first, d2, dz);
    }

    /// From the gradient of `stats` to that of the encoder's first layer.
    pub(crate) fn encode_backward(&self, work: &mut Work<'_, E>, gradient: &mut [f32]) {
        let Self { network, isa, .. } = *self;
        let Work { y, x, e1, e2, d_stats, dh, .. } = work;
        let (dy, dh) = (&mut y[..e2.len()], &mut dh[..e2.len()]);
        let [first, second, third] = &network.encoder;
        self.weight_gradient(third, d_stats, third.rows(e2), gradient);
        self.input_gradient(third, d_stats, dy);
        kernels::relu_backward(isa, dy, e2, dh, second.bias_gradient(gradient));
        self.weight_gradient(second, dh, second.rows(e1), gradient);
        self.input_gradient(second, dh, dy);
        kernels::relu_backward(isa, dy, e1, e2, first.bias_gradient(gradient));
        self.weight_gradient(first, e2, self.pixel_matrix(x), gradient);
    }
}
