//! libtorch's library for GPUs, which is opened at run time: one program serves machines with and without GPUs.

#![allow(unsafe_code, reason = "opens libraries, whose initialisers run")]

use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use model::{
    Device, ModelError,
    cuda::{GpuError, NoCuda},
};

/// Makes CUDA devices known to libtorch. Call it before tch is asked about any device. Only the
/// first call has an effect.
///
/// # Errors
/// [`NoCuda`] if there can be no device.
pub(crate) fn open() -> Result<(), NoCuda> {
    static OPENED: OnceLock<Result<(), NoCuda>> = OnceLock::new();
    *OPENED.get_or_init(|| {
        if !open_library("libcuda.so.1") {
            return Err(NoCuda::Driver);
        }
        if open_library("libtorch_cuda.so") { Ok(()) } else { Err(NoCuda::Library) }
    })
}

/// Opens a library and never closes it; libraries that are opened later can use its symbols. Returns whether it
/// was found.
fn open_library(library: &str) -> bool {
    // SAFETY: these libraries are made to be opened in any process.
    let opened = unsafe { Library::open(Some(library), RTLD_NOW | RTLD_GLOBAL) };
    opened.map(std::mem::forget).is_ok()
}

/// The device as tch names it, with libtorch's library for it.
///
/// # Errors
/// There can be no such device.
pub(crate) fn device(device: Device) -> Result<tch::Device, ModelError> {
    Ok(match device {
        Device::Cpu => tch::Device::Cpu,
        Device::Cuda(index) => {
            open().map_err(GpuError::from)?;
            tch::Device::Cuda(index)
        }
    })
}
