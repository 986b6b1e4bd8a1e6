//! The driver's functions, looked up at run time, and the meaning of their status codes.

#![allow(unsafe_code, reason = "opens the driver's library and calls it")]

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_ulonglong},
    ptr,
    sync::OnceLock,
};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use super::{CAPABILITY_MIN, GpuError, NoCuda};

const LIBRARY: &str = "libcuda.so.1";

const OUT_OF_MEMORY: c_int = 2;
const UNAVAILABLE: c_int = 46;
const NO_DEVICE: c_int = 100;
/// The status of a stream that still has work to do.
pub(super) const NOT_READY: c_int = 600;

const CAPABILITY_MAJOR: c_int = 75;
const CAPABILITY_MINOR: c_int = 76;
const COMPUTE_MODE: c_int = 20;

/// Values of the compute mode.
const PROHIBITED: c_int = 2;
const EXCLUSIVE_PROCESS: c_int = 3;

/// The CUDA version of the kernels' compiler, in the driver's form.
const CUDA_NEEDED: c_int = 13_000;

/// Bytes for the name of a GPU, or for its position on the bus.
const TEXT_BYTES: usize = 256;

/// A context, stream, module, function, graph, or address in memory; the driver uses pointers for them.
pub(super) type Handle = usize;

macro_rules! functions {
    ($($name:ident: $symbol:literal($($argument:ty),*);)*) => {
        #[derive(Debug)]
        pub(super) struct Functions {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) -> c_int,)*
        }

        impl Functions {
            fn of(library: &Library) -> Result<Self, GpuError> {
                Ok(Self {
                    $($name: {
                        // SAFETY: the types are those of cuda.h, where pointers to opaque types are
                        // handles.
                        let found = unsafe { library.get($symbol) };
                        *found.map_err(|_| GpuError::OldDriver($symbol))?
                    },)*
                })
            }
        }
    };
}

functions! {
    init: "cuInit"(c_uint);
    version: "cuDriverGetVersion"(*mut c_int);
    device_count: "cuDeviceGetCount"(*mut c_int);
    device_get: "cuDeviceGet"(*mut c_int, c_int);
    device_name: "cuDeviceGetName"(*mut c_char, c_int, c_int);
    device_attribute: "cuDeviceGetAttribute"(*mut c_int, c_int, c_int);
    device_bus: "cuDeviceGetPCIBusId"(*mut c_char, c_int, c_int);
    context_retain: "cuDevicePrimaryCtxRetain"(*mut Handle, c_int);
    context_release: "cuDevicePrimaryCtxRelease_v2"(c_int);
    context_set: "cuCtxSetCurrent"(Handle);
    memory_info: "cuMemGetInfo_v2"(*mut usize, *mut usize);
    memory_take: "cuMemAlloc_v2"(*mut Handle, usize);
    memory_free: "cuMemFree_v2"(Handle);
    memory_set: "cuMemsetD8Async"(Handle, u8, usize, Handle);
    host_take: "cuMemHostAlloc"(*mut Handle, usize, c_uint);
    host_free: "cuMemFreeHost"(Handle);
    host_register: "cuMemHostRegister_v2"(Handle, usize, c_uint);
    host_unregister: "cuMemHostUnregister"(Handle);
    copy_in: "cuMemcpyHtoDAsync_v2"(Handle, Handle, usize, Handle);
    copy_out: "cuMemcpyDtoHAsync_v2"(Handle, Handle, usize, Handle);
    stream_create: "cuStreamCreate"(*mut Handle, c_uint);
    stream_destroy: "cuStreamDestroy_v2"(Handle);
    stream_wait: "cuStreamSynchronize"(Handle);
    stream_query: "cuStreamQuery"(Handle);
    event_create: "cuEventCreate"(*mut Handle, c_uint);
    event_destroy: "cuEventDestroy_v2"(Handle);
    event_record: "cuEventRecord"(Handle, Handle);
    event_record_with: "cuEventRecordWithFlags"(Handle, Handle, c_uint);
    event_time: "cuEventElapsedTime"(*mut f32, Handle, Handle);
    event_wait: "cuEventSynchronize"(Handle);
    capture_begin: "cuStreamBeginCapture_v2"(Handle, c_int);
    capture_end: "cuStreamEndCapture"(Handle, *mut Handle);
    graph_instantiate: "cuGraphInstantiateWithFlags"(*mut Handle, Handle, c_ulonglong);
    graph_launch: "cuGraphLaunch"(Handle, Handle);
    graph_destroy: "cuGraphDestroy"(Handle);
    executable_destroy: "cuGraphExecDestroy"(Handle);
    module_load: "cuModuleLoadData"(*mut Handle, *const u8);
    module_unload: "cuModuleUnload"(Handle);
    module_function: "cuModuleGetFunction"(*mut Handle, Handle, *const c_char);
    kernel_start: "cuLaunchKernel"(
        Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut Handle, *mut Handle
    );
    error_text: "cuGetErrorString"(c_int, *mut *const c_char);
}

/// The driver of this machine.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) functions: Functions,
}

/// Calls a function of a driver.
macro_rules! call {
    ($driver:expr, $function:ident($($argument:expr),* $(,)?)) => {{
        let driver: &Driver = $driver;
        // SAFETY: the handles are the driver's own, the memory has the stated length, and the caller that
        // launches a kernel guarantees its arguments.
        let status = unsafe { (driver.functions.$function)($($argument),*) };
        driver.check(stringify!($function), status)
    }};
}
pub(super) use call;

