//! The variational autoencoder with convolutions, by autograd: `--architecture conv`.
//!
//! Each level of the encoder halves the sides and doubles the channels; the decoder reverses
//! this. Group norm keeps the examples of a batch independent, which batch norm would not. The
//! objective is that of the fully connected network; see `objective.rs`.

use autograd::Autograd;
use model::{Device, ModelError};
use tch::{
    Tensor,
    nn::{self, Module as _, Path},
};
use vae::{Codec, Settings};
use vae_options::{
    Likelihood, ModelConfig,
    conv::{GROUP, IMAGE_SIDE, KERNEL, LAST_KERNEL, Levels, PADDING, STRIDE},
};

use crate::{
    codec::ConvVae,
    objective::{Coder, objective},
};

/// Encoder and decoder.
#[derive(Debug)]
pub struct ConvNet {
    encoder: nn::Sequential,
    decoder: nn::Sequential,
    log_variance: Option<Tensor>,
    /// The shape of an image: height, width, channels.
    shape: [i64; 3],
    latent: u32,
}

impl ConvNet {
    /// The network of this configuration.
    #[must_use]
    pub fn new(path: &Path<'_>, config: &ModelConfig) -> Self {
        let levels = Levels::of(config.image);
        let (dense, latent) = (i64::from(config.hidden_dim), i64::from(config.latent_dim));
        let is_gaussian = config.likelihood == Likelihood::Gaussian;
        Self {
            encoder: encoder(&(path / "encoder"), &levels, dense, latent),
            decoder: decoder(&(path / "decoder"), &levels, dense, latent),
            log_variance: is_gaussian.then(|| path.zeros("log_variance", &[1])),
            shape: config.image.map(i64::from),
            latent: config.latent_dim,
        }
    }

    /// The number of dimensions of the latent space.
    pub(crate) const fn latent_dim(&self) -> usize {
        self.latent as usize
    }

    /// The number of values in an image: height times width times channels.
    pub(crate) fn pixels(&self) -> usize {
        self.shape.iter().product::<i64>() as usize
    }
}

impl Coder for ConvNet {
    fn encode(&self, pixels: &Tensor) -> Tensor {
        let [height, width, colours] = self.shape;
        // The image has the channels of a pixel side by side; the layers take one channel after the other.
        let pictures = pixels.view([-1, height, width, colours]).permute([0, 3, 1, 2]);
        self.encoder.forward(&pictures.contiguous())
    }

    fn decode(&self, z: &Tensor) -> Tensor {
        let pictures = self.decoder.forward(z).permute([0, 2, 3, 1]);
        pictures.reshape([-1, self.shape.iter().product()])
    }

    fn log_variance(&self) -> Option<&Tensor> {
        self.log_variance.as_ref()
    }
}

/// Group norm, then the activation.
fn normalised(layers: nn::Sequential, path: &Path<'_>, channels: u32) -> nn::Sequential {
    let (groups, channels) = (i64::from(channels / GROUP), i64::from(channels));
    let norm = nn::group_norm(path / "norm", groups, channels, Default::default());
    layers.add(norm).add_fn(Tensor::silu)
}

fn encoder(path: &Path<'_>, levels: &Levels, dense: i64, latent: i64) -> nn::Sequential {
    let (stride, padding) = (i64::from(STRIDE), i64::from(PADDING));
    let config = nn::ConvConfig { stride, padding, ..Default::default() };
    let (mut layers, mut inputs) = (nn::seq(), levels.image().channels);
    for (number, level) in levels.below().iter().enumerate() {
        let path = path / number;
        let [from, to, kernel] = [inputs, level.channels, KERNEL].map(i64::from);
        layers = layers.add(nn::conv2d(&path / "conv", from, to, kernel, config));
        layers = normalised(layers, &path, level.channels);
        inputs = level.channels;
    }
    let features = levels.smallest().numbers() as i64;
    layers
        .add_fn(|x| x.flatten(1, -1))
        .add(nn::linear(path / "dense", features, dense, Default::default()))
        .add_fn(Tensor::silu)
        .add(nn::linear(path / "latent", dense, 2 * latent, Default::default()))
}

fn decoder(path: &Path<'_>, levels: &Levels, dense: i64, latent: i64) -> nn::Sequential {
    let smallest = levels.smallest();
    let [channels, height, width] =
        [smallest.channels, smallest.sides[0], smallest.sides[1]].map(i64::from);
    let mut layers = nn::seq()
        .add(nn::linear(path / "latent", latent, dense, Default::default()))
        .add_fn(Tensor::silu)
        .add(nn::linear(path / "dense", dense, smallest.numbers() as i64, Default::default()))
        .add_fn(move |x| x.silu().view([-1, channels, height, width]));
    let (stride, padding) = (i64::from(STRIDE), i64::from(PADDING));
    let doubling = nn::ConvTransposeConfig { stride, padding, ..Default::default() };
    for (number, level) in levels.below().iter().enumerate().rev() {
        let (above, path) = (levels.above(number), path / number);
        let [from, to, kernel] = [level.channels, above.channels, KERNEL].map(i64::from);
        layers = layers.add(nn::conv_transpose2d(&path / "conv", from, to, kernel, doubling));
        let [bottom, right] = levels.missing(number).map(i64::from);
        if [bottom, right] != [0, 0] {
            layers = layers.add_fn(move |x| x.replication_pad2d([0, right, 0, bottom]));
        }
        layers = normalised(layers, &path, above.channels);
    }
    let config = nn::ConvConfig { padding, ..Default::default() };
    let [from, to, kernel] =
        [levels.above(0).channels, levels.image().channels, LAST_KERNEL].map(i64::from);
    layers.add(nn::conv2d(path / "output", from, to, kernel, config))
}

/// The convolutional VAE on `device`. The settings' precision is ignored.
///
/// # Errors
///
/// [`ModelError::Number`] for images of a size that it does not support, [`ModelError::Libtorch`] if the device
/// fails.
pub fn conv_vae(
    config: &ModelConfig,
    settings: Settings,
    device: Device,
) -> Result<impl Codec + use<>, ModelError> {
    let [height, width, _] = config.image;
    for (name, side) in [("the height of the images", height), ("the width of the images", width)] {
        if !IMAGE_SIDE.contains(&side) {
            let (value, allowed) = (side.into(), "8 to 256");
            return Err(ModelError::Number { name, value, allowed });
        }
    }
    let (objective, config) = (objective(config, settings), config.clone());
    Ok(ConvVae(Autograd::new(device, move |path| ConvNet::new(path, &config), objective)?))
}
