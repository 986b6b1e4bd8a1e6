//! Checks that the process has loaded the version of libtorch that the bindings are for.
//!
//! The programs search their own libtorch before LD_LIBRARY_PATH (see `build.rs`), but it may
//! be missing, replaced, or preceded by LD_PRELOAD.

#![allow(unsafe_code, reason = "calls a function of libtorch_cpu that is looked up at run time")]

use std::{
    ffi::{CStr, OsStr, c_char, c_int, c_void},
    mem,
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
};

use thiserror::Error;

use crate::blas::symbol;

/// The libtorch version that tch 0.24 binds; its build refuses any other.
pub const VERSION: &str = "2.11.0";

/// The process has loaded another libtorch.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "this program needs libtorch {VERSION}, and has found {found} in {}: remove that from \
     LD_PRELOAD or LD_LIBRARY_PATH, or put libtorch {VERSION} into the folder lib beside the \
     folder of this program", file.display()
)]
pub struct WrongLibtorch {
    /// The version that was found.
    pub found: String,
    /// The file of the library.
    pub file: PathBuf,
}

/// Checks that libtorch has the version that the bindings are for. Call it before libtorch
/// computes anything.
///
/// # Errors
/// If libtorch has another version, which may compute other bits or crash the process.
pub fn check() -> Result<(), WrongLibtorch> {
    let (found, address) = match symbol(c"aoti_torch_abi_version") {
        Some(address) => {
            // SAFETY: in every libtorch that has the symbol, it is uint64_t (void).
            let version: extern "C" fn() -> u64 = unsafe { mem::transmute(address) };
            (shown(version()), address)
        }
        // libtorch is older than 2.1.
        None => {
            ("one without a version".to_owned(), symbol(c"sgemm_").unwrap_or(std::ptr::null_mut()))
        }
    };
    if found == VERSION { Ok(()) } else { Err(WrongLibtorch { found, file: file(address) }) }
}

/// The version whose parts are the highest bytes of the number, as text.
fn shown(version: u64) -> String {
    let [major, minor, patch, ..] = version.to_be_bytes();
    format!("{major}.{minor}.{patch}")
}

/// The file of the library that contains this address.
fn file(address: *mut c_void) -> PathBuf {
    /// `Dl_info` of `dlfcn.h`.
    #[repr(C)]
    struct Info {
        file: *const c_char,
        base: *mut c_void,
        name: *const c_char,
        symbol: *mut c_void,
    }
    unsafe extern "C" {
        fn dladdr(address: *const c_void, info: *mut Info) -> c_int;
    }
    let (text, null) = (std::ptr::null(), std::ptr::null_mut());
    let mut info = Info { file: text, base: null, name: text, symbol: null };
    // SAFETY: any address is allowed, and `info` is valid for writing.
    let found = unsafe { dladdr(address, &mut info) };
    if found == 0 || info.file.is_null() {
        return PathBuf::from("an unknown file");
    }
    // SAFETY: the name lives as long as the library is loaded, and this library is never unloaded.
    let name = unsafe { CStr::from_ptr(info.file) };
    PathBuf::from(OsStr::from_bytes(name.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_libtorch_of_this_build_is_the_right_one() {
        assert_eq!(check(), Ok(()));
        let file = file(symbol(c"aoti_torch_abi_version").unwrap());
        assert_eq!(file.file_name(), Some("libtorch_cpu.so".as_ref()));
    }

    #[test]
    fn versions_are_read_from_their_bytes() {
        assert_eq!(shown(0x020b_0000_0000_0000), VERSION);
        assert_eq!(shown(0x0207_0100_0000_0000), "2.7.1");
    }
}
