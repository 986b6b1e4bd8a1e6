//! A library that models compute with.

use crate::cuda::NoCuda;

/// A library that models compute with instead of this crate's code. The bits of such models depend on it, so it is part
/// of a worker's fingerprint.
#[derive(Clone, Copy, Debug)]
pub struct Library {
    /// The version, as in `2.11.0`.
    pub version: &'static str,
    /// Checks that this process has loaded this version; otherwise says what to do. A program calls it first.
    pub check: fn() -> Result<(), String>,
    /// Makes the bits independent of the number of threads, and names the library's code path. The first call must come
    /// before any other thread exists and before the library computes anything.
    pub settle: fn() -> String,
    /// Names the CPU's unit for products in bf16.
    pub bf16_unit: fn() -> &'static str,
    /// Lets the library compute on GPUs, or says why it cannot.
    pub open_gpus: fn() -> Result<(), NoCuda>,
}
