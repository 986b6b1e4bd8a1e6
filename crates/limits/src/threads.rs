//! Threads: whether the system lets this process start as many as it needs.
//!
//! Many limits bound them (processes of a user, of a cgroup, of the machine; address space), and
//! some of them count what others do. So the threads are started once, all at the same time, and
//! ended again.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use rustix::process::Resource;
use thiserror::Error;

use crate::{cgroup, shown};

/// A process may start fewer threads than it needs.
#[derive(Debug, Error)]
#[error(
    "{who} takes {needed} threads, and the system let it start {started} ({source}): raise the \
     limit on processes (ulimit -u, now {processes}{group})"
)]
pub struct TooFewThreads {
    /// What needs them.
    pub who: String,
    /// How many.
    pub needed: usize,
    /// How many could be started.
    pub started: usize,
    /// What the system said of the next one.
    pub source: io::Error,
    processes: String,
    group: String,
}

/// Sees to it that this process may start that many threads, for `who`.
///
/// # Errors
/// When it may not.
pub fn ensure_threads(who: &str, needed: usize) -> Result<(), TooFewThreads> {
    // Each waits until this lock is free, so that all exist at one time.
    let tried = Arc::new(Mutex::new(()));
    let trying = tried.lock().unwrap_or_else(PoisonError::into_inner);
    let mut threads = Vec::new();
    let mut refused = None;
    while threads.len() < needed && refused.is_none() {
        let tried = Arc::clone(&tried);
        let wait = move || drop(tried.lock());
        match thread::Builder::new().spawn(wait) {
            Ok(thread) => threads.push(thread),
            Err(error) => refused = Some(error),
        }
    }
    drop(trying);
    let started = threads.len();
    threads.into_iter().for_each(|thread| drop(thread.join()));
    let Some(source) = refused else { return Ok(()) };
    let group = cgroup::threads_limit();
    let group = group.map_or(String::new(), |limit| format!("; pids.max of the cgroup, {limit}"));
    let processes = shown(Resource::Nproc);
    Err(TooFewThreads { who: who.to_owned(), needed, started, source, processes, group })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_threads_may_be_started() {
        ensure_threads("a test", 4).unwrap();
    }
}
