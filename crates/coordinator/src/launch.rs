//! A run that can begin: a valid configuration, the path of the run directory, the checkpoint to
//! resume from, and the settings of this coordinator. Nothing is written before
//! [`Launch::open_run_dir`], except the files that [`origin`] fetches from a store.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ::board::Explorer;
use anyhow::{Result, ensure};
use clap::ArgMatches;
use config::{Collective, Manifest, RunConfig};
use secure::Security;
use telemetry::{LogFormat, LogLevel};

use crate::{
    args::Args,
    board,
    hints::Given,
    journal::History,
    listen::{HostName, ListenTarget},
    needs,
    origin::{self, Asked, Damaged, Origin, is_given},
    program::Program,
    run_dir::{RunDir, RunInfo},
    spawn,
    storage::Storage,
};

/// A run that can begin.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) program: &'static dyn Program,
    pub(crate) info: RunInfo,
    pub(crate) run_dir: PathBuf,
    /// Whether `runs/latest` is to point at the run directory.
    is_default_dir: bool,
    pub(crate) start: Start,
    /// Checkpoints that are newer than the one to start from.
    damaged: Damaged,
    /// The object store that also keeps the checkpoints.
    storage: Option<Storage>,
    pub(crate) data_dir: PathBuf,
    pub(crate) is_data_dir_given: bool,
    pub(crate) offline: bool,
    pub(crate) listen: ListenTarget,
    /// Where the run is shown, if anywhere.
    pub(crate) board: board::Plan,
    /// The name that workers connect to, if it differs from the listening address.
    pub(crate) advertise: Option<HostName>,
    pub(crate) security: Security,
    /// The same security, as flags of the workers that are started here.
    pub(crate) worker_arguments: Vec<OsString>,
    /// How to start the workers, if this coordinator starts them.
    pub(crate) spawn: Option<Spawn>,
    /// The flags to repeat when the run is resumed.
    pub(crate) given: Given,
    /// Whether SIGTERM ends this process alone, and not the run.
    pub(crate) leave_on_sigterm: bool,
    /// The journal of an earlier coordinator of this run.
    pub(crate) history: History,
    pub(crate) min_workers: u32,
    pub(crate) max_restarts: u32,
    pub(crate) dead_after: Duration,
    pub(crate) stall_after: Duration,
    pub(crate) join_timeout: Duration,
    pub(crate) coordinator_timeout: Duration,
    pub(crate) allow_mixed_devices: bool,
    pub(crate) allow_mixed_builds: bool,
    pub(crate) log_format: LogFormat,
    pub(crate) log_level: LogLevel,
    /// Whether events are written for TensorBoard.
    pub(crate) tensorboard: bool,
    /// The command that receives every event.
    pub(crate) notify: Option<String>,
}

/// What a run starts from.
#[derive(Debug)]
pub(crate) enum Start {
    /// A new run, from its seed.
    Seed,
    /// A run that ended before its first checkpoint, from its seed again.
    Again,
    /// A checkpoint: its absolute path and its metadata.
    Checkpoint(PathBuf, checkpoint::Metadata),
}

/// How workers are started here.
#[derive(Debug)]
pub(crate) struct Spawn {
    pub(crate) program: PathBuf,
    pub(crate) threads: Option<u32>,
    /// The workers' devices: one after the other, then again from the first; empty if each worker
    /// chooses its own.
    pub(crate) devices: Vec<String>,
}

impl Spawn {
    fn new(args: &Args, program: &dyn Program) -> Result<Self> {
        let (threads, devices) = (args.worker_threads, args.worker_device.clone());
        Ok(Self { program: spawn::worker_program(program.worker())?, threads, devices })
    }
}

impl Launch {
    /// Prepares the run that the flags describe; `matches` says which flags were given.
    pub(crate) fn prepare(
        program: &'static dyn Program,
        args: Args,
        matches: &ArgMatches,
        tell: &dyn Fn(&str),
    ) -> Result<Self> {
        let security = args.security.load()?;
        ensure!(
            args.spawn || (args.worker_threads.is_none() && args.worker_device.is_empty()),
            "--worker-threads and --worker-device are for the workers that --spawn starts: say \
             --spawn too, or give each worker its own --threads and --device"
        );
        let spawn = args.spawn.then(|| Spawn::new(&args, program)).transpose()?;
        let asked = Asked { program, args: &args, matches, tell };
        let Origin { info, run_dir, start, damaged, storage } = asked.origin()?;
        let dataset = &info.config.training.task.dataset;
        let default_dir = || data::default_dir(&dataset.name);
        let data_dir = args.directories.data_dir.clone().unwrap_or_else(default_dir);
        let data_dir = std::path::absolute(data_dir)?;
        needs::check(&info.config, args.spawn)?;
        ensure!(
            info.config.operation.collective != Collective::Nccl || args.security.insecure,
            "--collective nccl has NCCL open ports of its own, without TLS and token: say \
             --insecure too if only friends can reach them, or choose --collective auto"
        );
        let workers = info.config.operation.workers;
        ensure!(
            args.min_workers <= workers,
            "--min-workers must be from 1 to the run's {workers} workers, not {}",
            args.min_workers
        );
        let history = RunDir::read_history(&run_dir)?;
        // Workers of the previous coordinator look for it at its old address.
        let asked = is_given(matches, "listen").then_some(&args.listen);
        let listen = ListenTarget::new(asked, &args.listen, history.listening())?;
        security.permit("--listen", &listen.address.into())?;
        let board = board::Plan::new(&args.board, &security)?;
        Ok(Self {
            program,
            info,
            is_default_dir: args.directories.run_dir.is_none() && run_dir != origin::latest(),
            run_dir,
            start,
            damaged,
            storage,
            data_dir,
            is_data_dir_given: args.directories.data_dir.is_some(),
            offline: args.directories.offline,
            listen,
            history,
            board,
            advertise: args.advertise,
            security,
            worker_arguments: args.security.to_arguments(),
            spawn,
            given: Given::new(program, matches),
            leave_on_sigterm: args.leave_on_sigterm,
            min_workers: args.min_workers,
            max_restarts: args.max_restarts,
            dead_after: Duration::from_secs_f64(args.dead_after_seconds),
            stall_after: Duration::from_secs_f64(args.stall_after_seconds),
            join_timeout: Duration::from_secs_f64(args.join_timeout_seconds),
            coordinator_timeout: Duration::from_secs_f64(args.coordinator_timeout_seconds),
            allow_mixed_devices: args.allow_mixed_devices,
            allow_mixed_builds: args.allow_mixed_builds,
            log_format: args.log_format,
            log_level: args.log_level,
            tensorboard: args.live.tensorboard,
            notify: args.live.notify,
        })
    }

