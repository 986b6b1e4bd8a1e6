//! Loops that are compiled for several instruction sets and chosen at run time.
//!
//! [`kernel!`] writes the variants of a function; an [`Isa`] proves that the CPU has
//! the instruction set. All variants give the same bits: the compiler may neither reassociate floating-point
//! arithmetic nor fuse a multiplication with an addition unless the source says `mul_add`,
//! and the source is the same for all variants. This file does not know what the loops compute.

#![allow(unsafe_code, reason = "calling a function compiled for features found at run time")]

use std::sync::OnceLock;

/// An instruction set that this CPU has. Only detection creates a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Level);

/// The names of all instruction sets, including those that this CPU lacks.
pub const NAMES: [&str; 4] = ["portable", "avx2", "avx512", "amx"];

/// The choice of [`Isa::choose`].
static CHOSEN: OnceLock<Isa> = OnceLock::new();

/// The instruction sets. [`kernel!`] compiles for the first three: AMX adds only products of bf16 to AVX-512.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Amx,
}

impl Isa {
    /// The instruction set of this process: the fastest, unless [`Isa::choose`] was called.
    #[must_use]
    pub fn best() -> Self {
        CHOSEN.get().copied().unwrap_or_else(Self::fastest)
    }

    /// For [`kernel!`], which expands in other crates.
    #[doc(hidden)]
    #[must_use]
    pub const fn level(self) -> Level {
        self.0
    }

    /// Makes this process compute with the instruction set of this name from now on. Returns whether the CPU
    /// has it. Only the first call has an effect.
    #[must_use]
    pub fn choose(name: &str) -> bool {
        let found = Self::available().into_iter().find(|isa| isa.name() == name);
        found.is_some_and(|isa| *CHOSEN.get_or_init(|| isa) == isa)
    }

    /// The fastest instruction set.
    #[must_use]
    pub fn fastest() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if has_amx() {
                return Self(Level::Amx);
            }
            if has_avx512() {
                return Self(Level::Avx512);
            }
            if has_avx2() {
                return Self(Level::Avx2);
            }
        }
        Self(Level::Portable)
    }

    /// All instruction sets of this CPU, the slowest first; for tests that compare them.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let mut found = vec![Self(Level::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            if has_avx2() {
                found.push(Self(Level::Avx2));
            }
            if has_avx512() {
                found.push(Self(Level::Avx512));
            }
            if has_amx() {
                found.push(Self(Level::Amx));
            }
        }
        found
    }

    /// The name, for logs and fingerprints.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Level::Amx => "amx",
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

/// Whether the CPU has AVX-512 and AMX's products of bf16, and the kernel lets this process use AMX.
#[cfg(target_arch = "x86_64")]
fn has_amx() -> bool {
    static HAS_AMX: OnceLock<bool> = OnceLock::new();
    *HAS_AMX.get_or_init(|| has_avx512() && has_amx_bf16() && may_use_tiles())
}

/// Whether the CPU has AMX's products of bf16. Detection in std does not know AMX yet.
#[cfg(target_arch = "x86_64")]
#[must_use]
pub fn has_amx_bf16() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};

    /// Structured extended features: bits 22 and 24 of EDX are AMX-BF16 and AMX-TILE.
    const FEATURES: u32 = 7;
    const BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
    __cpuid(0).eax >= FEATURES && __cpuid_count(FEATURES, 0).edx & BF16_AND_TILE == BF16_AND_TILE
}

/// Asks Linux to save the tiles' registers with every thread of this process.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn may_use_tiles() -> bool {
    use std::ffi::c_long;

    unsafe extern "C" {
        fn syscall(number: c_long, ...) -> c_long;
    }
    /// `SYS_arch_prctl`, `ARCH_REQ_XCOMP_PERM` and `XFEATURE_XTILEDATA` of the kernel's headers.
    const ARCH_PRCTL: c_long = 158;
    const REQUEST_PERMISSION: c_long = 0x1023;
    const TILE_DATA: c_long = 18;
    // SAFETY: the call takes two numbers and touches no memory of this process.
    unsafe { syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA) == 0 }
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn may_use_tiles() -> bool {
    false
}

/// Writes a function whose first argument is `isa: Isa`, and which runs the variant of the body for it.
///
/// The body must only call functions marked `#[inline(always)]`, because others would not be
/// compiled for the instruction set. The function may have one type parameter.
#[macro_export]
macro_rules! kernel {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident $(<$element:ident: $bound:ident>)? (
            $($arg:ident: $type:ty),* $(,)?
        ) $(-> $out:ty)? $body:block
    ) => {
        $(#[$meta])*
        #[allow(unsafe_code, reason = "see isa.rs")]
        #[allow(clippy::too_many_arguments, reason = "a kernel names every vector it touches")]
        $vis fn $name $(<$element: $bound>)? (isa: $crate::Isa, $($arg: $type),*) $(-> $out)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments, reason = "as above")]
            fn portable $(<$element: $bound>)? ($($arg: $type),*) $(-> $out)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments, reason = "as above")]
            fn avx2 $(<$element: $bound>)? ($($arg: $type),*) $(-> $out)? {
                portable($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            #[allow(clippy::too_many_arguments, reason = "as above")]
            fn avx512 $(<$element: $bound>)? ($($arg: $type),*) $(-> $out)? {
                portable($($arg),*)
            }

            match isa.level() {
                $crate::isa::Level::Portable => portable($($arg),*),
                // SAFETY: an `Isa` of this level exists only if the CPU has the features.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Level::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Level::Avx512 | $crate::isa::Level::Amx => unsafe {
                    avx512($($arg),*)
                },
            }
        }
    };
}
