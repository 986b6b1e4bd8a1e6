//! The system's limits for a process (file descriptors, threads, memory, the size of files), and the
//! reasons why a signal ended a process.
//!
//! A program compares the limits with its needs when it starts. So a person sees a message about the
//! limit itself, and not a consequence of it an hour later. This crate reads and raises limits; each
//! program knows its own needs.

mod cgroup;
mod descriptors;
mod ending;
mod file_size;
mod memory;
mod threads;

use std::{error::Error, io};

pub use descriptors::{TooFewDescriptors, ensure_descriptors, raise_descriptors};
pub use ending::{Killer, describe_signal};
pub use file_size::report_file_size_limit;
pub use memory::{
    MemoryKills, MemoryLimit, TooLittleMemory, ensure_memory, machine_memory, memory_limit,
};
use rustix::process::Resource;
pub use threads::{TooFewThreads, ensure_threads};

/// An error with its causes, and advice if a limit of the system is among the causes. A cause that the
/// error's own text already contains is not repeated.
#[must_use]
pub fn told(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    match explain(error) {
        Some(limit) => format!("{text}: {limit}"),
        None => text,
    }
}

/// Why something failed, in a few words: the limit that caused the error, else its innermost cause.
#[must_use]
pub fn cause(error: &(dyn Error + 'static)) -> String {
    let innermost = || {
        let mut innermost = error;
        while let Some(deeper) = innermost.source() {
            innermost = deeper;
        }
        innermost.to_string()
    };
    explain(error).unwrap_or_else(innermost)
}

/// The limit that caused an error, and what to do about it; none if no limit caused it.
#[must_use]
pub fn explain(error: &(dyn Error + 'static)) -> Option<String> {
    let code = |error: &(dyn Error + 'static)| {
        error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error)
    };
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(meaning) = code(error).and_then(meaning) {
            return Some(meaning);
        }
        // The `source()` of an `io::Error` skips the error that it wraps, so that one is checked too.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(meaning) = wrapped.and_then(|wrapped| explain(wrapped)) {
            return Some(meaning);
        }
        next = error.source();
    }
    None
}

fn meaning(code: i32) -> Option<String> {
    use rustix::io::Errno;
    match Errno::from_raw_os_error(code) {
        Errno::MFILE => Some(format!(
            "this process has as many files and connections open as it may: {} file descriptors \
             (ulimit -n); {}",
            shown(Resource::Nofile),
            descriptors::REMEDY
        )),
        Errno::NFILE => Some(
            "this machine has as many files open as it may (fs.file-max): close other programs, \
             or raise it with sysctl"
                .to_owned(),
        ),
        Errno::FBIG => Some(format!(
            "a file may have at most {} bytes here (ulimit -f): raise that limit",
            shown(Resource::Fsize)
        )),
        _ => None,
    }
}

/// A limit as text for people.
fn shown(resource: Resource) -> String {
    let limit = rustix::process::getrlimit(resource).current;
    limit.map_or("an unlimited number of".to_owned(), |limit| limit.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        #[derive(Debug)]
        struct Full(io::Error);
        impl std::fmt::Display for Full {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "no space for x: {}; free some", self.0)
            }
        }
        impl Error for Full {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        assert_eq!(told(&Full(io::Error::other("full"))), "no space for x: full; free some");
        let outer = io::Error::other(Full(io::Error::other("full")));
        assert_eq!(told(&outer), "no space for x: full; free some");
    }

    #[test]
    fn a_limit_is_found_however_deep_it_lies() {
        let few = io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        let wrapped = io::Error::other(io::Error::other(few));
        let meaning = explain(&wrapped).unwrap();
        assert!(meaning.contains("ulimit -n"), "{meaning}");
        let large = io::Error::from_raw_os_error(rustix::io::Errno::FBIG.raw_os_error());
        assert!(explain(&large).unwrap().contains("ulimit -f"));
        assert_eq!(explain(&io::Error::other("nothing of the kind")), None);
    }
}
