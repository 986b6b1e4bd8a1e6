//! Where a worker computes, and the fingerprint that says which bits to expect of it.

use std::str::FromStr;

use anyhow::{Result, bail};
use config::{Precision, Training};
use membership::Fingerprint;
use model::{Isa, Model, Vae, blas, vae_autograd};
use tch::{Cuda, Device};

/// The libtorch that tch 0.24 binds; its build refuses any other.
const LIBTORCH_VERSION: &str = "2.11.0";

/// The device that the user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeviceChoice {
    Auto,
    Cpu,
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("no device {text:?}: choose auto, cpu, cuda or cuda:N");
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let index = text.strip_prefix("cuda:").ok_or_else(unknown)?;
                index.parse().map(Self::Cuda).map_err(|_| unknown())
            }
        }
    }
}

impl DeviceChoice {
    /// The device to use on this machine; of several GPUs, each of its processes takes another.
    pub(crate) fn resolve(self, local_rank: Option<u32>) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Auto if Cuda::is_available() => {
                let devices = usize::try_from(Cuda::device_count()).unwrap_or_default().max(1);
                // A launcher may have hidden all GPUs but the process's own.
                Ok(Device::Cuda(local_rank.map_or(0, |rank| rank as usize % devices)))
            }
            Self::Auto => Ok(Device::Cpu),
            Self::Cuda(index) => {
                let devices = Cuda::device_count();
                if usize::try_from(devices).is_ok_and(|devices| index < devices) {
                    return Ok(Device::Cuda(index));
                }
                bail!(
                    "--device cuda:{index}: this machine offers {devices} CUDA devices to this \
                     build of libtorch; use --device cpu"
                );
            }
        }
    }
}

/// What decides whether another worker computes the same bits.
pub(crate) fn fingerprint(device: Device) -> Fingerprint {
    let (device, instruction_set) = match device {
        Device::Cpu => ("cpu".to_owned(), blas::deterministic().to_string()),
        Device::Cuda(_) => ("cuda".to_owned(), "cuda".to_owned()),
        other => (format!("{other:?}").to_lowercase(), "unknown".to_owned()),
    };
    Fingerprint {
        device,
        instruction_set,
        // The run decides between f32 and bf16; only with bf16 does this say something.
        precision: blas::precision_name(Precision::Bf16).into(),
        libtorch: LIBTORCH_VERSION.into(),
    }
}

/// The model on the device.
pub(crate) fn model(training: &Training, device: Device) -> Result<Box<dyn Model>> {
    let (config, samples) = (&training.model, training.importance_samples);
    Ok(match (device, training.precision) {
        (Device::Cpu, precision) => {
            Box::new(Vae::with_samples(config, precision, Isa::best(), samples)?)
        }
        (device, Precision::F32) => Box::new(vae_autograd(config, samples, device)?),
        (_, Precision::Bf16) => bail!("--precision bf16 is for CPUs so far: use --precision f32"),
    })
}