    /// Marks the folder in the store, if there is one, as this run's. The write also shows that the
    /// store accepts writes.
    pub(crate) async fn claim_storage(&self) -> Result<()> {
        let Some(storage) = self.storage.clone() else { return Ok(()) };
        let info = self.info.clone();
        tokio::task::spawn_blocking(move || storage.claim(&info)).await?
    }

    /// Makes the run directory, or opens the directory of the run to resume. Damaged checkpoints that
    /// this run would meet are moved away.
    pub(crate) fn open_run_dir(&self) -> Result<RunDir> {
        let run_dir = RunDir::create(&self.run_dir, &self.info)?;
        for (path, why) in &self.damaged {
            tracing::warn!("{}", checkpoint::set_aside(path, why));
        }
        Ok(run_dir)
    }

    /// Records that workers begin to compute: from now on this is the latest run.
    pub(crate) fn begin(&self, run_dir: &mut RunDir) -> Result<()> {
        if self.is_default_dir && !run_dir.has_begun() {
            run_dir.point_latest();
        }
        run_dir.begin();
        Ok(())
    }

    /// The flags to resume with if only `workers` joined; `flag` is the flag that demanded more.
    pub(crate) fn with_fewer(&self, flag: &str, workers: u32) -> Given {
        let given = self.given.clone();
        let given = if flag == "workers" { given.with("workers", workers) } else { given };
        if self.min_workers > workers { given.with("min_workers", workers) } else { given }
    }

    /// Whether the run is known beyond this start: it has begun before, or it is in a store.
    pub(crate) fn is_known(&self) -> bool {
        !matches!(self.start, Start::Seed) || self.storage.is_some()
    }

    /// The explorer of the run's models, for boards.
    pub(crate) fn explorer(&self) -> Option<Arc<dyn Explorer>> {
        self.program.explorer(Some(self.data_dir.clone()))
    }

    /// The run directory's path with all links resolved, so that later changes of a link do not
    /// matter; the absolute path if the directory does not exist yet.
    pub(crate) fn resolved_run_dir(&self) -> Result<PathBuf> {
        let there = std::fs::canonicalize(&self.run_dir);
        Ok(there.or_else(|_| std::path::absolute(&self.run_dir))?)
    }

    /// Where the run's checkpoints are or will be.
    pub(crate) fn checkpoints(&self) -> Result<PathBuf> {
        self.resolved_run_dir().map(|run_dir| RunDir::checkpoints_in(&run_dir))
    }

    /// The name of the run's task, if it differs from this program's task.
    pub(crate) fn foreign_task(&self) -> Option<&str> {
        let name = &self.config().training.task.name;
        (name != self.program.task()).then_some(name)
    }

    /// The run's data set.
    pub(crate) fn dataset(&self) -> &Manifest {
        &self.config().training.task.dataset
    }

    pub(crate) fn config(&self) -> &RunConfig {
        &self.info.config
    }

    /// The checkpoint that the run continues from, if there is one.
    pub(crate) fn checkpoint(&self) -> Option<(&Path, &checkpoint::Metadata)> {
        match &self.start {
            Start::Checkpoint(path, metadata) => Some((path, metadata)),
            Start::Seed | Start::Again => None,
        }
    }

    /// Steps in an epoch.
    pub(crate) fn steps_per_epoch(&self) -> u64 {
        steps_per_epoch(self.config())
    }

    /// Whether the run has been completed before.
    pub(crate) fn is_complete(&self) -> bool {
        let steps = steps(self.config());
        let is_trained = self.checkpoint().is_some_and(|(_, metadata)| metadata.step == steps);
        // Only workers can tell whether a store lacks a checkpoint.
        is_trained && self.storage.is_none() && RunDir::is_summed_up(&self.run_dir, steps)
    }
}

pub(crate) fn steps(config: &RunConfig) -> u64 {
    steps_per_epoch(config) * u64::from(config.operation.epochs)
}

fn steps_per_epoch(config: &RunConfig) -> u64 {
    let t = &config.training;
    data::Schedule::new(t.seed, t.learned_examples(), t.shards, t.batch_size).steps_per_epoch()
}
