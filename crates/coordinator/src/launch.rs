//! From flags to a run that can begin: a valid configuration, the run directory's place, and
//! the checkpoint to resume from. Nothing is written before [`Launch::open_run_dir`], except what a
//! store has of a run to resume and its directory lacks.

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use checkpoint::{Checkpoint, Directory};
use clap::{ArgMatches, parser::ValueSource};
use config::{Collective, Difference, InvalidConfig, LearningRateSchedule, RunConfig};
use secure::Security;
use telemetry::{LogFormat, LogLevel};

use crate::{
    args::{Args, DirectoryArgs},
    hints::Given,
    journal::History,
    listen::HostName,
    needs,
    run_dir::{RunDir, RunInfo},
    spawn,
    storage::{self, Storage},
};

/// A run that can begin.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) info: RunInfo,
    pub(crate) run_dir: PathBuf,
    /// Whether `runs/latest` is to point at the run directory.
    is_default_dir: bool,
    pub(crate) start: Start,
    /// Where checkpoints are kept beside the run directory.
    storage: Option<Storage>,
    pub(crate) data_dir: PathBuf,
    pub(crate) is_data_dir_given: bool,
    pub(crate) offline: bool,
    pub(crate) listen: SocketAddr,
    /// What workers are told to connect to, if not what this coordinator listens on.
    pub(crate) advertise: Option<HostName>,
    pub(crate) security: Security,
    /// The same security, as flags of the workers that are started here.
    pub(crate) worker_arguments: Vec<OsString>,
    /// The workers to start here, if they are started here.
    pub(crate) spawn: Option<Spawn>,
    /// What has to be said again to go on with the run.
    pub(crate) given: Given,
    /// Whether SIGTERM ends this process alone, and not the run.
    pub(crate) leave_on_sigterm: bool,
    /// What is known of a run that has begun before.
    pub(crate) history: History,
    pub(crate) min_workers: u32,
    pub(crate) max_restarts: u32,
    pub(crate) dead_after: Duration,
    pub(crate) stall_after: Duration,
    pub(crate) join_timeout: Duration,
    pub(crate) coordinator_timeout: Duration,
    pub(crate) allow_mixed_devices: bool,
    pub(crate) log_format: LogFormat,
    pub(crate) log_level: LogLevel,
}

/// What a run starts from.
#[derive(Debug)]
pub(crate) enum Start {
    /// A new run, from its seed.
    Seed,
    /// A run that ended before its first checkpoint, from its seed again.
    Again,
    /// A checkpoint: its absolute path, and what it says.
    Checkpoint(PathBuf, checkpoint::Metadata),
}

/// A run as the flags describe it: a new one, or one that has begun before.
struct Origin {
    info: RunInfo,
    run_dir: PathBuf,
    start: Start,
    storage: Option<Storage>,
}

/// How workers are started here.
#[derive(Debug)]
pub(crate) struct Spawn {
    pub(crate) program: PathBuf,
    pub(crate) threads: Option<u32>,
    /// Where they compute, one after the other, and again from the first; empty to leave it to
    /// them.
    pub(crate) devices: Vec<String>,
}

/// Where default run directories are made, relative to the working directory.
const RUNS: &str = "runs";

/// Digits of the run's id that its default directory is named by.
const SHORT_ID: usize = 6;

impl Spawn {
    fn new(args: &Args) -> Result<Self> {
        let (threads, devices) = (args.worker_threads, args.worker_device.clone());
        Ok(Self { program: spawn::worker_program()?, threads, devices })
    }
}

