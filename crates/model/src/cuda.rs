//! GPUs. The program is not linked with a GPU library, so that one program serves every machine. The
//! driver's library is opened at run time ([`Driver`]); a model written by hand needs nothing else.
//!
//! [`Gpu`] is one GPU with memory, kernels and graphs; [`compiler`] compiles kernels. Nothing here
//! knows what the kernels compute, and no error of a GPU panics.

mod driver;
mod gpu;
mod memory;
mod meter;
mod registered;

pub mod compiler;

use thiserror::Error;

use self::driver::Driver;
pub use self::{
    driver::open_library,
    gpu::{Arguments, Gpu, Graph, Kernel, Module},
    memory::{Buffer, Event, GpuAddress, Pinned, Plain},
    meter::{Time, Timed, Traffic},
    registered::Registered,
};

/// The compute capability, times ten, of the oldest GPUs that are supported.
pub const CAPABILITY_MIN: u32 = 80;

/// Why there is no CUDA device.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NoCuda {
    /// No driver for a GPU is installed.
    #[error("no NVIDIA driver is installed (libcuda.so.1 was not found)")]
    Driver,
    /// There may be a GPU, but this libtorch cannot use it.
    #[error(
        "this libtorch is for CPUs only (libtorch_cuda.so was not found): \
         `cargo xtask setup --flavour cuda` fetches the one for GPUs"
    )]
    Library,
}

/// An error of a GPU or its driver.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum GpuError {
    /// There is no CUDA device.
    #[error(transparent)]
    None(#[from] NoCuda),
    /// The driver lacks a function.
    #[error(
        "the NVIDIA driver is too old: libcuda.so.1 has no {0}; install one for CUDA 12 or later"
    )]
    OldDriver(&'static str),
    /// The driver is too old for the output of the kernels' compiler.
    #[error(
        "the NVIDIA driver is too old: it is for CUDA {}.{}, and 13.0 is needed (driver 580 or later); \
         use --device cpu until it is updated",
        found / 1000, found % 1000 / 10
    )]
    OldVersion {
        /// The CUDA version that the driver supports, as the driver reports it.
        found: u32,
    },
    /// Another process uses the GPU exclusively.
    #[error(
        "another process computes on {name}, whose compute mode is exclusive-process; give each worker a \
         GPU of its own, allow several with `nvidia-smi -c DEFAULT`, or use --device cpu"
    )]
    Exclusive {
        /// The GPU's name.
        name: String,
    },
    /// No process may use the GPU.
    #[error(
        "nobody may compute on {name}: its compute mode is prohibited; allow it with \
         `nvidia-smi -c DEFAULT`, use another GPU, or --device cpu"
    )]
    Prohibited {
        /// The GPU's name.
        name: String,
    },
    /// The GPU is too old.
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
    /// The driver reported an error.
    #[error("the CUDA driver: {call}: {text} (error {status})")]
    Driver {
        /// The function that was called.
        call: &'static str,
        /// The status that it returned.
        status: i32,
        /// The driver's description of the status.
        text: String,
    },
    /// The GPU's memory is full.
    #[error(
        "the GPU lacks memory: {bytes} bytes are needed, {free} are free; use a smaller --batch-size, \
         another GPU, or --device cpu"
    )]
    Memory {
        /// The bytes that were requested.
        bytes: u64,
        /// The bytes that were free.
        free: u64,
    },
    /// There are no kernels to run.
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
    /// A size is larger than a kernel launch supports.
    #[error("{what} is {value}, more than a GPU's kernels can index; use a smaller --batch-size")]
    Size {
        /// What is too large.
        what: &'static str,
        /// Its value.
        value: u64,
    },
}

/// The number of GPUs.
///
/// # Errors
/// [`GpuError`] if no driver is installed. A machine without a GPU is no error.
pub fn count() -> Result<usize, GpuError> {
    Driver::get()?.count()
}

/// The name of a GPU, from the driver. No context is created, because that takes memory and time.
///
/// # Errors
/// [`GpuError`] if there is no such device.
pub fn name(device: usize) -> Result<String, GpuError> {
    Driver::get()?.name(device)
}

/// The compute capability of a GPU, times ten. No context is created.
///
/// # Errors
/// [`GpuError`] if there is no such device, or if it or its driver is too old for the kernels.
pub fn capability(device: usize) -> Result<u32, GpuError> {
    let driver = Driver::get()?;
    driver.check_version()?;
    driver.capability(device)
}

/// The position of a GPU on the host's bus. It is the same for every process on the host.
///
/// # Errors
/// As [`name`].
pub fn bus(device: usize) -> Result<String, GpuError> {
    Driver::get()?.bus(device)
}
