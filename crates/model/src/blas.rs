//! How libtorch's MKL is made fast and reproducible.
//!
//! MKL gives other bits for other numbers of threads unless it is told otherwise before it
//! computes anything ([`deterministic`]), and on CPUs of other makers it refuses both that
//! and its fastest kernels unless it finds a function [`mkl_serv_intel_cpu_true`] that
//! returns 1. This crate defines it; the executable must also export it, or libtorch cannot
//! see it. Linkers do so by themselves where libtorch_cpu is on their command line; to be
//! certain, the `build.rs` of every crate with binaries that embed this one prints
//! `cargo:rustc-link-arg-bins=-Wl,--export-dynamic-symbol=mkl_serv_intel_cpu_true`, and
//! [`Branch`] tells whether it was in vain. Multiplication itself is in `gemm.rs`.

#![allow(unsafe_code, reason = "symbols of libtorch_cpu, looked up at run time")]

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    fmt, mem,
    sync::OnceLock,
};

use crate::{Isa, isa::Level};

/// Which code path MKL takes; part of what makes results comparable between machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Branch {
    /// The same bits for any number of threads: the CPU's best path, as this crate set it.
    Strict(&'static str),
    /// What `MKL_CBWR` in the environment says; it is left alone.
    Environment(String),
    /// MKL refused: with code -3 the symbol is not exported, with -8 MKL was in use before.
    Refused {
        /// MKL's own code.
        code: i32,
    },
    /// Left as it is: the CPU has no AVX2, or the BLAS is not MKL. Bits may depend on the
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

/// Fixes MKL's code path by what the CPU has, unless `MKL_CBWR` is in the environment, so
/// that bits do not depend on the number of threads. To be called at the top of `main`,
/// before anything uses tch; the models of this crate call it too. Only the first call acts.
pub fn deterministic() -> Branch {
    static BRANCH: OnceLock<Branch> = OnceLock::new();
    BRANCH.get_or_init(fix_branch).clone()
}

/// How bf16 products are computed, for a fingerprint: they have other bits on CPUs that have other
/// instructions for them, where f32 products have the same on one [`Branch`].
#[must_use]
pub fn bf16_name() -> &'static str {
    match bf16_unit() {
        Bf16Unit::Tiles => "bf16 (AMX)",
        Bf16Unit::Vectors => "bf16 (AVX512_BF16)",
        Bf16Unit::None => "bf16 (emulated)",
    }
}

/// What the CPU multiplies bf16 with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bf16Unit {
    Tiles,
    Vectors,
    None,
}

#[cfg(target_arch = "x86_64")]
fn bf16_unit() -> Bf16Unit {
    use std::arch::x86_64::{__cpuid, __cpuid_count};

    /// Structured extended features, leaf 7 of CPUID.
    const FEATURES: u32 = 7;
    /// A bit of EDX in subleaf 0, which detection in std does not offer yet.
    const AMX_BF16: u32 = 1 << 22;
    if __cpuid(0).eax >= FEATURES && __cpuid_count(FEATURES, 0).edx & AMX_BF16 != 0 {
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

/// Found by MKL in place of its own, it says that the CPU is one that MKL supports fully.
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
    // Also keeps the function in the executable: nothing else there refers to it.
    std::hint::black_box(unlocked());
    let (setting, name) = match Isa::fastest().0 {
        Level::Portable => return Branch::Unfixed,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => (AVX2 | STRICT, "AVX2"),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => (AVX512 | STRICT, "AVX512"),
    };
    // What `mkl_cbwr_set` of MKL's headers stands for: int (int).
    let Some(set) = symbol(c"mkl_serv_cbwr_set") else { return Branch::Unfixed };
    // SAFETY: the symbol is a C function of this type in every MKL that has it.
    let set: extern "C" fn(c_int) -> c_int = unsafe { mem::transmute(set) };
    match set(setting) {
        0 => Branch::Strict(name),
        code => Branch::Refused { code },
    }
}

/// The address of a symbol among the loaded libraries, the executable first.
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
