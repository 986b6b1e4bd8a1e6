//! GPUs. Nothing is linked with what drives them, so that one program serves every machine:
//! [`load`] opens libtorch's part for them, and with it come the libraries of the CUDA toolkit
//! that [`Vae`] computes with. `gpu.rs` is one GPU, `kernels.cu` what is compiled for it when
//! it is opened.

#![allow(unsafe_code, reason = "libraries opened at run time")]

mod gpu;
mod vae;

use std::sync::OnceLock;

use cudarc::driver::result;
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use thiserror::Error;

pub use gpu::GpuError;
pub use vae::Vae;

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

/// Opens a library for good; its symbols are there for all that is opened later.
fn open(library: &str) -> bool {
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
