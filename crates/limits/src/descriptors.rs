//! File descriptors: how many a process may have, and whether they are enough.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;

/// How a person raises the limit: in a shell, in a systemd unit, or for a container.
pub(crate) const REMEDY: &str = "raise that limit: `ulimit -n` in the shell, LimitNOFILE= in a \
                                 systemd unit, --ulimit nofile= of a container";

/// A process may have fewer file descriptors than it will need.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "{who} takes {needed} file descriptors, and this process may have {allowed} (ulimit -n): \
     {REMEDY}"
)]
pub struct TooFewDescriptors {
    /// The part of the program that needs them, with the numbers that decide the need.
    pub who: String,
    /// The number needed, including the descriptors that are already open.
    pub needed: u64,
    /// The limit, after this process raised it as far as it may.
    pub allowed: u64,
}

/// Ensures that this process may open `more` files and connections beside the open ones; raises the
/// limit if needed. `who` is named in the error.
///
/// # Errors
/// When the system grants fewer.
pub fn ensure_descriptors(who: &str, more: u64) -> Result<(), TooFewDescriptors> {
    let needed = open() + more;
    let allowed = raise_descriptors(needed);
    if allowed >= needed {
        return Ok(());
    }
    Err(TooFewDescriptors { who: who.to_owned(), needed, allowed })
}

/// Raises the limit to `wanted`, or as far as this process may. Returns the new limit.
pub fn raise_descriptors(wanted: u64) -> u64 {
    let before = getrlimit(Resource::Nofile);
    let wanted = before.maximum.map_or(wanted, |most| most.min(wanted));
    if before.current.is_some_and(|limit| limit < wanted) {
        let _few = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..before });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The number of open descriptors. A parent process may have left more than the three standard ones.
fn open() -> u64 {
    /// The number that is assumed if the folder cannot be listed.
    const STANDARD: u64 = 3;
    // The listing itself has one descriptor open.
    let listed = std::fs::read_dir("/proc/self/fd").map(|entries| entries.count() as u64 - 1);
    listed.unwrap_or(STANDARD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_need_beyond_the_limit_is_told_with_both_numbers() {
        ensure_descriptors("a test", 1).unwrap();
        let beyond = 1 << 40;
        let error = ensure_descriptors("a run of 9 workers", beyond).unwrap_err();
        assert!(error.needed > beyond && error.allowed < beyond, "{error:?}");
        let text = error.to_string();
        let numbers = format!("takes {} file descriptors, and this", error.needed);
        assert!(text.contains(&numbers) && text.contains("a run of 9 workers"), "{text}");
        assert!(text.contains(&format!("may have {} (ulimit -n)", error.allowed)), "{text}");
    }
}
