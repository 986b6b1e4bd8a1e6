//! The limit on the size of files: an error to report, not a signal that kills.

#![allow(unsafe_code, reason = "ignores a signal, which the standard library has no call for")]

use std::ffi::c_int;

use rustix::process::Signal;

/// Has a write beyond the limit on the size of files (`ulimit -f`) fail with EFBIG, as one on a
/// full disk fails with ENOSPC. By default SIGXFSZ kills the process without a word. To be called
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
