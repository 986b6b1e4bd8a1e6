//! The options of the variational autoencoder, and its description for programs that do not know it.
//!
//! [`VaeOptions`] are the flags, and also the JSON object that a run keeps and sends to its workers. The crates
//! `vae` and `vae-conv` have the computation; this crate builds without libtorch. Start at [`VaeOptions`].

pub mod bounds;
pub mod conv;

mod describe;
mod upgrade;

use config::{
    InvalidConfig,
    bounds::{NOT_NEGATIVE, is_not_negative},
    validate,
};
use serde::{Deserialize, Serialize};

pub use config::task::Precision;
pub use describe::{EXAMPLE, METRICS, NAME, REVISION};
pub use upgrade::upgrade;

/// The data set that is used if none is named.
pub const DATASET: &str = "mnist";

/// Rows of an image, pixels per row, and numbers per pixel: 1 for grey; 3 for red, green, blue.
pub type ImageShape = [u32; 3];

/// The image shape of [`DATASET`].
pub const MNIST_IMAGE: ImageShape = [28, 28, 1];

/// Numbers of an image.
#[must_use]
pub const fn pixels([height, width, channels]: ImageShape) -> u64 {
    height as u64 * width as u64 * channels as u64
}

/// The options of a variational autoencoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
#[serde(deny_unknown_fields)]
pub struct VaeOptions {
    /// The data set: mnist, fashion-mnist, or a path to a folder of pictures (PNG or JPEG; folders in
    /// it are classes, or train and test, with the classes in both), to a folder of IDX files, or to a
    /// .npy or .npz file
    #[cfg_attr(feature = "clap", arg(long, default_value = DATASET, value_name = "NAME|PATH"))]
    #[serde(default = "dataset")]
    pub dataset: String,
    /// Scale pictures to this many pixels a side [default: their own size, if all are of one size,
    /// else 64]
    #[cfg_attr(feature = "clap", arg(long, value_name = "PIXELS"))]
    #[cfg_attr(feature = "clap", arg(value_parser = manual::whole(bounds::IMAGE_SIDE)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_size: Option<u32>,
    /// Colours of pictures
    #[cfg_attr(feature = "clap", arg(long, value_enum, default_value_t = Color::Auto))]
    #[serde(default)]
    pub color: Color,
    /// The shape of the data set's images, if it differs from MNIST's.
    #[cfg_attr(feature = "clap", arg(skip = MNIST_IMAGE))]
    #[serde(default = "mnist_image", skip_serializing_if = "is_mnist_image")]
    pub image: ImageShape,
    /// The network: dense has fully connected layers. conv has convolutions, for images of 8 to
    /// 256 pixels a side; its pictures are better, and it takes ten times the work
    #[cfg_attr(feature = "clap", arg(long, value_enum, default_value_t = Architecture::Dense))]
    #[serde(default)]
    pub architecture: Architecture,
    /// Width of the two hidden layers of encoder and decoder; with conv, of the layer between
    /// convolutions and latents
    #[cfg_attr(feature = "clap", arg(long, default_value_t = 400, value_name = "N"))]
    #[cfg_attr(feature = "clap", arg(value_parser = manual::whole(bounds::DIM)))]
    pub hidden_dim: u32,
    /// Dimensions of the latent space
    #[cfg_attr(feature = "clap", arg(long, default_value_t = 20, value_name = "N"))]
    #[cfg_attr(feature = "clap", arg(value_parser = manual::whole(bounds::DIM)))]
    pub latent_dim: u32,
    /// Distribution of a pixel given the latents: cross-entropy on grey pixels, or squared error
    /// with one learned variance
    #[cfg_attr(feature = "clap", arg(long, value_enum, default_value_t = Likelihood::Bernoulli))]
    pub likelihood: Likelihood,
    /// Weight of the KL divergence in the objective
    #[cfg_attr(feature = "clap", arg(long, default_value_t = 1.0, value_name = "WEIGHT"))]
    #[cfg_attr(feature = "clap", arg(value_parser = manual::real(NOT_NEGATIVE, is_not_negative)))]
    pub beta: f64,
    /// Epochs in which the weight of the KL divergence grows from zero to --beta (KL annealing)
    #[cfg_attr(feature = "clap", arg(long, alias = "warmup-epochs", default_value_t = 0))]
    #[cfg_attr(feature = "clap", arg(value_name = "N"))]
    #[cfg_attr(feature = "clap", arg(value_parser = manual::whole(bounds::KL_WARMUP_EPOCHS)))]
    #[serde(default)]
    pub kl_warmup_epochs: u32,
    /// Make grey pixels black or white at random, with the probability of their grey
    #[cfg_attr(feature = "clap", arg(long, value_enum, default_value_t = Binarize::None))]
    #[serde(default)]
    pub binarize: Binarize,
    /// Latents drawn for each image; with more than one the objective is the importance-weighted
    /// bound (IWAE)
    #[cfg_attr(feature = "clap", arg(long, default_value_t = 1, value_name = "K"))]
    #[cfg_attr(feature = "clap", arg(value_parser = manual::whole(bounds::IMPORTANCE_SAMPLES)))]
    #[serde(default = "one")]
    pub importance_samples: u32,
    /// Number format of the factors of matrix products; sums, parameters and optimizer stay f32.
    /// bf16 is faster on CPUs with AMX and on GPUs
    #[cfg_attr(feature = "clap", arg(long, value_enum, default_value_t = Precision::F32))]
    #[serde(default)]
    pub precision: Precision,
}

