//! GPUs. Nothing is linked with what drives them, so that one program serves every machine:
//! [`load`] opens libtorch's part for them, and with it come the libraries of the CUDA toolkit
//! that a model by hand computes with.

#![allow(unsafe_code, reason = "libraries opened at run time")]

use std::sync::OnceLock;

use cudarc::{
    cublas::result::CublasError,
    driver::{DriverError, result},
};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use thiserror::Error;

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
#[derive(Clone, Debug, Error, PartialEq)]
pub enum GpuError {
    /// It cannot be used.
    #[error(transparent)]
    None(#[from] NoCuda),
    /// A library of the CUDA toolkit is not beside libtorch.
    #[error("{0} was not found beside libtorch, or does not open")]
    Missing(&'static str),
    /// The driver refused.
    #[error("the CUDA driver: {0}")]
    Driver(#[from] DriverError),
    /// cuBLAS refused.
    #[error("cuBLAS: {0}")]
    Blas(#[from] CublasError),
    /// The driver recorded nothing.
    #[error("the CUDA driver has recorded no graph")]
    NoGraph,
    /// The kernels do not compile.
    #[error("the kernels do not compile for this GPU: {0}")]
    Kernels(String),
}

/// Makes CUDA devices known to libtorch. To be called before tch is asked about any; only the
/// first call acts.
///
/// # Errors
/// [`NoCuda`] where there can be none.
pub fn load() -> Result<(), NoCuda> {
    static LOADED: OnceLock<Result<(), NoCuda>> = OnceLock::new();
    *LOADED.get_or_init(|| {
        if !open("libcuda.so.1") {
            return Err(NoCuda::Driver);
        }
        if open("libtorch_cuda.so") { Ok(()) } else { Err(NoCuda::Library) }
    })
}

/// Opens a library for good; its symbols are there for all that is opened later. Whether it is
/// there.
pub fn open(library: &str) -> bool {
    // SAFETY: what these libraries do when they are opened is meant to be done in any process.
    let opened = unsafe { Library::open(Some(library), RTLD_NOW | RTLD_GLOBAL) };
    opened.map(std::mem::forget).is_ok()
}

/// What decides about the bits of a GPU's results: its model.
///
/// # Errors
/// [`GpuError`] where there is no such device.
pub fn name(device: usize) -> Result<String, GpuError> {
    load()?;
    // Asked of the driver alone: a context takes memory, and long to make.
    result::init()?;
    let device = result::device::get(i32::try_from(device).unwrap_or(i32::MAX))?;
    Ok(result::device::get_name(device)?)
}
