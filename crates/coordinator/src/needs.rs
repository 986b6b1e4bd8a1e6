//! Compares what a run needs of this machine with the system's limits, before anything begins.

use anyhow::{Context as _, Result};
use config::RunConfig;

/// Files and sockets that a coordinator opens for any run: for its runtime, the run directory,
/// checkpoints, requests for the status, and a reserve.
const OWN_DESCRIPTORS: u64 = 24;

/// For each worker: its connection, and a file of the data set while the worker fetches it.
const DESCRIPTORS_PER_WORKER: u64 = 2;

/// For each worker that is started here: two pipes and the process handle.
const DESCRIPTORS_PER_CHILD: u64 = 3;

/// While a process is started: the other ends of its pipes.
const DESCRIPTORS_TO_SPAWN: u64 = 8;

/// Threads that wait for files and names while the control loop goes on.
const THREADS: usize = 4;

/// Refuses a run that this machine cannot hold. The memory is checked for all workers if they are
/// started here, else for one worker.
pub(crate) fn check(config: &RunConfig, spawn: bool) -> Result<()> {
    check_memory(config, spawn)?;
    let workers = config.operation.workers;
    limits::ensure_descriptors(
        &format!("a coordinator of {}", stdout::counted(workers.into(), "worker")),
        descriptors(workers, spawn),
    )?;
    limits::ensure_threads("a coordinator", THREADS)?;
    Ok(())
}

fn descriptors(workers: u32, spawn: bool) -> u64 {
    let workers = u64::from(workers);
    let children = if spawn { DESCRIPTORS_PER_CHILD * workers + DESCRIPTORS_TO_SPAWN } else { 0 };
    OWN_DESCRIPTORS + DESCRIPTORS_PER_WORKER * workers + children
}

fn check_memory(config: &RunConfig, spawn: bool) -> Result<()> {
    let one = config.training.memory_bytes();
    let workers = u64::from(config.operation.workers);
    // A worker that is not started here may be in another control group, and checks that itself.
    let (who, needed, limit) = match spawn {
        true => ("what is started here", one * workers, limits::memory_limit()),
        false => ("a worker", one, limits::machine_memory()),
    };
    let lower = match workers {
        1 => "--batch-size or the size of the model",
        _ => "--batch-size, --workers or the size of the model",
    };
    limits::ensure_memory(who, needed, limit)
        .with_context(|| format!("too little memory for the run: lower {lower}, or give it more"))
}
