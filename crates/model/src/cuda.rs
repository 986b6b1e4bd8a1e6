//! libtorch's part for GPUs. Nothing is linked with it, so that one program serves every
//! machine; where it is wanted, [`load`] opens it.

#![allow(unsafe_code, reason = "libraries of libtorch and of the driver, opened at run time")]

use std::sync::OnceLock;

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
