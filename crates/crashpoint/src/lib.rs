//! Crash points: named places in the code where a test makes a process die, hang, freeze, panic, fail
//! or flip a bit.
//!
//! Released programs are built without the feature `armed`: the macros then expand to nothing, and the
//! program contains no crash points. With the feature, the environment variable
//! `LOCKSTEP_CRASH_POINT` names a point and an action. For example, with `checkpoint.renamed 2 kill`
//! the process kills itself when it reaches the point for the second time. `tests/crash_points.rs`
//! uses the points.

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
