//! The VAE's layers and their places in the flat vectors. Sizes are checked here.

use std::ops::Range;

use vae_options::{ImageShape, Likelihood, ModelConfig};

use model::{
    Layout, ModelError,
    gemm::{self, Matrix},
    memory,
};

use crate::element::Element;

/// A fully connected layer: y = x W' + b with W `[outputs, inputs]`, row-major.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) weight: Range<usize>,
    pub(crate) bias: Range<usize>,
}

impl Linear {
    pub(crate) fn bias<'a>(&self, parameters: &'a [f32]) -> &'a [f32] {
        &parameters[self.bias.clone()]
    }

    /// The inputs of the layer, one row per image.
    pub(crate) fn rows<'a, E: Element>(&self, x: &'a [E]) -> Matrix<'a, E> {
        Matrix::new(x, x.len() / self.inputs, self.inputs)
    }

    pub(crate) fn matrix<'a, E: Element>(&self, weights: &'a [E]) -> Matrix<'a, E> {
        Matrix::new(&weights[self.weight.clone()], self.outputs, self.inputs)
    }
}

/// All layers, in the order of the forward pass. ReLU follows every layer except the last of each half.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) layout: Layout,
    pub(crate) encoder: [Linear; 3],
    pub(crate) decoder: [Linear; 3],
    /// The place of the Gaussian likelihood's log-variance.
    pub(crate) log_variance: Option<usize>,
    /// Numbers of an image: pixels times channels.
    pub(crate) pixels: usize,
    pub(crate) hidden: usize,
    pub(crate) latent: usize,
}

/// The least number of flat vectors that a member holds: the state and the gradient.
const VECTORS: u128 = 4;

impl Network {
    pub(crate) fn new(config: &ModelConfig) -> Result<Self, ModelError> {
        let pixels = pixels(config.image)?;
        let hidden = side("hidden_dim", config.hidden_dim, gemm::SIDE_MAX)?;
        // Mean and log-variance are one matrix of twice the width.
        let latent = side("latent_dim", config.latent_dim, gemm::SIDE_MAX / 2)?;
        if !(config.beta.is_finite() && config.beta >= 0.0) {
            let allowed = "a finite number, zero or above";
            return Err(ModelError::Number { name: "beta", value: config.beta, allowed });
        }
        memory::check(4 * VECTORS * u128::from(config.parameters()), || {
            format!(
                "a model with hidden_dim {hidden} and latent_dim {latent} for images of {pixels} numbers"
            )
        })?;
        let layers = [
            ("encoder.0", pixels, hidden),
            ("encoder.2", hidden, hidden),
            ("encoder.4", hidden, 2 * latent),
            ("decoder.0", latent, hidden),
            ("decoder.2", hidden, hidden),
            ("decoder.4", hidden, pixels),
        ];
        let tensors = layers.iter().flat_map(|&(name, inputs, outputs)| {
            [
                (format!("{name}.weight"), vec![outputs, inputs]),
                (format!("{name}.bias"), vec![outputs]),
            ]
        });
        let gaussian = config.likelihood == Likelihood::Gaussian;
        let log_variance = gaussian.then(|| ("log_variance".to_owned(), vec![1]));
        let layout = Layout::new(tensors.chain(log_variance));
        // Each layer has two tensors, in the order above.
        let linear = |layer: usize| Linear {
            inputs: layers[layer].1,
            outputs: layers[layer].2,
            weight: layout.entries()[2 * layer].range.clone(),
            bias: layout.entries()[2 * layer + 1].range.clone(),
        };
        Ok(Self {
            encoder: [0, 1, 2].map(linear),
            decoder: [3, 4, 5].map(linear),
            log_variance: layout.range("log_variance").map(|range| range.start),
            layout,
            pixels,
            hidden,
            latent,
        })
    }
}

/// The layout of the parameters of this configuration.
///
/// # Errors
///
/// As [`crate::Vae::new`].
pub fn layout(config: &ModelConfig) -> Result<Layout, ModelError> {
    Ok(Network::new(config)?.layout)
}

/// The numbers of an image, checked.
fn pixels(image: ImageShape) -> Result<usize, ModelError> {
    let pixels = vae_options::pixels(image);
    let max = gemm::SIDE_MAX as u64;
    if pixels == 0 || pixels > max {
        return Err(ModelError::Size { name: "numbers of an image", value: pixels, max });
    }
    Ok(pixels as usize)
}

pub(crate) fn side(name: &'static str, value: u32, max: usize) -> Result<usize, ModelError> {
    let size = value as usize;
    if size == 0 || size > max {
        return Err(ModelError::Size { name, value: value.into(), max: max as u64 });
    }
    Ok(size)
}
