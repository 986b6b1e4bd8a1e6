//! GPUs. Nothing is linked with what drives them, so that one program serves every machine: the
//! driver's library is opened at run time ([`Driver`]), and it is all that a model by hand needs.
//! What computes with libtorch's autograd on a GPU calls [`load`] first, which opens libtorch's part
//! for them.
//!
//! [`Gpu`] is one GPU with memory, kernels and graphs; [`compiler`] compiles kernels. Nothing here
//! knows what the kernels compute, and no error of a GPU panics.

mod driver;
mod gpu;
mod memory;
mod meter;
mod registered;

pub mod compiler;

use std::sync::OnceLock;

use thiserror::Error;

use self::driver::Driver;
pub use self::{
    gpu::{Arguments, Gpu, Graph, Kernel, Module},
    memory::{Buffer, Event, Pinned, Place, Plain},
    meter::{Time, Timed, Traffic},
    registered::Registered,
};

/// Compute capability of the oldest GPUs that kernels are compiled for, times ten.
pub const CAPABILITY_MIN: u32 = 80;

/// Why there is no CUDA device.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NoCuda {
    /// Nothing drives a GPU.
    #[error("no NVIDIA driver is installed (libcuda.so.1 was not found)")]
    Driver,
    /// There may be a GPU, but libtorch cannot use it.
    #[error(
        "this libtorch is for CPUs alone (libtorch_cuda.so was not found): \
         `cargo xtask setup --flavour cuda` fetches the other"
    )]
    Library,
}

/// What a GPU answered.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum GpuError {
    /// It cannot be used.
    #[error(transparent)]
    None(#[from] NoCuda),
    /// The driver lacks a function.
    #[error(
        "the NVIDIA driver is too old: libcuda.so.1 has no {0}; install one for CUDA 12 or later"
    )]
    OldDriver(&'static str),
    /// The driver cannot load what the kernels' compiler makes.
    #[error(
        "the NVIDIA driver is too old: it is for CUDA {}.{}, and 13.0 is needed (driver 580 or later); \
         use --device cpu until it is updated",
        found / 1000, found % 1000 / 10
    )]
    OldVersion {
        /// The version of CUDA that it is for, as the driver tells it.
        found: u32,
    },
    /// Another process has the GPU.
    #[error(
        "another process computes on {name}, whose compute mode is exclusive-process; give each worker a \
         GPU of its own, allow several with `nvidia-smi -c DEFAULT`, or use --device cpu"
    )]
    Exclusive {
        /// The GPU's name.
        name: String,
    },
    /// Nobody may have the GPU.
    #[error(
        "nobody may compute on {name}: its compute mode is prohibited; allow it with \
         `nvidia-smi -c DEFAULT`, use another GPU, or --device cpu"
    )]
    Prohibited {
        /// The GPU's name.
        name: String,
    },
    /// The GPU lacks instructions.
    #[error(
        "{name} has compute capability {}.{}, and 8.0 is needed (Ampere or later); use --device cpu",
        found / 10, found % 10
    )]
    OldGpu {
        /// The GPU's name.
        name: String,
        /// Its compute capability, times ten.
        found: u32,
    },
    /// The driver refused.
    #[error("the CUDA driver: {call}: {text} (error {status})")]
    Driver {
        /// The function that was called.
        call: &'static str,
        /// Its answer.
        status: i32,
        /// What the driver says of it.
        text: String,
    },
    /// The GPU's memory is full.
    #[error(
        "the GPU lacks memory: {bytes} bytes are needed, {free} are free; use a smaller --batch-size, \
         another GPU, or --device cpu"
    )]
    Memory {
        /// How much was wanted.
        bytes: u64,
        /// How much there was.
        free: u64,
    },
    /// Nothing to run.
    #[error(
        "this program was built without kernels for this GPU (compute capability {}.{}), and \
         libnvrtc.so.13, which could compile them, was not found: run `cargo xtask kernels` and build \
         again, or use --device cpu",
        capability / 10, capability % 10
    )]
    NoKernels {
        /// The GPU's compute capability, times ten.
        capability: u32,
    },
    /// The kernels do not compile.
    #[error("the kernels do not compile for this GPU: {0}")]
    Kernels(String),
    /// A size is beyond what a kernel can be started with.
    #[error("{what} is {value}, more than a GPU's kernels can index; use a smaller --batch-size")]
    Size {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        value: u64,
    },
}

/// How many GPUs there are.
///
/// # Errors
/// [`GpuError`] where nothing drives them. No GPU is no error.
pub fn count() -> Result<usize, GpuError> {
    Driver::get()?.count()
}

/// The name of a GPU, as the driver has it. No context is made, which takes memory and long.
///
/// # Errors
/// [`GpuError`] where there is no such device.
pub fn name(device: usize) -> Result<String, GpuError> {
    Driver::get()?.name(device)
}

/// Where on the host's bus a GPU is: a name that is the same for every process on the host.
///
/// # Errors
/// As [`name`].
pub fn bus(device: usize) -> Result<String, GpuError> {
    Driver::get()?.bus(device)
}

/// Makes CUDA devices known to libtorch. To be called before tch is asked about any; only the
/// first call acts.
///
/// # Errors
/// [`NoCuda`] where there can be none.
pub fn load() -> Result<(), NoCuda> {
    static LOADED: OnceLock<Result<(), NoCuda>> = OnceLock::new();
    *LOADED.get_or_init(|| {
        if !driver::open("libcuda.so.1") {
            return Err(NoCuda::Driver);
        }
        if driver::open("libtorch_cuda.so") { Ok(()) } else { Err(NoCuda::Library) }
    })
}
