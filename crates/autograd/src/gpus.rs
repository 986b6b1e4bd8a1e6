//! libtorch's library for GPUs, which is opened at run time: one program serves machines with and without GPUs.

use std::sync::OnceLock;

use model::{
    Device, ModelError,
    cuda::{GpuError, NoCuda, open_library},
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