impl Launch {
    /// Prepares the run that the flags describe; `matches` says which were given.
    pub(crate) fn prepare(args: Args, matches: &ArgMatches) -> Result<Self> {
        let security = args.security.load()?;
        ensure!(
            args.spawn || (args.worker_threads.is_none() && args.worker_device.is_empty()),
            "--worker-threads and --worker-device are for the workers that --spawn starts: say \
             --spawn too, or give each worker its own --threads and --device"
        );
        let spawn = args.spawn.then(|| Spawn::new(&args)).transpose()?;
        let data_dir = args.directories.data_dir.clone().unwrap_or_else(data::default_dir);
        let data_dir = std::path::absolute(data_dir)?;
        let Origin { info, run_dir, start, storage } =
            if resumes(&args)? { resume(&args, matches)? } else { begin(&args, matches)? };
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
        // Workers that were left behind look for their coordinator where it was.
        let known = history.listening().filter(|_| !is_given(matches, "listen"));
        let listen = known.map_or_else(|| args.listen.resolve(), Ok)?;
        security.permit("--listen", &listen.into())?;
        Ok(Self {
            info,
            is_default_dir: args.directories.run_dir.is_none() && run_dir != latest(),
            run_dir,
            start,
            storage,
            data_dir,
            is_data_dir_given: args.directories.data_dir.is_some(),
            offline: args.directories.offline,
            listen,
            history,
            advertise: args.advertise,
            security,
            worker_arguments: args.security.to_arguments(),
            spawn,
            given: Given::new(matches),
            leave_on_sigterm: args.leave_on_sigterm,
            min_workers: args.min_workers,
            max_restarts: args.max_restarts,
            dead_after: Duration::from_secs_f64(args.dead_after_seconds),
            stall_after: Duration::from_secs_f64(args.stall_after_seconds),
            join_timeout: Duration::from_secs_f64(args.join_timeout_seconds),
            coordinator_timeout: Duration::from_secs_f64(args.coordinator_timeout_seconds),
            allow_mixed_devices: args.allow_mixed_devices,
            log_format: args.log_format,
            log_level: args.log_level,
        })
    }

    /// Marks the folder in the store, if there is one, as this run's. This shows that something can
    /// be put there, too.
    pub(crate) async fn claim_storage(&self) -> Result<()> {
        let Some(storage) = self.storage.clone() else { return Ok(()) };
        let info = self.info.clone();
        tokio::task::spawn_blocking(move || storage.claim(&info)).await?
    }

    /// Makes the run directory, or opens that of the run to resume.
    pub(crate) fn open_run_dir(&self) -> Result<RunDir> {
        RunDir::create(&self.run_dir, &self.info)
    }

    /// Notes that workers begin to compute: from now on this is the latest run.
    pub(crate) fn begin(&self, run_dir: &mut RunDir) -> Result<()> {
        if self.is_default_dir && !run_dir.has_begun() {
            run_dir.point_latest();
        }
        run_dir.begin();
        Ok(())
    }

    /// The flags to go on with where only so many workers came; `flag` says how many it takes.
    pub(crate) fn with_fewer(&self, flag: &str, workers: u32) -> Given {
        let given = self.given.clone();
        let given = if flag == "workers" { given.with("workers", workers) } else { given };
        if self.min_workers > workers { given.with("min_workers", workers) } else { given }
    }

    /// Whether the run is known beyond this start: it has begun before, or it stands in a store.
    pub(crate) fn is_known(&self) -> bool {
        !matches!(self.start, Start::Seed) || self.storage.is_some()
    }

    /// Where the run's checkpoints are or will be, whatever a link on the way may lead to later.
    pub(crate) fn checkpoints(&self) -> Result<PathBuf> {
        let there = std::fs::canonicalize(&self.run_dir);
        let run_dir = there.or_else(|_| std::path::absolute(&self.run_dir))?;
        Ok(RunDir::checkpoints_in(&run_dir))
    }

    pub(crate) fn config(&self) -> &RunConfig {
        &self.info.config
    }

    /// The checkpoint that the run goes on from, if it does.
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

    /// Whether the run has been completed before, so that nothing of it is left to do.
    pub(crate) fn is_complete(&self) -> bool {
        let steps = steps(self.config());
        let is_trained = self.checkpoint().is_some_and(|(_, metadata)| metadata.step == steps);
        // Only workers could tell whether a store lacks something.
        is_trained && self.storage.is_none() && RunDir::is_summed_up(&self.run_dir, steps)
    }
}

fn steps(config: &RunConfig) -> u64 {
    steps_per_epoch(config) * u64::from(config.operation.epochs)
}

fn steps_per_epoch(config: &RunConfig) -> u64 {
    let t = &config.training;
    data::Schedule::new(t.seed, t.train_images, t.shards, t.batch_size).steps_per_epoch()
}

/// Whether there is to be a run to go on with.
fn resumes(args: &Args) -> Result<bool> {
    let DirectoryArgs { run_dir, resume, resume_or_begin, .. } = &args.directories;
    if !resume_or_begin || run_dir.as_deref().is_some_and(RunDir::holds_run) {
        return Ok(*resume || *resume_or_begin);
    }
    let storage = Storage::open(args.operation.checkpoint_url.as_deref())?;
    storage.map_or(Ok(false), |storage| storage.holds_run())
}

