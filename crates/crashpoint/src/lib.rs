//! Crash points: named places in the code where a test has a process die, hang, freeze, panic, fail
//! or spoil a bit.
//!
//! Without the feature `armed`, as in every program that people get, the macros stand for
//! nothing: neither the places nor their names are in the program. With it, the environment
//! variable `LOCKSTEP_CRASH_POINT` says what happens, as in `checkpoint.renamed 2 kill`: when
//! the place is reached for the second time, the process kills itself. What a place means is
//! known where it is, and in `tests/crash_points.rs`.

#[cfg(feature = "armed")]
pub mod armed;

/// Marks a place where a process may be told to die, to panic, to freeze or to hang.
#[cfg(feature = "armed")]
#[macro_export]
macro_rules! reach {
    ($name:literal) => {
        $crate::armed::reach($name)
    };
}

/// Marks a place where a process may be told to die, to panic, to freeze or to hang.
#[cfg(not(feature = "armed"))]
#[macro_export]
macro_rules! reach {
    ($name:literal) => {{}};
}

/// Whether what happens at a place was told to fail.
#[cfg(feature = "armed")]
#[macro_export]
macro_rules! fails {
    ($name:literal) => {
        $crate::armed::fails($name)
    };
}

/// Whether what happens at a place was told to fail.
#[cfg(not(feature = "armed"))]
#[macro_export]
macro_rules! fails {
    ($name:literal) => {
        false
    };
}

/// Marks a place where a bit of some floats may be told to flip.
#[cfg(feature = "armed")]
#[macro_export]
macro_rules! flip {
    ($name:literal, $floats:expr) => {
        $crate::armed::flip($name, $floats)
    };
}

/// Marks a place where a bit of some floats may be told to flip.
#[cfg(not(feature = "armed"))]
#[macro_export]
macro_rules! flip {
    ($name:literal, $floats:expr) => {{}};
}
