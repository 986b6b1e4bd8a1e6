//! Where a worker computes, and the fingerprint that says which bits to expect of it.

use std::{env, str::FromStr};

use anyhow::{Context as _, Result, bail};
use membership::Fingerprint;
use model::{
    Isa, blas,
    cuda::{self, GpuError, NoCuda},
    libtorch,
};
use tch::Device;
use trainer::task::GpuSupport;
use transport::nccl::Libraries;

/// Lists the GPUs that CUDA shows to a process.
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

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

/// Where to compute, as far as it is known before the task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Candidates {
    /// There.
    One(Device),
    /// On one of so many GPUs, if the task is better off there; else on the CPU.
    Gpus(usize),
}

impl DeviceChoice {
    /// What this machine has to offer.
    pub(crate) fn candidates(self) -> Result<Candidates> {
        match self {
            Self::Auto => Ok(match gpus() {
                0 => Candidates::One(Device::Cpu),
                gpus => Candidates::Gpus(gpus),
            }),
            Self::Cpu => Ok(Candidates::One(Device::Cpu)),
            Self::Cuda(index) => match cuda::count() {
                Ok(devices) if index < devices => Ok(Candidates::One(Device::Cuda(index))),
                Ok(0) => bail!(
                    "--device cuda:{index}: there is no CUDA device{}; use --device cpu",
                    hidden()
                ),
                Ok(devices) => bail!(
                    "--device cuda:{index}: the last CUDA device here is cuda:{}{}; use that or \
                     another, or --device cpu",
                    devices - 1,
                    hidden()
                ),
                Err(reason) => bail!("--device cuda:{index}: {reason}; or use --device cpu"),
            },
        }
    }
}

/// That GPUs may be hidden from this process, as the end of a sentence.
fn hidden() -> String {
    let list = env::var_os(VISIBLE).map(|list| list.to_string_lossy().into_owned());
    list.map(|list| format!(" ({VISIBLE} is {list:?}, which hides all others)")).unwrap_or_default()
}

/// How many GPUs there are; none where something is wrong with them, which is logged.
fn gpus() -> usize {
    match cuda::count() {
        Ok(gpus) => gpus,
        Err(GpuError::None(NoCuda::Driver)) => 0,
        Err(reason) => {
            tracing::info!("computing on the CPU: {reason}");
            0
        }
    }
}

/// A GPU for a task that is better off on one. Of several GPUs each process of this host takes another,
/// by its place among them.
pub(crate) fn best(gpus: usize, local_rank: Option<u32>, support: GpuSupport) -> Device {
    let refused = match support {
        GpuSupport::Kernels => None,
        GpuSupport::Libtorch => cuda::load().err().map(|reason| reason.to_string()),
        GpuSupport::None => Some("the run's options are for CPUs".to_owned()),
    };
    if let Some(reason) = refused {
        tracing::info!("computing on the CPU: {reason}");
        return Device::Cpu;
    }
    // A launcher may have hidden all GPUs but the process's own.
    let place = local_rank.unwrap_or_default() as usize;
    let index = place % gpus;
    if place >= gpus {
        tracing::warn!(
            "sharing cuda:{index}: this is worker {place} of this host, counted from 0, and there are \
             {gpus} GPUs"
        );
    }
    Device::Cuda(index)
}

/// What decides whether another worker computes the same bits.
///
/// # Errors
/// The GPU does not tell its name.
pub(crate) fn fingerprint(device: Device) -> Result<Fingerprint> {
    // The run decides between f32 and bf16; only with bf16 does this say something.
    let precision = if device == Device::Cpu { blas::bf16_name() } else { "bf16 (tensor cores)" };
    let (device, instruction_set) = match device {
        Device::Cpu => ("cpu".to_owned(), blas::deterministic().to_string()),
        Device::Cuda(index) => {
            let gpu = cuda::name(index).with_context(|| {
                format!("cannot tell which GPU cuda:{index} is; use another --device")
            })?;
            ("cuda".to_owned(), gpu)
        }
        other => (format!("{other:?}").to_lowercase(), "unknown".to_owned()),
    };
    Ok(Fingerprint {
        device,
        instruction_set,
        precision: precision.into(),
        libtorch: libtorch::VERSION.into(),
    })
}

/// What is computed on, for people.
pub(crate) fn name(device: Device, fingerprint: &Fingerprint) -> String {
    if device != Device::Cpu {
        return fingerprint.instruction_set.clone();
    }
    let isa = match Isa::best().name() {
        "avx512" => "AVX-512",
        "avx2" => "AVX2",
        other => other,
    };
    format!("CPU ({isa})")
}

/// The name of the GPU that is the device, among those of this host; empty if it is none.
pub(crate) fn gpu(device: Device) -> String {
    let Device::Cuda(index) = device else { return String::new() };
    let there = Libraries::open().map_err(anyhow::Error::new);
    let name = there.and_then(|_| cuda::bus(index).map_err(anyhow::Error::new));
    name.unwrap_or_else(|error| {
        tracing::info!("--collective nccl is out of the question: {error}");
        String::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_no_error_message() {
        let cpu = fingerprint(Device::Cpu).unwrap();
        assert_eq!(cpu.device, "cpu");
        assert!(name(Device::Cpu, &cpu).starts_with("CPU ("), "{}", name(Device::Cpu, &cpu));
        // No machine has so many.
        let error = fingerprint(Device::Cuda(4096)).unwrap_err();
        assert!(error.to_string().contains("cuda:4096"), "{error}");
    }

    #[test]
    fn gpus_are_dealt_by_the_place_on_the_host() {
        let dealt = |gpus, place| best(gpus, place, GpuSupport::Kernels);
        assert_eq!(dealt(1, None), Device::Cuda(0));
        assert_eq!([0, 1, 2, 3].map(|place| dealt(3, Some(place))), [0, 1, 2, 0].map(Device::Cuda));
        assert_eq!(best(2, Some(1), GpuSupport::None), Device::Cpu);
    }
}
