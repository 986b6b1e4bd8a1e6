//! NVIDIA's libraries, opened at run time: NCCL, and the CUDA runtime for members whose partials are in the
//! host's memory. Here are their functions as C declares them; `gpu.rs` and `communicator.rs` use them.

#![allow(unsafe_code, reason = "functions of libraries that are opened at run time")]

use std::{
    ffi::{CStr, OsStr, c_char, c_int, c_uint, c_void},
    path::Path,
};

use libloading::Library;
use thiserror::Error;

/// As libtorch for CUDA 13 brings them.
const CUDA_RUNTIME: &str = "libcudart.so.13";
const NCCL: &str = "libnccl.so.2";

/// Why GPUs cannot exchange anything.
#[derive(Debug, Error)]
pub enum NcclError {
    /// A library is missing, or lacks a function.
    #[error("cannot use {name}: {reason}")]
    Library {
        /// Its file name.
        name: String,
        /// What the system said.
        reason: libloading::Error,
    },
    /// A library refused.
    #[error("{call}: {reason}")]
    Refused {
        /// What it was asked to do, as its documentation calls it.
        call: &'static str,
        /// What it said.
        reason: String,
    },
    /// The GPU that the member computes on has failed.
    #[error("the GPU: {0}")]
    Gpu(String),
    /// The other members did not come in time.
    #[error("the other members have not joined NCCL's communicator within {seconds} s")]
    Absent {
        /// How long they were waited for.
        seconds: u64,
    },
    /// The other members did not leave in time.
    #[error("the other members have not left NCCL's communicator within {seconds} s")]
    NotLeft {
        /// How long they were waited for.
        seconds: u64,
    },
    /// The generation was ended.
    #[error("the generation was ended")]
    Aborted,
}

/// `ncclSuccess`, `cudaSuccess`.
pub(super) const SUCCESS: c_int = 0;
/// `cudaErrorNotReady`: the stream still has work to do.
pub(super) const NOT_READY: c_int = 600;
/// `ncclInProgress`: the communicator has not finished the last call.
pub(super) const IN_PROGRESS: c_int = 7;
/// `ncclFloat32`.
pub(super) const FLOAT: c_int = 7;
/// `cudaMemcpyDefault`: the two addresses decide the direction.
pub(super) const EITHER_WAY: c_int = 4;
/// `cudaStreamNonBlocking`: the stream does not wait for libtorch's.
pub(super) const NON_BLOCKING: c_uint = 1;

/// `ncclUniqueId`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Id(pub(super) [u8; ID_BYTES]);

pub(super) const ID_BYTES: usize = 128;

/// The beginning of `ncclConfig_t`, as it was in version 2.14; later ones take that.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
}

impl Config {
    /// Calls return at once; the caller polls for their results.
    pub(super) const NON_BLOCKING: Self =
        Self { size: size_of::<Self>(), magic: 0xcafe_beef, version: 21_400, blocking: 0 };
}

/// A table of functions of a library.
macro_rules! functions {
    ($table:ident { $($name:ident = $symbol:literal ($($argument:ty),*) -> $status:ty;)* }) => {
        #[derive(Clone, Copy)]
        pub(super) struct $table {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) -> $status,)*
        }

        impl $table {
            fn of(library: &Library) -> Result<Self, libloading::Error> {
                // SAFETY: the symbols are functions of these types in every version.
                Ok(Self { $($name: *unsafe { library.get($symbol) }?,)* })
            }
        }
    };
}

functions!(Cuda {
    error_text = c"cudaGetErrorString" (c_int) -> *const c_char;
    set_device = c"cudaSetDevice" (c_int) -> c_int;
    stream_create = c"cudaStreamCreateWithFlags" (*mut *mut c_void, c_uint) -> c_int;
    stream_query = c"cudaStreamQuery" (*mut c_void) -> c_int;
    stream_destroy = c"cudaStreamDestroy" (*mut c_void) -> c_int;
    allocate = c"cudaMalloc" (*mut *mut c_void, usize) -> c_int;
    free = c"cudaFree" (*mut c_void) -> c_int;
    allocate_pinned = c"cudaHostAlloc" (*mut *mut c_void, usize, c_uint) -> c_int;
    free_pinned = c"cudaFreeHost" (*mut c_void) -> c_int;
    copy = c"cudaMemcpyAsync" (*mut c_void, *const c_void, usize, c_int, *mut c_void) -> c_int;
});

