//! The variational autoencoder as a task: its options, its data set, its models, and its pictures.

use std::marker::PhantomData;

use data::{Files, Splits};
use images::{Colour, Images, Shape};
use model::{Device, ModelError};
use thiserror::Error;
use trainer::{
    Artifacts, Metric, Task,
    task::{ArtifactFiles, Error, GpuSupport, TaskModel},
};
use vae_options::{Architecture, Color, ModelConfig, VaeOptions};

use crate::{Codec, Settings, Vae, cuda, samples};

/// The variational autoencoder on images, with the networks of a program.
#[derive(Clone, Copy, Debug)]
pub struct VaeTask<N = Dense>(PhantomData<N>);

/// The networks that a program has.
pub trait Networks: 'static {
    /// Makes the network of a run's options, to train it.
    ///
    /// # Errors
    /// The program does not have it, the options do not give a valid network, or the device fails.
    fn model(options: &VaeOptions, device: Device) -> Result<TaskModel<VaeTask>, Error>;

    /// Makes the network of a configuration on the CPU, to use it.
    ///
    /// # Errors
    /// As [`Networks::model`].
    fn codec(config: &ModelConfig, settings: Settings) -> Result<Box<dyn Codec>, ModelError>;
}

/// The network with dense layers, in a program without libtorch.
#[derive(Clone, Copy, Debug)]
pub struct Dense;

/// The program that has the network of these options, if it is not `vae-worker`.
#[must_use]
pub fn other_program(task: &config::Task) -> Option<&'static str> {
    let options: VaeOptions = serde::Deserialize::deserialize(&task.options).ok()?;
    let is_ours = task.name == <VaeTask as Task>::NAME;
    (is_ours && options.architecture == Architecture::Conv).then_some("vae-worker-conv")
}

/// The program lacks a network.
const NO_CONVOLUTIONS: &str = "this program has no libtorch, which --architecture conv needs";

impl Networks for Dense {
    fn model(options: &VaeOptions, device: Device) -> Result<TaskModel<VaeTask>, Error> {
        let (config, settings) = (&options.model(), Settings::of(options));
        Ok(match (options.architecture, device) {
            (Architecture::Conv, _) => return Err(NO_CONVOLUTIONS.into()),
            (Architecture::Dense, Device::Cpu) => Box::new(Vae::with(config, settings)?),
            (Architecture::Dense, Device::Cuda(index)) => {
                Box::new(cuda::Vae::new(config, settings, index)?)
            }
        })
    }

    fn codec(config: &ModelConfig, settings: Settings) -> Result<Box<dyn Codec>, ModelError> {
        match config.architecture {
            Architecture::Dense => Ok(Box::new(Vae::with(config, settings)?)),
            Architecture::Conv => Err(ModelError::Module(NO_CONVOLUTIONS.into())),
        }
    }
}

/// The images do not have the shape that the options say.
#[derive(Clone, Debug, Error)]
#[error("the images of {name} are {found}, but the run's options say {expected}")]
struct OtherShape {
    name: String,
    found: Shape,
    expected: Shape,
}

const METRICS: [Metric; vae_options::METRICS.len()] = {
    let [loss, reconstruction, kl] = vae_options::METRICS;
    [metric(loss), metric(reconstruction), metric(kl)]
};

const fn metric((name, unit): (&'static str, &'static str)) -> Metric {
    Metric { name, unit }
}

impl<N: Networks> Task for VaeTask<N> {
    const NAME: &'static str = vae_options::NAME;
    const REVISION: u32 = vae_options::REVISION;
    const EXAMPLE: &'static str = vae_options::EXAMPLE;
    const METRICS: &'static [Metric] = &METRICS;
    type Options = VaeOptions;
    type Data = Images;

    fn validate(options: &VaeOptions) -> Result<(), Error> {
        Ok(options.validate()?)
    }

    fn manifest(options: &VaeOptions) -> Result<config::Manifest, Error> {
        let colour = match options.color {
            Color::Auto => Colour::Auto,
            Color::Grey => Colour::Grey,
            Color::Rgb => Colour::Rgb,
        };
        let how = images::Options { side: options.image_size, colour };
        let cache = data::cache_dir();
        let set = images::dataset(options.dataset.as_ref(), &how, &cache, &mut |_, _| ())?;
        Ok(set.manifest)
    }

    fn data(options: &VaeOptions, files: &Files) -> Result<Splits<Images>, Error> {
        let images = images::splits(files)?;
        let (found, [height, width, channels]) = (images.train.shape(), options.image);
        let expected = Shape { height, width, channels };
        if found != expected {
            let name = files.manifest().name.clone();
            return Err(OtherShape { name, found, expected }.into());
        }
        Ok(images)
    }

    fn model(options: &VaeOptions, device: Device) -> Result<TaskModel<Self>, Error> {
        N::model(options, device)
    }

    /// Writes the picture of the epoch.
    fn artifacts(
        options: &VaeOptions,
        context: &Artifacts<'_, Images>,
    ) -> Result<ArtifactFiles, Error> {
        let mut codec = N::codec(&options.model(), Settings::default())?;
        let canvas = samples::draw(&mut *codec, options.binarize, context)?;
        Ok(vec![(format!("epoch-{:03}.png", context.epoch), canvas.png()?)])
    }

    fn summary(options: &VaeOptions) -> String {
        options.summary()
    }

    fn size(options: &VaeOptions) -> Result<config::Size, Error> {
        Ok(options.size())
    }

    fn precision(options: &VaeOptions) -> config::task::Precision {
        options.precision
    }

    fn gpu_support(options: &VaeOptions) -> GpuSupport {
        match options.architecture {
            Architecture::Conv => GpuSupport::Libtorch,
            Architecture::Dense => GpuSupport::Kernels(cuda::check),
        }
    }

    fn is_portable(options: &VaeOptions) -> bool {
        options.is_portable()
    }
}
