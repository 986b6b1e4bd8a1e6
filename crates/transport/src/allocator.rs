//! Makes the system's allocator keep large blocks that are freed.
//!
//! By default the allocator gives freed large blocks back to the system, and gets fresh pages for the
//! next block. Each fresh page costs a page fault; for a state copied from another worker, the faults
//! cost several times as much as the copy. [`release_freed_blocks`] gives the memory back on request.
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

/// The free bytes kept at the heap's end, and the size up to which a block comes from the heap.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES: i32 = 256 << 20;

/// The largest value that older versions of the C library accept.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES_EARLIER: i32 = 32 << 20;

/// Keeps freed blocks of up to hundreds of megabytes for later blocks. Call it at the beginning of
/// `main`. It has no effect with another C library than glibc.
pub fn keep_freed_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use glibc::{MMAP_THRESHOLD, TRIM_THRESHOLD, mallopt};
        // SAFETY: mallopt takes two numbers, uses its own lock, and refuses unknown values.
        unsafe {
            if mallopt(MMAP_THRESHOLD, KEPT_BYTES) == 0 {
                mallopt(MMAP_THRESHOLD, KEPT_BYTES_EARLIER);
            }
            mallopt(TRIM_THRESHOLD, KEPT_BYTES);
        }
    }
}

/// Gives the memory of all freed blocks back to the system. It has no effect with another C library
/// than glibc.
pub fn release_freed_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim takes the number of bytes to keep, and the locks of the allocator.
    unsafe {
        glibc::malloc_trim(0);
    }
}
