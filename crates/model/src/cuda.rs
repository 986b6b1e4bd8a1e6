//! libtorch's part for GPUs. Nothing is linked with it, so that one program serves every
//! machine; where it is wanted, [`load`] opens it.

#![allow(unsafe_code, reason = "libraries of libtorch and of the driver, opened at run time")]

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    sync::OnceLock,
};

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
        if !open(c"libcuda.so.1") {
            return Err(NoCuda::Driver);
        }
        if open(c"libtorch_cuda.so") { Ok(()) } else { Err(NoCuda::Library) }
    })
}

/// Opens a library for good; its symbols are there for all that is opened later.
fn open(library: &CStr) -> bool {
    unsafe extern "C" {
        fn dlopen(file: *const c_char, flags: c_int) -> *mut c_void;
    }
    /// `RTLD_NOW | RTLD_GLOBAL` of `dlfcn.h`.
    const FLAGS: c_int = 0x2 | 0x100;
    // SAFETY: the name is a C string, and what these libraries do when they are opened is
    // meant to be done in any process.
    !unsafe { dlopen(library.as_ptr(), FLAGS) }.is_null()
}