functions!(Collectives {
    error_text = c"ncclGetErrorString" (c_int) -> *const c_char;
    unique_id = c"ncclGetUniqueId" (*mut Id) -> c_int;
    join = c"ncclCommInitRankConfig" (*mut *mut c_void, c_int, Id, c_int, *mut Config) -> c_int;
    status = c"ncclCommGetAsyncError" (*mut c_void, *mut c_int) -> c_int;
    group_start = c"ncclGroupStart" () -> c_int;
    group_end = c"ncclGroupEnd" () -> c_int;
    send = c"ncclSend"
        (*const c_void, usize, c_int, c_int, *mut c_void, *mut c_void) -> c_int;
    receive = c"ncclRecv"
        (*mut c_void, usize, c_int, c_int, *mut c_void, *mut c_void) -> c_int;
    finalize = c"ncclCommFinalize" (*mut c_void) -> c_int;
    destroy = c"ncclCommDestroy" (*mut c_void) -> c_int;
    abort = c"ncclCommAbort" (*mut c_void) -> c_int;
});

/// The libraries, open for good.
#[derive(Clone, Copy)]
pub struct Libraries {
    pub(super) nccl: Collectives,
    /// The CUDA runtime, where it was opened together with NCCL.
    runtime: Option<Cuda>,
}

impl std::fmt::Debug for Libraries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Libraries").finish_non_exhaustive()
    }
}

impl Libraries {
    /// Opens NCCL. The CUDA runtime is opened when it is needed.
    ///
    /// # Errors
    /// [`NcclError::Library`] where there is none, or another one.
    pub fn open() -> Result<Self, NcclError> {
        Ok(Self { nccl: table(NCCL.as_ref(), Collectives::of)?, runtime: None })
    }

    /// Opens one file that stands for both.
    ///
    /// # Errors
    /// As [`Libraries::open`].
    pub fn at(path: &Path) -> Result<Self, NcclError> {
        let path = path.as_os_str();
        Ok(Self { nccl: table(path, Collectives::of)?, runtime: Some(table(path, Cuda::of)?) })
    }

    /// The CUDA runtime: the one that libtorch uses itself.
    pub(super) fn runtime(&self) -> Result<Cuda, NcclError> {
        self.runtime.map_or_else(|| table(CUDA_RUNTIME.as_ref(), Cuda::of), Ok)
    }
}

impl Cuda {
    /// Turns a status into a result.
    pub(super) fn check(&self, call: &'static str, status: c_int) -> Result<(), NcclError> {
        said(call, status, self.error_text)
    }
}

impl Collectives {
    /// Turns a status into a result; that something is still being done is none yet.
    pub(super) fn check(&self, call: &'static str, status: c_int) -> Result<(), NcclError> {
        if status == IN_PROGRESS { Ok(()) } else { said(call, status, self.error_text) }
    }
}

fn table<T>(
    name: &OsStr,
    of: impl Fn(&Library) -> Result<T, libloading::Error>,
) -> Result<T, NcclError> {
    // SAFETY: what these libraries do when they are opened is meant to be done in any process.
    let opened = unsafe { Library::new(name) }.and_then(|library| {
        let table = of(&library)?;
        // The functions are called for as long as the process runs.
        std::mem::forget(library);
        Ok(table)
    });
    opened.map_err(|reason| NcclError::Library { name: name.to_string_lossy().into(), reason })
}

fn said(
    call: &'static str,
    status: c_int,
    text: unsafe extern "C" fn(c_int) -> *const c_char,
) -> Result<(), NcclError> {
    if status == SUCCESS {
        return Ok(());
    }
    // SAFETY: both libraries have a text that stays where it is for every number.
    let reason = unsafe { CStr::from_ptr(text(status)) }.to_string_lossy().into_owned();
    Err(NcclError::Refused { call, reason })
}
