//! The VAE's forward and backward pass over one batch, on borrowed memory.
//!
//! It knows the layers and the objective, but neither where pixels and noise come from nor
//! how memory is kept. The formulas of each pass are with the kernels in `kernels.rs`.

use data::PIXELS;

use crate::{Isa, Sums, kernels, math, network::Network, scratch::Scratch};

/// ln(2 pi).
const LN_TAU: f64 = 1.837_877_066_409_345_3;

/// How many vectors [`Work`] has.
pub(crate) const WORK: usize = 10;

/// The vectors between the layers, a row an image. Where the backward pass no longer needs
/// one, it holds a gradient.
pub(crate) struct Work<'a> {
    /// Activations of the encoder's hidden layers.
    e1: &'a mut [f32],
    e2: &'a mut [f32],
    /// The encoder's output, mean and log-variance side by side.
    pub(crate) stats: &'a mut [f32],
    deviation: &'a mut [f32],
    pub(crate) z: &'a mut [f32],
    /// Activations of the decoder's hidden layers.
    d1: &'a mut [f32],
    d2: &'a mut [f32],
    /// Logits or means, without their bias.
    output: &'a mut [f32],
    /// The gradient of z; before that, the KL divergence's terms.
    dz: &'a mut [f32],
    /// The gradient of a hidden layer.
    dh: &'a mut [f32],
}

impl<'a> Work<'a> {
    /// The lengths, in floats an image, in the order of the fields.
    pub(crate) const fn floats_per_image(network: &Network) -> [usize; WORK] {
        let (hidden, latent) = (network.hidden, network.latent);
        [hidden, hidden, 2 * latent, latent, latent, hidden, hidden, PIXELS, latent, hidden]
    }

    pub(crate) fn new(scratch: &'a mut Scratch<WORK>, images: usize) -> Self {
        let [e1, e2, stats, deviation, z, d1, d2, output, dz, dh] = scratch.slices(images);
        Self { e1, e2, stats, deviation, z, d1, d2, output, dz, dh }
    }
}

/// What a pass reads.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub(crate) network: &'a Network,
    pub(crate) isa: Isa,
    pub(crate) beta: f64,
    pub(crate) parameters: &'a [f32],
}

impl Pass<'_> {
    /// Pixels to `stats`.
    pub(crate) fn encode(&self, x: &[f32], work: &mut Work<'_>) {
        let [first, second, third] = &self.network.encoder;
        first.relu(self.isa, self.parameters, x, work.e1);
        second.relu(self.isa, self.parameters, work.e1, work.e2);
        third.product(self.parameters, work.e2, work.stats);
        kernels::add_bias(self.isa, work.stats, third.bias(self.parameters));
    }

    /// `stats` and noise to `z`; gives the sum of the KL divergences.
    pub(crate) fn sample(&self, noise: &[f32], work: &mut Work<'_>) -> f64 {
        kernels::sample(
            self.isa,
            work.stats,
            noise,
            work.deviation,
            work.z,
            work.dz,
            self.network.latent,
        )
    }

    /// `z` to `output`.
    fn decode(&self, work: &mut Work<'_>) {
        let [first, second, third] = &self.network.decoder;
        first.relu(self.isa, self.parameters, work.z, work.d1);
        second.relu(self.isa, self.parameters, work.d1, work.d2);
        third.product(self.parameters, work.d2, work.output);
    }

    /// `z` to the expected pixels, 0 to 1.
    pub(crate) fn pixels(&self, work: &mut Work<'_>, pixels: &mut [f32]) {
        self.decode(work);
        pixels.copy_from_slice(work.output);
        let bias = self.network.decoder[2].bias(self.parameters);
        match self.network.log_variance {
            None => kernels::add_bias_sigmoid(self.isa, pixels, bias),
            Some(_) => kernels::add_bias_clamp(self.isa, pixels, bias),
        }
    }

    /// All the way forward. `output` becomes its gradient; the gradients of its bias and of
    /// the gaussian's log-variance come with the sums.
    pub(crate) fn forward(
        &self,
        x: &[f32],
        noise: &[f32],
        work: &mut Work<'_>,
        bias_gradient: &mut [f32],
    ) -> (Sums, f32) {
        self.encode(x, work);
        let kl = self.sample(noise, work);
        self.decode(work);
        let bias = self.network.decoder[2].bias(self.parameters);
        let (reconstruction, log_variance_gradient) = match self.network.log_variance {
            None => (kernels::bernoulli(self.isa, work.output, bias, x, bias_gradient), 0.0),
            Some(place) => {
                let log_variance = self.parameters[place];
                let precision = math::exp(-log_variance);
                let squares =
                    kernels::gaussian(self.isa, work.output, bias, x, precision, bias_gradient);
                let (weighted, pixels) = (squares * f64::from(precision), x.len() as f64);
                let sum = 0.5 * (weighted + pixels * (f64::from(log_variance) + LN_TAU));
                (sum, (0.5 * (pixels - weighted)) as f32)
            }
        };
        let loss = reconstruction + self.beta * kl;
        (Sums { terms: [loss, reconstruction, kl] }, log_variance_gradient)
    }

    /// All the way back, after [`Pass::forward`]: the weights' gradients and the hidden
    /// biases'. Gradients of activations overwrite what is not needed any more.
    pub(crate) fn backward(
        &self,
        x: &[f32],
        noise: &[f32],
        work: &mut Work<'_>,
        gradient: &mut [f32],
    ) {
        let Self { network, isa, parameters, .. } = *self;
        let [first, second, third] = &network.decoder;
        third.weight_gradient(work.output, work.d2, gradient);
        third.input_gradient(parameters, work.output, work.dh);
        kernels::relu_backward(isa, work.dh, work.d2, second.bias_gradient(gradient));
        second.weight_gradient(work.dh, work.d1, gradient);
        second.input_gradient(parameters, work.dh, work.d2);
        kernels::relu_backward(isa, work.d2, work.d1, first.bias_gradient(gradient));
        first.weight_gradient(work.d2, work.z, gradient);
        first.input_gradient(parameters, work.d2, work.dz);

        let beta = self.beta as f32;
        let latent = network.latent;
        kernels::sample_backward(isa, work.dz, noise, work.deviation, beta, work.stats, latent);

        let [first, second, third] = &network.encoder;
        kernels::column_sums(isa, work.stats, third.bias_gradient(gradient));
        third.weight_gradient(work.stats, work.e2, gradient);
        third.input_gradient(parameters, work.stats, work.dh);
        kernels::relu_backward(isa, work.dh, work.e2, second.bias_gradient(gradient));
        second.weight_gradient(work.dh, work.e1, gradient);
        second.input_gradient(parameters, work.dh, work.e2);
        kernels::relu_backward(isa, work.e2, work.e1, first.bias_gradient(gradient));
        first.weight_gradient(work.e2, x, gradient);
    }
}
