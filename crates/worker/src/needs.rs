//! Compares the descriptors, threads and memory that a worker needs with the system's limits: at the
//! start, and again when the worker knows its run.

use anyhow::{Context as _, Result};
use config::RunConfig;

/// Descriptors that every worker needs, with some in reserve: for its runtime, its listeners, the
/// coordinator's connection, libtorch, the data set and checkpoints.
const OWN_DESCRIPTORS: u64 = 24;

/// Descriptors for each other member: a stream to it and a stream from it, and twice as many during
/// a change of generations or a state transfer.
const DESCRIPTORS_PER_MEMBER: u64 = 4;

/// Threads besides the computing ones: for training, writing, storing, reading files, and resolving
/// names.
const THREADS: usize = 8;

/// Refuses to start if the limits are too low for any run.
pub(crate) fn check(threads: Option<u32>) -> Result<()> {
    limits::ensure_descriptors("a worker", OWN_DESCRIPTORS)?;
    limits::ensure_threads("a worker", THREADS + threads.unwrap_or(1) as usize)?;
    Ok(())
}

/// Refuses a run that needs more than this process may have.
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
