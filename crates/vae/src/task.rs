//! The variational autoencoder as a task: its options, its data set, its models, and its pictures.

use data::{Files, Splits};
use images::{Colour, Images, Shape};
use tch::Device;
use thiserror::Error;
use trainer::{
    Artifacts, Metric, Task,
    task::{ArtifactFiles, Error, GpuSupport, TaskModel},
};
use vae_options::{Architecture, Color, Precision, VaeOptions};

use crate::{Settings, Vae, codec, conv_vae, cuda, samples, vae_autograd};

/// The variational autoencoder on images.
#[derive(Clone, Copy, Debug)]
pub struct VaeTask;

/// The images do not have the shape that the options say.
#[derive(Clone, Debug, Error)]
#[error("the images of {name} are {found}, but the run's options say {expected}")]
struct OtherShape {
    name: String,
    found: Shape,
    expected: Shape,
}

/// The device does not support bf16.
#[derive(Clone, Copy, Debug, Error)]
#[error(
    "the run computes with --precision bf16, which only CPUs and NVIDIA's GPUs support: start \
     this worker with --device cpu, or begin a new run with --precision f32"
)]
struct NoBf16;

const METRICS: [Metric; vae_options::METRICS.len()] = {
    let [loss, reconstruction, kl] = vae_options::METRICS;
    [metric(loss), metric(reconstruction), metric(kl)]
};

const fn metric((name, unit): (&'static str, &'static str)) -> Metric {
    Metric { name, unit }
}

impl Task for VaeTask {
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
        let (config, settings) = (&options.model(), Settings::of(options));
        if options.architecture == Architecture::Conv {
            return Ok(Box::new(conv_vae(config, settings, device)?));
        }
        Ok(match (device, options.precision) {
            (Device::Cpu, _) => Box::new(Vae::with(config, settings)?),
            (Device::Cuda(index), _) => Box::new(cuda::Vae::new(config, settings, index)?),
            (device, Precision::F32) => Box::new(vae_autograd(config, settings, device)?),
            (_, Precision::Bf16) => return Err(NoBf16.into()),
        })
    }

    /// Writes the picture of the epoch.
    fn artifacts(
        options: &VaeOptions,
        context: &Artifacts<'_, Images>,
    ) -> Result<ArtifactFiles, Error> {
        let mut codec = codec(&options.model(), Settings::default())?;
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
        options.task_precision()
    }

    fn gpu_support(options: &VaeOptions) -> GpuSupport {
        match options.architecture {
            Architecture::Conv => GpuSupport::Libtorch,
            Architecture::Dense => GpuSupport::Kernels,
        }
    }

    fn is_portable(options: &VaeOptions) -> bool {
        options.is_portable()
    }
}
