//! Has the system's allocator keep large blocks that are freed.
//!
//! By default it gives them back and fetches fresh pages for the next one, each of which costs
//! a fault: for a state that is taken over, several times as much as the bytes do. What is not needed
//! again soon is given back on request.
#![allow(unsafe_code, reason = "mallopt and malloc_trim are functions of the C library")]

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    unsafe extern "C" {
        pub(super) fn mallopt(parameter: i32, value: i32) -> i32;
        pub(super) fn malloc_trim(pad: usize) -> i32;
    }

    /// Parameters of `mallopt`, as `malloc.h` numbers them.
    pub(super) const TRIM_THRESHOLD: i32 = -1;
    pub(super) const MMAP_THRESHOLD: i32 = -3;
}

/// Bytes of free memory at the heap's end that are kept, and of a block that comes from there.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES: i32 = 256 << 20;

/// What the first versions of the C library take instead.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES_EARLIER: i32 = 32 << 20;

/// Has freed blocks of up to hundreds of megabytes kept for the next ones. To be called at the
/// top of `main`; without effect where the C library is another one.
pub fn keep_freed_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use glibc::{MMAP_THRESHOLD, TRIM_THRESHOLD, mallopt};
        // SAFETY: mallopt takes two numbers and a lock of its own, and refuses what it does not
        // know.
        unsafe {
            if mallopt(MMAP_THRESHOLD, KEPT_BYTES) == 0 {
                mallopt(MMAP_THRESHOLD, KEPT_BYTES_EARLIER);
            }
            mallopt(TRIM_THRESHOLD, KEPT_BYTES);
        }
    }
}

/// Gives the memory of all freed blocks back to the system; without effect where the C library is
/// another one.
pub fn release_freed_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim takes the number of bytes to keep, and the locks of the allocator.
    unsafe {
        glibc::malloc_trim(0);
    }
}