/// Reasons to refuse a convolutional network.
const HEIGHT: &str = "the height of an image for --architecture conv";
const WIDTH: &str = "the width of an image for --architecture conv";
const CONV_BF16: &str = "--architecture conv is computed in f32: leave out --precision bf16";

const fn one() -> u32 {
    1
}

fn dataset() -> String {
    DATASET.into()
}

const fn mnist_image() -> ImageShape {
    MNIST_IMAGE
}

fn is_mnist_image(image: &ImageShape) -> bool {
    *image == MNIST_IMAGE
}

/// The network and its objective.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The shape of an image.
    pub image: ImageShape,
    /// The kind of layers.
    pub architecture: Architecture,
    /// Width of the hidden layers of encoder and decoder.
    pub hidden_dim: u32,
    /// Dimensions of the latent space.
    pub latent_dim: u32,
    /// The distribution of a pixel given the latents.
    pub likelihood: Likelihood,
    /// Weight of the KL divergence in the objective.
    pub beta: f64,
}

/// The kind of layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// Fully connected layers
    #[default]
    Dense,
    /// Convolutions, and fully connected layers around the latents
    Conv,
}

/// The distribution of a pixel given the latents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Likelihood {
    /// Cross-entropy with logits, on grey pixels
    Bernoulli,
    /// Squared error with one learned variance
    Gaussian,
}

/// Colours of pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Color {
    /// RGB where a picture has colour, else grey
    #[default]
    Auto,
    /// Grey
    Grey,
    /// Red, green, blue
    Rgb,
}

/// Whether grey pixels are made black or white.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Binarize {
    /// They stay grey
    #[default]
    None,
    /// White with the probability of their grey, drawn anew in every epoch
    Dynamic,
}

impl Default for VaeOptions {
    fn default() -> Self {
        Self {
            dataset: dataset(),
            image_size: None,
            color: Color::Auto,
            image: MNIST_IMAGE,
            architecture: Architecture::Dense,
            hidden_dim: 400,
            latent_dim: 20,
            likelihood: Likelihood::Bernoulli,
            beta: 1.0,
            kl_warmup_epochs: 0,
            binarize: Binarize::None,
            importance_samples: 1,
            precision: Precision::F32,
        }
    }
}

impl VaeOptions {
    /// Reads the options that a run has kept.
    ///
    /// # Errors
    /// The JSON value does not hold valid options; the error says why.
    pub fn read(options: &serde_json::Value) -> Result<Self, serde_json::Error> {
        Self::deserialize(options)
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// The first option that is out of its bounds.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let [height, width, channels] = self.image;
        validate::count("the height of an image", height, bounds::IMAGE_SIDE)?;
        validate::count("the width of an image", width, bounds::IMAGE_SIDE)?;
        validate::count("the channels of an image", channels, bounds::IMAGE_CHANNELS)?;
        if self.architecture == Architecture::Conv {
            validate::count(HEIGHT, height, conv::IMAGE_SIDE)?;
            validate::count(WIDTH, width, conv::IMAGE_SIDE)?;
            if self.precision == Precision::Bf16 {
                return Err(InvalidConfig::Conflict(CONV_BF16));
            }
        }
        validate::count("--hidden-dim", self.hidden_dim, bounds::DIM)?;
        validate::count("--latent-dim", self.latent_dim, bounds::DIM)?;
        validate::count("--kl-warmup-epochs", self.kl_warmup_epochs, bounds::KL_WARMUP_EPOCHS)?;
        let samples = self.importance_samples;
        validate::count("--importance-samples", samples, bounds::IMPORTANCE_SAMPLES)?;
        if is_not_negative(self.beta) {
            return Ok(());
        }
        Err(InvalidConfig::Real { field: "--beta", value: self.beta, bound: NOT_NEGATIVE })
    }

