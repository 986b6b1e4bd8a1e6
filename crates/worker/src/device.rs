//! Where a worker computes, and the fingerprint that says which bits to expect of it.

use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use membership::Fingerprint;
use model::{
    Isa, blas,
    cuda::{self, GpuError, NoCuda},
    libtorch,
};
use tch::Device;
use transport::nccl::{self, Libraries};

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
    /// The device to use on this machine.
    pub(crate) fn resolve(self, local_rank: Option<u32>) -> Result<Device> {
        match self {
            Self::Auto => Ok(best(local_rank)),
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(index) => match cuda::count() {
                Ok(devices) if index < devices => Ok(Device::Cuda(index)),
                Ok(0) => bail!("--device cuda:{index}: there is no CUDA device; use --device cpu"),
                Ok(devices) => bail!(
                    "--device cuda:{index}: the last CUDA device here is cuda:{}; use that or \
                     another, or --device cpu",
                    devices - 1
                ),
                Err(reason) => bail!("--device cuda:{index}: {reason}; or use --device cpu"),
            },
        }
    }
}

/// A GPU, if there is one; of several GPUs, each of this machine's processes takes another. The task is
/// not known yet, and may need libtorch on the GPU.
fn best(local_rank: Option<u32>) -> Device {
    match cuda::count().and_then(|devices| Ok(cuda::load().map(|()| devices)?)) {
        // A launcher may have hidden all GPUs but the process's own.
        Ok(devices @ 1..) => Device::Cuda(local_rank.map_or(0, |rank| rank as usize % devices)),
        Ok(0) | Err(GpuError::None(NoCuda::Driver)) => Device::Cpu,
        Err(reason) => {
            tracing::info!("computing on the CPU: {reason}");
            Device::Cpu
        }
    }
}

/// What decides whether another worker computes the same bits.
///
/// # Errors
/// The GPU does not tell its name.
pub(crate) fn fingerprint(device: Device) -> Result<Fingerprint> {
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
        // The run decides between f32 and bf16; only with bf16 does this say something.
        precision: blas::bf16_name().into(),
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
    let name = Libraries::open().and_then(|libraries| nccl::name_of_gpu(libraries, index));
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
}
