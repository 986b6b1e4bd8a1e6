//! Threads: whether the system lets this process start as many as it needs.
//!
//! Many limits bound the number of threads (processes of a user, of a cgroup, of the machine; address
//! space), and some of them count the threads of other processes too. So this check starts all threads
//! at the same time, and ends them again.

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
    /// The part of the program that needs the threads.
    pub who: String,
    /// The number of threads needed.
    pub needed: usize,
    /// The number of threads that could be started.
    pub started: usize,
    /// The system's error for the next thread.
    pub source: io::Error,
    processes: String,
    group: String,
}

/// Checks that this process may start `needed` threads. `who` is named in the error.
///
/// # Errors
/// When the system refuses to start one of them.
pub fn ensure_threads(who: &str, needed: usize) -> Result<(), TooFewThreads> {
    // Each thread waits until this lock is free, so that all threads exist at the same time.
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
