//! Makes the limit on the size of files an error, instead of a signal that kills.

#![allow(unsafe_code, reason = "the standard library has no call to ignore a signal")]

use std::ffi::c_int;

use rustix::process::Signal;

/// Makes a write beyond the limit on the size of files (`ulimit -f`) fail with EFBIG, as a write to a
/// full disk fails with ENOSPC. By default, SIGXFSZ kills the process without a message. To be called
/// at the top of `main`.
pub fn report_file_size_limit() {
    unsafe extern "C" {
        fn signal(signal: c_int, handler: usize) -> usize;
    }
    /// `SIG_IGN` of `signal.h`.
    const IGNORE: usize = 1;
    // SAFETY: no handler is installed, so nothing runs in a signal's context.
    unsafe { signal(Signal::XFSZ.as_raw(), IGNORE) };
}
