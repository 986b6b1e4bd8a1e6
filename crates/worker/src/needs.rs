//! What a worker takes of this machine, compared with what the system grants: as it starts, and
//! again once it knows its run.

use anyhow::{Context as _, Result};
use config::RunConfig;

/// Files and sockets that any worker has open, and some in reserve: those of its runtime, its
/// listeners, the coordinator's connection, libtorch, files of the data set and checkpoints.
const OWN_DESCRIPTORS: u64 = 24;

/// For each other member: a stream to it and one from it, and as many again while one generation
/// gives way to the next, or a state travels.
const DESCRIPTORS_PER_MEMBER: u64 = 4;

/// Threads besides those that compute: for training, writing and storing, and for files and names.
const THREADS: usize = 8;

/// Refuses to begin where no run at all would be possible.
pub(crate) fn check(threads: Option<u32>) -> Result<()> {
    limits::ensure_descriptors("a worker", OWN_DESCRIPTORS)?;
    limits::ensure_threads("a worker", THREADS + threads.unwrap_or(1) as usize)?;
    Ok(())
}

/// Refuses a run that takes more than this process may have.
pub(crate) fn check_run(config: &RunConfig) -> Result<()> {
    let others = u64::from(config.operation.workers.saturating_sub(1));
    limits::ensure_descriptors(
        &match others {
            0 => "a worker".to_owned(),
            1 => "a worker with 1 other".to_owned(),
            _ => format!("a worker with {others} others"),
        },
        OWN_DESCRIPTORS + DESCRIPTORS_PER_MEMBER * others,
    )?;
    let needed = config.training.memory_bytes();
    limits::ensure_memory("a worker of this run", needed, limits::memory_limit())
        .context("give it more memory, or begin a run with a smaller model or a lower --batch-size")
}
