//! The variational autoencoder through libtorch's autograd: the network with convolutions ([`conv_vae`]), and the network
//! with dense layers as the oracle of tests ([`vae_autograd`]). [`codec`] chooses the network by the architecture;
//! [`AllNetworks`] are the networks of a program that has libtorch.

mod codec;
mod conv;
mod objective;

use model::{Device, ModelError};
use trainer::task::{Error, TaskModel};
use vae::{Codec, Dense, Networks, Settings, VaeTask};
use vae_options::{Architecture, ModelConfig, VaeOptions};

pub use conv::{ConvNet, conv_vae};
pub use objective::{Coder, vae_autograd};

/// Networks of all architectures.
#[derive(Clone, Copy, Debug)]
pub struct AllNetworks;

impl Networks for AllNetworks {
    fn model(options: &VaeOptions, device: Device) -> Result<TaskModel<VaeTask>, Error> {
        match options.architecture {
            Architecture::Dense => Dense::model(options, device),
            Architecture::Conv => {
                Ok(Box::new(conv_vae(&options.model(), Settings::of(options), device)?))
            }
        }
    }

    fn codec(config: &ModelConfig, settings: Settings) -> Result<Box<dyn Codec>, ModelError> {
        codec(config, settings)
    }
}

/// The network of this configuration, on the CPU.
///
/// # Errors
///
/// As [`vae::Vae::with`] and [`conv_vae`].
pub fn codec(config: &ModelConfig, settings: Settings) -> Result<Box<dyn Codec>, ModelError> {
    match config.architecture {
        Architecture::Dense => Dense::codec(config, settings),
        Architecture::Conv => Ok(Box::new(conv_vae(config, settings, Device::Cpu)?)),
    }
}
