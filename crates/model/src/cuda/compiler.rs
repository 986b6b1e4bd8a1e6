//! NVRTC, the compiler of kernels, if its library is found. Programs without precompiled kernels
//! need it.

#![allow(unsafe_code, reason = "opens the compiler's library and calls it")]

use std::{
    ffi::{CStr, CString, c_char, c_int},
    ptr,
};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use super::{
    GpuError,
    driver::{self, Handle},
};

const LIBRARY: &str = "libnvrtc.so.13";

/// A library that the compiler opens by name. It is opened here first, because the compiler does not search for it.
const COMPILER_PART: &str = "libnvrtc-builtins.so.13.0";

/// A multiplication and an addition stay two operations, except where a kernel asks for a fused one.
pub const OPTIONS: [&str; 1] = ["--fmad=false"];

type Create = unsafe extern "C" fn(
    *mut Handle,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(Handle, *mut usize) -> c_int;
type Text = unsafe extern "C" fn(Handle, *mut c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Handle) -> c_int;

/// Compiles for GPUs of this compute capability, times ten. Returns PTX that ends with a zero byte, or `None`
/// if there is no compiler. `headers` are the names and contents of the files that the source includes.
///
/// # Errors
/// [`GpuError::Kernels`] with the compiler's message.
pub fn compile(
    source: &str,
    headers: &[(&str, &str)],
    capability: u32,
) -> Result<Option<Vec<u8>>, GpuError> {
    driver::open_library(COMPILER_PART);
    // SAFETY: opening this library has no effect that harms the process.
    let Ok(library) = (unsafe { Library::open(Some(LIBRARY), RTLD_NOW | RTLD_GLOBAL) }) else {
        return Ok(None);
    };
    let texts = |texts: &mut dyn Iterator<Item = &str>| -> Result<Vec<CString>, GpuError> {
        texts.map(|text| CString::new(text).map_err(|error| refused(&error))).collect()
    };
    let architecture = format!("--gpu-architecture=compute_{capability}");
    let mut options = OPTIONS.iter().copied().chain([architecture.as_str()]);
    let sources = texts(&mut [source].into_iter())?;
    let names = texts(&mut headers.iter().map(|(name, _)| *name))?;
    let contents = texts(&mut headers.iter().map(|(_, content)| *content))?;
    let options = texts(&mut options)?;
    Compiler { library }.compile(&sources[0], &names, &contents, &options).map(Some)
}

struct Compiler {
    library: Library,
}

impl Compiler {
    fn function<T: Copy>(&self, name: &str) -> Result<T, GpuError> {
        // SAFETY: the types are those of nvrtc.h.
        let found = unsafe { self.library.get::<T>(name) };
        Ok(*found.map_err(|_| refused(&format!("{LIBRARY} has no {name}")))?)
    }

    fn compile(
        &self,
        source: &CStr,
        names: &[CString],
        contents: &[CString],
        options: &[CString],
    ) -> Result<Vec<u8>, GpuError> {
        let pointers =
            |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).collect::<Vec<_>>();
        let (names, contents, options) = (pointers(names), pointers(contents), pointers(options));
        let (create, compile) = (
            self.function::<Create>("nvrtcCreateProgram")?,
            self.function::<Compile>("nvrtcCompileProgram")?,
        );
        let destroy = self.function::<Destroy>("nvrtcDestroyProgram")?;
        let mut program = 0;
        // SAFETY: all texts end with a zero byte and live longer than the call.
        let status = unsafe {
            create(
                &raw mut program,
                source.as_ptr(),
                c"step.cu".as_ptr(),
                names.len() as c_int,
                contents.as_ptr(),
                names.as_ptr(),
            )
        };
        if status != 0 {
            return Err(refused(&format!("nvrtcCreateProgram: error {status}")));
        }
        // SAFETY: the program was made above.
        let status = unsafe { compile(program, options.len() as c_int, options.as_ptr()) };
        let log = self.text(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog");
        let ptx = self.text(program, "nvrtcGetPTXSize", "nvrtcGetPTX");
        // SAFETY: the program is not used after this.
        unsafe { destroy(ptr::from_mut(&mut program)) };
        if status != 0 {
            let log = log.unwrap_or_default();
            return Err(refused(&String::from_utf8_lossy(&log).trim_end_matches('\0')));
        }
        ptx
    }

    fn text(&self, program: Handle, size: &str, text: &str) -> Result<Vec<u8>, GpuError> {
        let (of_size, of_text) = (self.function::<Size>(size)?, self.function::<Text>(text)?);
        let mut bytes = 0;
        // SAFETY: the program exists.
        let status = unsafe { of_size(program, &raw mut bytes) };
        let mut found = vec![0_u8; bytes + 1];
        // SAFETY: the buffer has the size that the compiler reported.
        let status = status | unsafe { of_text(program, found.as_mut_ptr().cast()) };
        if status == 0 { Ok(found) } else { Err(refused(&format!("{text}: error {status}"))) }
    }
}

fn refused(reason: &dyn std::fmt::Display) -> GpuError {
    GpuError::Kernels(reason.to_string())
}