fn begin(args: &Args, matches: &ArgMatches) -> Result<Origin> {
    let config = args.config();
    config.validate()?;
    let info = RunInfo { run_id: uuid::Uuid::new_v4().simple().to_string(), config };
    let run_dir = match &args.directories.run_dir {
        Some(path) => {
            refuse_occupied(path, &info.config, &Given::new(matches))?;
            RunDir::try_new(path)?;
            path.clone()
        }
        None => {
            let path = default_dir(&info.run_id);
            RunDir::try_write(&path)?;
            path
        }
    };
    let storage = Storage::open(info.config.operation.checkpoint_url.as_deref())?;
    if let Some(storage) = &storage {
        storage.refuse_occupied()?;
    }
    Ok(Origin { info, run_dir, start: Start::Seed, storage })
}

/// Where a run is kept of which nothing else was said.
fn default_dir(run_id: &str) -> PathBuf {
    let now = jiff::ZonedDateTime::now().strftime("%Y%m%d-%H%M%S");
    Path::new(RUNS).join(format!("{now}-{}", run_id.get(..SHORT_ID).unwrap_or(run_id)))
}

fn latest() -> PathBuf {
    Path::new(RUNS).join("latest")
}

/// The run to go on with where nobody names one: the latest, or where that has no checkpoint, and
/// nobody works on one, the newest that has.
fn latest_to_resume(args: &Args) -> PathBuf {
    let latest = latest();
    let is_taken = checkpoint::has_checkpoint(&latest) || RunDir::is_open(&latest);
    // A store says itself which run is kept there.
    if is_taken || args.operation.checkpoint_url.is_some() {
        return latest;
    }
    match checkpoint::newest_run(Path::new(RUNS)) {
        Some(run) => {
            let (shown, latest) = (run.display(), latest.display());
            tracing::warn!(
                "{latest} has no checkpoint: going on with {shown}, the newest that has"
            );
            run
        }
        None => latest,
    }
}

/// Refuses to begin a run where there is one already.
fn refuse_occupied(path: &Path, config: &RunConfig, given: &Given) -> Result<()> {
    if !RunDir::holds_run(path) {
        return Ok(());
    }
    let there = RunDir::read_info(path)?;
    let differences = there.config.training.differences(&config.training);
    let (go_on, path) = (given.go_on(path), path.display());
    if differences.is_empty() {
        bail!("{path} already holds this run: choose another --run-dir, or go on with: {go_on}");
    }
    bail!(
        "{path} holds a run of another configuration ({}): choose another --run-dir",
        describe(&differences, "there", "here")
    )
}

fn resume(args: &Args, matches: &ArgMatches) -> Result<Origin> {
    let asked = args.config();
    let mut path = args.directories.run_dir.clone().unwrap_or_else(|| latest_to_resume(args));
    let here = RunDir::holds_run(&path).then(|| RunDir::read_info(&path)).transpose()?;
    let kept = here.as_ref().and_then(|info| info.config.operation.checkpoint_url.clone());
    let given = is_given(matches, "checkpoint_url");
    let url = if given { asked.operation.checkpoint_url.clone() } else { kept.clone() };
    let mut storage = Storage::open(url.as_deref())?;
    if let Some(there) = &mut storage {
        let is_free = args.directories.run_dir.is_none();
        let place = |run_id: &str| if is_free { default_dir(run_id) } else { path.clone() };
        match there.restore(here.as_ref(), &path, place) {
            Ok(restored) => path = restored,
            // A store that is away does not stop a run that has used it, and is here.
            Err(error) if here.is_some() && url == kept && storage::is_away(&error) => {
                tracing::warn!("going on from the run directory alone: {error:#}");
                storage = None;
            }
            Err(error) => return Err(error),
        }
    }
    let name_it = match &args.directories.run_dir {
        Some(_) => "name the folder of one",
        None => "name its folder with --run-dir",
    };
    ensure!(
        RunDir::holds_run(&path),
        "nothing to resume: {} holds no run; {name_it}, or begin a new run without --resume",
        path.display()
    );
    RunDir::try_write(&path)?;
    let stored = RunDir::read_info(&path)?;
    let config = resumed_config(&stored.config, &asked, matches)
        .with_context(|| format!("cannot resume the run in {}", path.display()))?;
    config.validate().map_err(|invalid| match invalid {
        // Shards cannot be raised any more.
        InvalidConfig::IdleWorkers { workers, shards } => anyhow!(
            "--workers {workers} is more than the run's --shards {shards}, which stays: a worker \
             owns at least one shard; lower --workers"
        ),
        invalid => invalid.into(),
    })?;
    let info = RunInfo { config, ..stored };
    let start = newest_checkpoint(&path, &info)?;
    Ok(Origin { info, run_dir: path, start, storage })
}

