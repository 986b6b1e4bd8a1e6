//! File descriptors: how many a process may have, and whether these are enough.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;

/// How the limit is raised, wherever the program was started.
pub(crate) const REMEDY: &str = "raise that limit: `ulimit -n` in the shell, LimitNOFILE= in a \
                                 systemd unit, --ulimit nofile= of a container";

/// A process may have fewer file descriptors than it will need.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "{who} takes {needed} file descriptors, and this process may have {allowed} (ulimit -n): \
     {REMEDY}"
)]
pub struct TooFewDescriptors {
    /// What needs them, with what it depends on.
    pub who: String,
    /// How many it takes, with those that are open.
    pub needed: u64,
    /// The limit, after it was raised as far as this process may.
    pub allowed: u64,
}

/// Sees to it that this process may open `more` files and connections beside those that are open,
/// for `who`.
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

/// The limit, after it was raised to `wanted` or as far as this process may.
pub fn raise_descriptors(wanted: u64) -> u64 {
    let before = getrlimit(Resource::Nofile);
    let wanted = before.maximum.map_or(wanted, |most| most.min(wanted));
    if before.current.is_some_and(|limit| limit < wanted) {
        let _few = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..before });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many are open now; a parent may have left more than the three of standard input and output.
fn open() -> u64 {
    /// Where the folder cannot be listed.
    const STANDARD: u64 = 3;
    // The listing itself has one open.
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