    /// The network and its objective.
    #[must_use]
    pub fn model(&self) -> ModelConfig {
        let Self { image, architecture, hidden_dim, latent_dim, likelihood, beta, .. } = *self;
        ModelConfig { image, architecture, hidden_dim, latent_dim, likelihood, beta }
    }
}

impl ModelConfig {
    /// The number of trained parameters.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        match self.architecture {
            Architecture::Dense => self.dense_parameters(),
            Architecture::Conv => conv::Levels::of(self.image).parameters(self),
        }
    }

    fn dense_parameters(&self) -> u64 {
        let layer = |inputs: u64, outputs: u64| (inputs + 1) * outputs;
        let (hidden, latent) = (u64::from(self.hidden_dim), u64::from(self.latent_dim));
        let pixels = pixels(self.image);
        let encoder = layer(pixels, hidden) + layer(hidden, hidden) + layer(hidden, 2 * latent);
        let decoder = layer(latent, hidden) + layer(hidden, hidden) + layer(hidden, pixels);
        encoder + decoder + u64::from(self.likelihood == Likelihood::Gaussian)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_survive_json() {
        let options = VaeOptions::default();
        options.validate().unwrap();
        let json = serde_json::to_value(&options).unwrap();
        assert_eq!(VaeOptions::read(&json).unwrap(), options);
        assert_eq!(options.model().parameters(), 973_624);
        assert_eq!((&json["precision"], &json["binarize"]), (&"f32".into(), &"none".into()));
        let options = VaeOptions { image: [64, 48, 3], ..options };
        let json = serde_json::to_value(&options).unwrap();
        assert_eq!(VaeOptions::read(&json).unwrap(), options);
        assert_eq!(options.model().parameters(), 973_624 + (2 * 400 + 1) * (64 * 48 * 3 - 784));
    }

    #[test]
    fn the_architecture_is_kept_and_options_without_one_are_of_the_usual_one() {
        let mut json = serde_json::to_value(VaeOptions::default()).unwrap();
        // The default is kept too, because a flag that is given is compared with the kept value.
        assert_eq!(json.as_object_mut().unwrap().remove("architecture"), Some("dense".into()));
        assert_eq!(VaeOptions::read(&json).unwrap(), VaeOptions::default());
        let conv = VaeOptions { architecture: Architecture::Conv, ..VaeOptions::default() };
        let json = serde_json::to_value(&conv).unwrap();
        assert_eq!(json["architecture"], "conv");
        assert_eq!(VaeOptions::read(&json).unwrap(), conv);
    }

    #[test]
    fn a_convolutional_network_has_bounds_of_its_own() {
        let conv = VaeOptions { architecture: Architecture::Conv, ..VaeOptions::default() };
        conv.validate().unwrap();
        let broken = [
            (VaeOptions { image: [7, 28, 1], ..conv.clone() }, "the height"),
            (VaeOptions { image: [28, 257, 1], ..conv.clone() }, "the width"),
            (VaeOptions { precision: Precision::Bf16, ..conv }, "--precision bf16"),
        ];
        for (options, named) in broken {
            let message = options.validate().unwrap_err().to_string();
            assert!(message.contains(named) && message.contains("conv"), "{message}");
        }
    }

    #[test]
    fn each_bound_is_checked() {
        type Breakage = (fn(&mut VaeOptions), &'static str);
        let broken: [Breakage; 7] = [
            (|o| o.image[1] = 1025, "the width of an image"),
            (|o| o.image[2] = 4, "the channels of an image"),
            (|o| o.hidden_dim = 1 << 20, "--hidden-dim"),
            (|o| o.latent_dim = 0, "--latent-dim"),
            (|o| o.beta = -1.0, "--beta"),
            (|o| o.importance_samples = 0, "--importance-samples"),
            (|o| o.kl_warmup_epochs = u32::MAX, "--kl-warmup-epochs"),
        ];
        for (break_it, named) in broken {
            let mut options = VaeOptions::default();
            break_it(&mut options);
            let message = options.validate().unwrap_err().to_string();
            assert!(message.contains(named), "{message}");
        }
    }
}