impl Driver {
    /// Opens the library and initialises it, once. It is never closed.
    pub(super) fn get() -> Result<&'static Self, GpuError> {
        static DRIVER: OnceLock<Result<Driver, GpuError>> = OnceLock::new();
        DRIVER.get_or_init(Self::load).as_ref().map_err(Clone::clone)
    }

    fn load() -> Result<Self, GpuError> {
        // SAFETY: opening the driver's library has no effect that harms the process.
        let library = unsafe { Library::open(Some(LIBRARY), RTLD_NOW | RTLD_GLOBAL) };
        let library = library.map_err(|_| NoCuda::Driver)?;
        let driver = Self { functions: Functions::of(&library)? };
        // The library stays open, because its functions are kept.
        std::mem::forget(library);
        match call!(&driver, init(0)) {
            Err(GpuError::Driver { status: NO_DEVICE, .. }) | Ok(()) => Ok(driver),
            Err(error) => Err(error),
        }
    }

    /// Converts a status to a result.
    pub(super) fn check(&self, call: &'static str, status: c_int) -> Result<(), GpuError> {
        if status == 0 {
            return Ok(());
        }
        let mut text = ptr::null();
        // SAFETY: the function writes a pointer to a constant, or leaves null.
        let known = unsafe { (self.functions.error_text)(status, &raw mut text) } == 0;
        let text = if known && !text.is_null() {
            // SAFETY: the driver's constants end with a zero byte.
            unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
        } else {
            "it does not say why".to_owned()
        };
        Err(GpuError::Driver { call, status, text })
    }

    pub(super) fn count(&self) -> Result<usize, GpuError> {
        let mut count = 0;
        match call!(self, device_count(&raw mut count)) {
            Ok(()) => Ok(usize::try_from(count).unwrap_or_default()),
            // The status of a driver that was initialised without a device.
            Err(GpuError::Driver { status: NO_DEVICE, .. }) => Ok(0),
            Err(error) => Err(error),
        }
    }

    pub(super) fn device(&self, index: usize) -> Result<c_int, GpuError> {
        let mut device = 0;
        let index = c_int::try_from(index).unwrap_or(c_int::MAX);
        call!(self, device_get(&raw mut device, index))?;
        Ok(device)
    }

    pub(super) fn name(&self, index: usize) -> Result<String, GpuError> {
        let device = self.device(index)?;
        text(|text, room| call!(self, device_name(text, room, device)))
    }

    /// The GPU's position on the host's bus, the same for all processes.
    pub(super) fn bus(&self, index: usize) -> Result<String, GpuError> {
        let device = self.device(index)?;
        text(|text, room| call!(self, device_bus(text, room, device)))
    }

    /// The compute capability, times ten, if it is enough for the kernels.
    pub(super) fn capability(&self, index: usize) -> Result<u32, GpuError> {
        let device = self.device(index)?;
        let (mut major, mut minor) = (0, 0);
        call!(self, device_attribute(&raw mut major, CAPABILITY_MAJOR, device))?;
        call!(self, device_attribute(&raw mut minor, CAPABILITY_MINOR, device))?;
        let found = u32::try_from(10 * major + minor).unwrap_or_default();
        if found < CAPABILITY_MIN {
            return Err(GpuError::OldGpu { name: self.name(index)?, found });
        }
        Ok(found)
    }

    /// Checks that the driver accepts the output of the kernels' compiler.
    pub(super) fn check_version(&self) -> Result<(), GpuError> {
        let mut version = 0;
        call!(self, version(&raw mut version))?;
        if version < CUDA_NEEDED {
            return Err(GpuError::OldVersion { found: u32::try_from(version).unwrap_or_default() });
        }
        Ok(())
    }

    /// Explains why no context can be created on a GPU.
    pub(super) fn no_context(&self, index: usize, device: c_int, error: GpuError) -> GpuError {
        let GpuError::Driver { status: UNAVAILABLE, .. } = error else { return error };
        let mut mode = 0;
        let asked = call!(self, device_attribute(&raw mut mode, COMPUTE_MODE, device));
        match (asked, self.name(index)) {
            (Ok(()), Ok(name)) if mode == PROHIBITED => GpuError::Prohibited { name },
            (Ok(()), Ok(name)) if mode == EXCLUSIVE_PROCESS => GpuError::Exclusive { name },
            _ => error,
        }
    }

    /// Explains why a module cannot be loaded: a driver does not accept the output of newer compilers.
    pub(super) fn no_module(&self, error: GpuError) -> GpuError {
        match self.check_version() {
            Err(reason @ GpuError::OldVersion { .. }) => reason,
            _ => error,
        }
    }

    /// Explains a failed request for memory.
    pub(super) fn memory<T>(&self, bytes: usize, got: Result<T, GpuError>) -> Result<T, GpuError> {
        let Err(GpuError::Driver { status: OUT_OF_MEMORY, .. }) = got else { return got };
        let (mut free, mut total) = (0, 0);
        call!(self, memory_info(&raw mut free, &raw mut total))?;
        Err(GpuError::Memory { bytes: bytes as u64, free: free as u64 })
    }
}

/// Returns the text that a driver function writes.
fn text(
    write: impl FnOnce(*mut c_char, c_int) -> Result<(), GpuError>,
) -> Result<String, GpuError> {
    let mut text = [0 as c_char; TEXT_BYTES];
    // The last byte stays zero, whatever the function writes.
    write(text.as_mut_ptr(), TEXT_BYTES as c_int - 1)?;
    // SAFETY: the text ends with a zero byte.
    Ok(unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned())
}

/// Opens a library and never closes it; libraries that are opened later can use its symbols. Returns whether it
/// was found.
pub fn open_library(library: &str) -> bool {
    // SAFETY: these libraries are made to be opened in any process.
    let opened = unsafe { Library::open(Some(library), RTLD_NOW | RTLD_GLOBAL) };
    opened.map(std::mem::forget).is_ok()
}
