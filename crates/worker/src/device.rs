//! The device on which a worker computes, and the fingerprint of its arithmetic.

use std::{env, str::FromStr};

use anyhow::{Context as _, Result, bail};
use membership::Fingerprint;
use model::{
    Device, Isa, Library,
    cuda::{self, GpuError, NoCuda},
};
use trainer::task::GpuSupport;
use transport::nccl::Libraries;

/// The environment variable that lists the GPUs which CUDA shows to a process.
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

/// The possible devices, before the task is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Candidates {
    /// This device.
    One(Device),
    /// One of so many GPUs if the task supports GPUs; else the CPU.
    Gpus(usize),
}

impl DeviceChoice {
    /// The possible devices of this machine.
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

impl Candidates {
    /// Whether the run's task decides.
    pub(crate) const fn depend_on_task(self) -> bool {
        matches!(self, Self::Gpus(_))
    }

    /// The device to compute on.
    pub(crate) fn choose(
        self,
        local_rank: Option<u32>,
        support: impl FnOnce() -> GpuSupport,
        library: Option<Library>,
    ) -> Device {
        match self {
            Self::One(device) => device,
            Self::Gpus(gpus) => best(gpus, local_rank, support(), library),
        }
    }
}

/// The end of a sentence: says that GPUs may be hidden from this process.
fn hidden() -> String {
    let list = env::var_os(VISIBLE).map(|list| list.to_string_lossy().into_owned());
    list.map(|list| format!(" ({VISIBLE} is {list:?}, which hides all others)")).unwrap_or_default()
}

/// The number of GPUs; 0 if they cannot be used, which is logged.
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

/// The device for a task: a GPU if the task supports one, else the CPU. With several GPUs, the process's
/// index on its host chooses the GPU.
fn best(
    gpus: usize,
    local_rank: Option<u32>,
    support: GpuSupport,
    library: Option<Library>,
) -> Device {
    // A launcher may have hidden all GPUs but the process's own.
    let place = local_rank.unwrap_or_default() as usize;
    let index = place % gpus;
    let refused = match support {
        GpuSupport::Kernels(check) => check(index).err().map(|reason| reason.to_string()),
        GpuSupport::Libtorch => {
            let opened = library.map_or(Err(NoCuda::Library), |library| (library.open_gpus)());
            opened.err().map(|reason| reason.to_string())
        }
        GpuSupport::None => Some("the run's options are for CPUs".to_owned()),
    };
    if let Some(reason) = refused {
        tracing::info!("computing on the CPU: {reason}");
        return Device::Cpu;
    }
    if place >= gpus {
        tracing::warn!(
            "sharing cuda:{index}: this is worker {place} of this host, counted from 0, and there are \
             {gpus} GPUs"
        );
    }
    Device::Cuda(index)
}

/// The fingerprint of a device. Workers with equal fingerprints compute the same bits.
///
/// # Errors
/// The name of the GPU cannot be read.
pub(crate) fn fingerprint(device: Device, library: Option<Library>) -> Result<Fingerprint> {
    // The run decides between f32 and bf16. This name matters only with bf16.
    let precision = match (device, library) {
        (Device::Cuda(_), _) => "bf16 (tensor cores)",
        (Device::Cpu, Some(library)) => (library.bf16_unit)(),
        (Device::Cpu, None) => "bf16",
    };
    let (device, instruction_set) = match device {
        Device::Cpu => {
            let own = || Isa::best().name().to_owned();
            ("cpu".to_owned(), library.map_or_else(own, |library| (library.settle)()))
        }
        Device::Cuda(index) => {
            let gpu = cuda::name(index).with_context(|| {
                format!("cannot read the name of the GPU cuda:{index}; use another --device")
            })?;
            ("cuda".to_owned(), gpu)
        }
    };
    Ok(Fingerprint {
        device,
        instruction_set,
        precision: precision.into(),
        libtorch: library.map_or("none", |library| library.version).into(),
    })
}

/// The name of the device, for people.
pub(crate) fn name(device: Device, fingerprint: &Fingerprint) -> String {
    if device != Device::Cpu {
        return fingerprint.instruction_set.clone();
    }
    let isa = match Isa::best().name() {
        "avx512" | "amx" => "AVX-512",
        "avx2" => "AVX2",
        other => other,
    };
    format!("CPU ({isa})")
}

/// The bus id of the device's GPU, unique on this host. Empty on the CPU, and if NCCL cannot be used.
pub(crate) fn gpu(device: Device) -> String {
    let Device::Cuda(index) = device else { return String::new() };
    let there = Libraries::open().map_err(anyhow::Error::new);
    let name = there.and_then(|_| cuda::bus(index).map_err(anyhow::Error::new));
    name.unwrap_or_else(|error| {
        tracing::info!("--collective nccl is not possible: {error}");
        String::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_no_error_message() {
        let cpu = fingerprint(Device::Cpu, None).unwrap();
        assert_eq!(cpu.device, "cpu");
        assert!(name(Device::Cpu, &cpu).starts_with("CPU ("), "{}", name(Device::Cpu, &cpu));
        // No machine has so many GPUs.
        let error = fingerprint(Device::Cuda(4096), None).unwrap_err();
        assert!(error.to_string().contains("cuda:4096"), "{error}");
    }

    #[test]
    fn gpus_are_dealt_by_the_place_on_the_host() {
        let dealt = |gpus, place| best(gpus, place, GpuSupport::Kernels(|_| Ok(())), None);
        assert_eq!(dealt(1, None), Device::Cuda(0));
        assert_eq!([0, 1, 2, 3].map(|place| dealt(3, Some(place))), [0, 1, 2, 0].map(Device::Cuda));
        assert_eq!(best(2, Some(1), GpuSupport::None, None), Device::Cpu);
        let too_old = |_| Err(GpuError::OldVersion { found: 12_040 });
        assert_eq!(best(2, Some(1), GpuSupport::Kernels(too_old), None), Device::Cpu);
    }
}