/// The newest checkpoint of the run that verifies; the damaged ones are named.
fn newest_checkpoint(run_dir: &Path, info: &RunInfo) -> Result<Start> {
    let checkpoints = RunDir::checkpoints_in(run_dir);
    let newest = Directory::open(&checkpoints).newest()?;
    for (damaged, why) in &newest.damaged {
        tracing::warn!(checkpoint = %damaged.display(), "skipped a damaged checkpoint: {why}");
    }
    let Some((file, Checkpoint { metadata, .. })) = newest.checkpoint else {
        ensure!(
            newest.damaged.is_empty(),
            "nothing to resume: none of the {} checkpoints in {} verifies; restore one from a \
             copy, or begin a new run in another --run-dir",
            newest.damaged.len(),
            checkpoints.display(),
        );
        return Ok(Start::Again);
    };
    ensure!(
        metadata.run_id == info.run_id,
        "{} belongs to run {}, not to {}: move it out of the run directory",
        file.display(),
        metadata.run_id,
        info.run_id
    );
    let steps = steps(&info.config);
    ensure!(
        metadata.step <= steps,
        "the run is at step {} already, and --epochs {} ends at step {steps}: give more --epochs",
        metadata.step,
        info.config.operation.epochs
    );
    Ok(Start::Checkpoint(std::path::absolute(file)?, metadata))
}

/// The run's own configuration, with the flags given now where they may differ.
fn resumed_config(stored: &RunConfig, asked: &RunConfig, m: &ArgMatches) -> Result<RunConfig> {
    let given = |flag: &str| is_given(m, flag);
    let flag_of = |field: &str| field.rsplit('.').next().unwrap_or(field).to_owned();
    let differences: Vec<Difference> = stored
        .training
        .differences(&asked.training)
        .into_iter()
        .filter(|difference| given(&flag_of(&difference.field)))
        .collect();
    ensure!(
        differences.is_empty(),
        "these flags are not those of the run: {}; leave them out, or begin a new run",
        describe(&differences, "in the run", "given")
    );
    ensure!(
        stored.training.learning_rate_schedule != LearningRateSchedule::Cosine
            || !given("epochs")
            || asked.operation.epochs == stored.operation.epochs,
        "--epochs {} is not that of the run ({}), whose learning rates depend on it \
         (--learning-rate-schedule cosine); leave it out, or begin a new run",
        asked.operation.epochs,
        stored.operation.epochs
    );
    let mut config = stored.clone();
    let (ours, theirs) = (&mut config.operation, &asked.operation);
    let take = |flag, ours: &mut u32, theirs: u32| {
        if given(flag) {
            *ours = theirs;
        }
    };
    take("workers", &mut ours.workers, theirs.workers);
    take("epochs", &mut ours.epochs, theirs.epochs);
    take("verify_every", &mut ours.verify_every, theirs.verify_every);
    take("keep_checkpoints", &mut ours.keep_checkpoints, theirs.keep_checkpoints);
    let every = theirs.checkpoint_every_epochs;
    take("checkpoint_every_epochs", &mut ours.checkpoint_every_epochs, every);
    if given("collective") {
        ours.collective = theirs.collective;
    }
    if given("checkpoint_url") {
        ours.checkpoint_url.clone_from(&theirs.checkpoint_url);
    }
    Ok(config)
}

fn is_given(matches: &ArgMatches, flag: &str) -> bool {
    matches.value_source(flag) == Some(ValueSource::CommandLine)
}

fn describe(differences: &[Difference], ours: &str, theirs: &str) -> String {
    let one = |d: &Difference| format!("{}: {} {ours}, {} {theirs}", d.field, d.ours, d.theirs);
    differences.iter().map(one).collect::<Vec<_>>().join("; ")
}
