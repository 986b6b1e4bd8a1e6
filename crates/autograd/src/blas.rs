//! Makes libtorch's MKL fast and reproducible.
//!
//! By default, MKL's bits depend on the number of threads; [`deterministic`] changes this before MKL
//! computes anything. On CPUs that are not Intel's, MKL supports neither this setting
//! nor its fastest kernels, unless it finds a function [`mkl_serv_intel_cpu_true`] that
//! returns 1. This crate defines the function; the executable must also export it, or libtorch cannot
//! see it. Linkers export it by themselves if libtorch_cpu is on their command line. To be
//! certain, the `build.rs` of every crate with binaries that embed this crate calls `lockstep_build::link`,
//! which passes `--export-dynamic-symbol=mkl_serv_intel_cpu_true` to the linker.
//! [`Branch`] tells whether MKL accepted the setting.

#![allow(unsafe_code, reason = "symbols of libtorch_cpu, looked up at run time")]

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    fmt, mem,
    sync::OnceLock,
};

use model::{Isa, isa::Level};

/// The code path that MKL takes. Results of two machines can be compared only if their paths are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Branch {
    /// The CPU's best path, set by this crate, with the same bits for any number of threads.
    Strict(&'static str),
    /// The path that `MKL_CBWR` in the environment names; this crate does not change it.
    Environment(String),
    /// MKL refused: code -3 means that the symbol is not exported, -8 that MKL was already in use.
    Refused {
        /// MKL's own code.
        code: i32,
    },
    /// Not changed, because the CPU has no AVX2 or the BLAS is not MKL. Bits may depend on the
    /// number of threads.
    Unfixed,
}

impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Strict(branch) => write!(f, "{branch},STRICT"),
            Self::Environment(setting) => write!(f, "{setting}"),
            Self::Refused { code } => write!(f, "refused ({code})"),
            Self::Unfixed => write!(f, "unfixed"),
        }
    }
}

/// Sets MKL's code path to the best that the CPU has, unless `MKL_CBWR` is in the environment, so
/// that bits do not depend on the number of threads. Call it at the top of `main`,
/// before anything uses tch; [`crate::Autograd`] calls it too. Only the first call has an effect.
pub fn deterministic() -> Branch {
    static BRANCH: OnceLock<Branch> = OnceLock::new();
    BRANCH.get_or_init(fix_branch).clone()
}

/// The way in which bf16 products are computed, for a fingerprint. Their bits depend on the CPU's instructions
/// for them, while f32 products have the same bits on one [`Branch`].
#[must_use]
pub fn bf16_name() -> &'static str {
    match bf16_unit() {
        Bf16Unit::Tiles => "bf16 (AMX)",
        Bf16Unit::Vectors => "bf16 (AVX512_BF16)",
        Bf16Unit::None => "bf16 (emulated)",
    }
}

/// The CPU's unit for bf16 products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bf16Unit {
    Tiles,
    Vectors,
    None,
}

#[cfg(target_arch = "x86_64")]
fn bf16_unit() -> Bf16Unit {
    if model::isa::has_amx_bf16() {
        Bf16Unit::Tiles
    } else if is_x86_feature_detected!("avx512bf16") {
        Bf16Unit::Vectors
    } else {
        Bf16Unit::None
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn bf16_unit() -> Bf16Unit {
    Bf16Unit::None
}

/// Whether libtorch sees this crate's [`mkl_serv_intel_cpu_true`].
#[must_use]
pub fn unlocked() -> bool {
    let ours = mkl_serv_intel_cpu_true as extern "C" fn() -> c_int;
    symbol(c"mkl_serv_intel_cpu_true").is_some_and(|found| found as usize == ours as usize)
}

/// MKL calls this function instead of its own. It says that MKL fully supports the CPU.
#[unsafe(no_mangle)]
pub extern "C" fn mkl_serv_intel_cpu_true() -> c_int {
    1
}

/// `MKL_CBWR_*` of `mkl_types.h`.
const AVX2: c_int = 10;
const AVX512: c_int = 12;
const STRICT: c_int = 0x1_0000;

fn fix_branch() -> Branch {
    if let Some(setting) = std::env::var_os("MKL_CBWR") {
        return Branch::Environment(setting.to_string_lossy().into_owned());
    }
    // This also keeps the function in the executable, where nothing else refers to it.
    std::hint::black_box(unlocked());
    let (setting, name) = match Isa::fastest().level() {
        Level::Portable => return Branch::Unfixed,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => (AVX2 | STRICT, "AVX2"),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Amx => (AVX512 | STRICT, "AVX512"),
    };
    // The function behind `mkl_cbwr_set` in MKL's headers: int (int).
    let Some(set) = symbol(c"mkl_serv_cbwr_set") else { return Branch::Unfixed };
    // SAFETY: the symbol is a C function of this type in every MKL that has it.
    let set: extern "C" fn(c_int) -> c_int = unsafe { mem::transmute(set) };
    match set(setting) {
        0 => Branch::Strict(name),
        code => Branch::Refused { code },
    }
}

/// The address of a symbol in the loaded libraries; the executable is searched first.
pub(crate) fn symbol(name: &CStr) -> Option<*mut c_void> {
    unsafe extern "C" {
        fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    }
    /// `RTLD_DEFAULT` of `dlfcn.h`.
    const DEFAULT: *mut c_void = std::ptr::null_mut();
    // SAFETY: the handle is the default one and the name is a C string.
    let address = unsafe { dlsym(DEFAULT, name.as_ptr()) };
    (!address.is_null()).then_some(address)
}
