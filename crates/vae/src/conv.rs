//! The variational autoencoder with convolutions, by autograd: `--architecture conv`.
//!
//! Each level of the encoder halves the sides and doubles what it knows of a place; the decoder goes
//! the same way back. Group norm keeps the examples of a batch apart, as batch norm would not. The
//! objective is that of the fully connected network; see `objective.rs`.

use images::Images;
use model::{Autograd, Model, ModelError};
use tch::{
    Device, Tensor,
    nn::{self, Module as _, Path},
};
use vae_options::{Likelihood, ModelConfig, conv};

use crate::{
    Settings,
    objective::{Coder, objective},
};

/// Channels of a group whose numbers are normalised together.
const GROUP: i64 = 8;

/// Width of the dense layers, and channels of the decoder at the full size.
const DENSE: i64 = conv::DENSE as i64;
const LAST_KERNEL: i64 = conv::LAST_KERNEL as i64;
const LAST_CHANNELS: i64 = conv::LAST_CHANNELS as i64;

/// Side, step and border of the convolutions that halve the sides, and of those that double them.
const KERNEL: i64 = conv::KERNEL as i64;
const STRIDE: i64 = 2;
const PADDING: i64 = 1;

/// A level: its channels, and the sides of what it gives.
#[derive(Clone, Copy, Debug)]
struct Level {
    channels: i64,
    sides: [i64; 2],
}

impl From<conv::Level> for Level {
    fn from(level: conv::Level) -> Self {
        Self { channels: level.channels.into(), sides: level.sides.map(i64::from) }
    }
}

/// Encoder and decoder.
#[derive(Debug)]
pub struct ConvNet {
    encoder: nn::Sequential,
    decoder: nn::Sequential,
    log_variance: Option<Tensor>,
    /// Of a picture: height, width, channels.
    shape: [i64; 3],
}

impl ConvNet {
    /// The network of a configuration.
    #[must_use]
    pub fn new(path: &Path<'_>, config: &ModelConfig) -> Self {
        let [height, width, colours] = config.image.map(i64::from);
        let latent = i64::from(config.latent_dim);
        let picture = Level { channels: colours, sides: [height, width] };
        let levels: Vec<Level> = conv::levels(config.image).into_iter().map(Level::from).collect();
        let smallest = *levels.last().unwrap_or(&picture);
        let features = smallest.channels * smallest.sides[0] * smallest.sides[1];
        let is_gaussian = config.likelihood == Likelihood::Gaussian;
        Self {
            encoder: encoder(&(path / "encoder"), &levels, picture, [features, 2 * latent]),
            decoder: decoder(&(path / "decoder"), &levels, picture, [latent, features]),
            log_variance: is_gaussian.then(|| path.zeros("log_variance", &[1])),
            shape: [height, width, colours],
        }
    }
}

impl Coder for ConvNet {
    fn encode(&self, pixels: &Tensor) -> Tensor {
        let [height, width, colours] = self.shape;
        // The colours of a pixel lie side by side, and the layers want them one after the other.
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
fn normalised(layers: nn::Sequential, path: &Path<'_>, channels: i64) -> nn::Sequential {
    let norm = nn::group_norm(path / "norm", channels / GROUP, channels, Default::default());
    layers.add(norm).add_fn(Tensor::silu)
}

fn encoder(
    path: &Path<'_>,
    levels: &[Level],
    picture: Level,
    [features, outputs]: [i64; 2],
) -> nn::Sequential {
    let config = nn::ConvConfig { stride: STRIDE, padding: PADDING, ..Default::default() };
    let (mut layers, mut inputs) = (nn::seq(), picture.channels);
    for (number, level) in levels.iter().enumerate() {
        let path = path / number;
        layers = layers.add(nn::conv2d(&path / "conv", inputs, level.channels, KERNEL, config));
        layers = normalised(layers, &path, level.channels);
        inputs = level.channels;
    }
    layers
        .add_fn(|x| x.flatten(1, -1))
        .add(nn::linear(path / "dense", features, DENSE, Default::default()))
        .add_fn(Tensor::silu)
        .add(nn::linear(path / "latent", DENSE, outputs, Default::default()))
}

fn decoder(
    path: &Path<'_>,
    levels: &[Level],
    picture: Level,
    [latent, features]: [i64; 2],
) -> nn::Sequential {
    let smallest = *levels.last().unwrap_or(&picture);
    let Level { channels, sides: [height, width] } = smallest;
    let mut layers = nn::seq()
        .add(nn::linear(path / "latent", latent, DENSE, Default::default()))
        .add_fn(Tensor::silu)
        .add(nn::linear(path / "dense", DENSE, features, Default::default()))
        .add_fn(move |x| x.silu().view([-1, channels, height, width]));
    let doubling =
        nn::ConvTransposeConfig { stride: STRIDE, padding: PADDING, ..Default::default() };
    let full = Level { channels: LAST_CHANNELS, ..picture };
    for (number, level) in levels.iter().enumerate().rev() {
        let larger = if number == 0 { full } else { levels[number - 1] };
        let path = path / number;
        let conv =
            nn::conv_transpose2d(&path / "conv", level.channels, larger.channels, KERNEL, doubling);
        // Where a side was odd, half of it was rounded down.
        let [bottom, right] = [0, 1].map(|i| larger.sides[i] - STRIDE * level.sides[i]);
        layers = layers.add(conv);
        if [bottom, right] != [0, 0] {
            layers = layers.add_fn(move |x| x.replication_pad2d([0, right, 0, bottom]));
        }
        layers = normalised(layers, &path, larger.channels);
    }
    let config = nn::ConvConfig { padding: PADDING, ..Default::default() };
    layers.add(nn::conv2d(path / "output", LAST_CHANNELS, picture.channels, LAST_KERNEL, config))
}

/// The convolutional VAE for pictures of the configuration's shape, on `device`. The settings'
/// precision and the width of the hidden layers do not count.
///
/// # Errors
///
/// [`ModelError::Libtorch`] where the device fails, or the pictures are too small.
pub fn conv_vae(
    config: &ModelConfig,
    settings: Settings,
    device: Device,
) -> Result<impl Model<Data = Images> + use<>, ModelError> {
    let (objective, config) = (objective(config, settings), config.clone());
    Autograd::new(device, move |path| ConvNet::new(path, &config), objective)
}
