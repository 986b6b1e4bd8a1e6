//! Finds the run that the flags mean: a new run, or an earlier run in a run directory or a store.
//! Nothing is written here, except files of a run to resume that are in the store and not in the run
//! directory.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use checkpoint::{Checkpoint, CheckpointError, Directory, Newest};
use clap::{ArgMatches, Command, parser::ValueSource};
use config::{Difference, InvalidConfig, LearningRateSchedule, RunConfig, Task};
use serde_json::Value;

use crate::{
    args::{Args, DirectoryArgs},
    hints::{self, Given},
    launch::{self, Start},
    live::LiveArgs,
    program::{Preparing, Program},
    run_dir::{RunDir, RunInfo},
    storage::{self, Storage},
};

/// Where default run directories are made, relative to the working directory.
const RUNS: &str = "runs";

/// Digits of the run's id in the name of its default directory.
const SHORT_ID: usize = 6;

/// Most bytes of a file that describes a task.
const TASK_BYTES_MAX: u64 = 4 << 20;

/// Checkpoints that cannot be used, with the reason.
pub(crate) type Damaged = Vec<(PathBuf, CheckpointError)>;

/// The run that the flags mean.
pub(crate) struct Origin {
    pub(crate) info: RunInfo,
    pub(crate) run_dir: PathBuf,
    pub(crate) start: Start,
    /// Checkpoints that are newer than the one to start from.
    pub(crate) damaged: Damaged,
    pub(crate) storage: Option<Storage>,
}

/// The flags of a person, and the program that they are for.
pub(crate) struct Asked<'a> {
    pub(crate) program: &'static dyn Program,
    pub(crate) args: &'a Args,
    /// Says which flags were given.
    pub(crate) matches: &'a ArgMatches,
    /// Prints a line about a task that takes long.
    pub(crate) tell: &'a dyn Fn(&str),
}

impl Asked<'_> {
    /// The run that the flags mean.
    pub(crate) fn origin(&self) -> Result<Origin> {
        if self.resumes()? { self.resume() } else { self.begin() }
    }

    /// Whether the flags ask to resume a run.
    fn resumes(&self) -> Result<bool> {
        let DirectoryArgs { run_dir, resume, resume_or_begin, .. } = &self.args.directories;
        if !resume_or_begin || run_dir.as_deref().is_some_and(RunDir::holds_run) {
            return Ok(*resume || *resume_or_begin);
        }
        let storage = Storage::open(self.args.operation.checkpoint_url.as_deref(), self.program)?;
        storage.map_or(Ok(false), |storage| storage.holds_run())
    }

    fn begin(&self) -> Result<Origin> {
        let config = self.args.config(self.task()?);
        config.validate()?;
        let metrics = &config.training.task.metrics;
        if let Some(metric) = metrics.iter().find(|metric| history::is_reserved(&metric.name)) {
            bail!(
                "the metric name {} is reserved in metrics.jsonl: give the metric of the task \
                 another name",
                metric.name
            );
        }
        let LiveArgs { name, note, .. } = self.args.live.clone();
        let run_id = uuid::Uuid::new_v4().simple().to_string();
        let info = RunInfo { run_id, name, note, config };
        let run_dir = match &self.args.directories.run_dir {
            Some(path) => {
                self.refuse_occupied(path, &info.config)?;
                RunDir::try_new(path)?;
                path.clone()
            }
            None => {
                let path = default_dir(&info.run_id);
                RunDir::try_write(&path)?;
                path
            }
        };
        let url = info.config.operation.checkpoint_url.as_deref();
        let storage = Storage::open(url, self.program)?;
        if let Some(storage) = &storage {
            storage.refuse_occupied()?;
        }
        Ok(Origin { info, run_dir, start: Start::Seed, damaged: Vec::new(), storage })
    }

    /// The task of a new run: the program's own task with the given options, or the task in a file.
    fn task(&self) -> Result<Task> {
        let Some(path) = &self.args.task else {
            let cache = data::cache_dir();
            let preparing = Preparing { cache: &cache, tell: self.tell };
            return self.program.describe(self.program.options(self.matches)?, &preparing);
        };
        let given: Vec<String> =
            self.given_options().iter().map(|option| flag_name(option)).collect();
        ensure!(
            given.is_empty(),
            "--task {} says what is trained: leave {} out",
            path.display(),
            given.join(" and ")
        );
        read_task(path)
    }

    /// The task's options whose flags were given.
    fn given_options(&self) -> Vec<String> {
        let flags = self.program.add_flags(Command::new("task"));
        let names = flags.get_arguments().map(|arg| arg.get_id().to_string());
        names.filter(|name| is_given(self.matches, name)).collect()
    }

    /// The options that the flags describe. A required option that was not given is taken from the
    /// run.
    fn options_of(&self, stored: &Task) -> Result<Value> {
        let flags = self.program.add_flags(Command::new("task").no_binary_name(true));
        let mut words = Vec::new();
        for arg in flags.get_arguments() {
            let name = arg.get_id().as_str();
            if is_given(self.matches, name) {
                words.extend(hints::words(arg, self.matches));
            } else if arg.is_required_set() {
                let value = &stored.options[name];
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                words.push(format!("{}={text}", flag_name(name)).into());
            }
        }
        self.program.options(&flags.try_get_matches_from(words)?)
    }

    /// Refuses to begin a run in a directory that already holds a run.
    fn refuse_occupied(&self, path: &Path, config: &RunConfig) -> Result<()> {
        if !RunDir::holds_run(path) {
            return Ok(());
        }
        let there = RunDir::read_info(path, self.program)?;
        let differences = there.config.training.differences(&config.training);
        let go_on = Given::new(self.program, self.matches).go_on(path);
        let path = path.display();
        if differences.is_empty() {
            bail!(
                "{path} already holds this run: choose another --run-dir, or go on with: {go_on}"
            );
        }
        bail!(
            "{path} holds a run of another configuration ({}): choose another --run-dir",
            describe(&differences, "there", "here")
        )
    }

    fn resume(&self) -> Result<Origin> {
        let args = self.args;
        let mut path = args.directories.run_dir.clone().unwrap_or_else(|| latest_to_resume(args));
        let read = || RunDir::read_info(&path, self.program);
        let here = RunDir::holds_run(&path).then(read).transpose()?;
        let kept = here.as_ref().and_then(|info| info.config.operation.checkpoint_url.clone());
        let asked = args.operation.operation(args.workers, args.training.epochs).checkpoint_url;
        let url = if is_given(self.matches, "checkpoint_url") { asked } else { kept.clone() };
        let mut storage = Storage::open(url.as_deref(), self.program)?;
        if let Some(there) = &mut storage {
            let is_free = args.directories.run_dir.is_none();
            let place = |run_id: &str| if is_free { default_dir(run_id) } else { path.clone() };
            match there.restore(here.as_ref(), &path, place) {
                Ok(restored) => path = restored,
                // If the run is also here and has used this store before, it can resume without it.
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
        let stored = RunDir::read_info(&path, self.program)?;
        let config = self
            .resumed_config(&stored.config)
            .with_context(|| format!("cannot resume the run in {}", path.display()))?;
        config.validate().map_err(|invalid| match invalid {
            // The number of shards of a run is fixed, so the advice to raise it would be wrong.
            InvalidConfig::IdleWorkers { workers, shards } => anyhow!(
                "--workers {workers} is more than the run's --shards {shards}, which stays: a \
                 worker owns at least one shard; lower --workers"
            ),
            invalid => invalid.into(),
        })?;
        let LiveArgs { name, note, .. } = args.live.clone();
        let (name, note) = (name.or(stored.name), note.or(stored.note));
        let info = RunInfo { run_id: stored.run_id, name, note, config };
        let (start, damaged) = newest_checkpoint(&path, &info)?;
        Ok(Origin { info, run_dir: path, start, damaged, storage })
    }

    /// The run's own configuration, changed by the given flags that may differ.
    fn resumed_config(&self, stored: &RunConfig) -> Result<RunConfig> {
        let given = |flag: &str| is_given(self.matches, flag);
        let asked = self.args.config(stored.training.task.clone());
        let differences = stored.training.differences(&asked.training);
        let mut differences: Vec<Difference> =
            differences.into_iter().filter(|difference| given(&difference.field)).collect();
        differences.extend(self.task_differences(&stored.training.task)?);
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
        self.revise(&mut config.training.task)?;
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
        take("early_stop_epochs", &mut ours.early_stop_epochs, theirs.early_stop_epochs);
        ours.keep_best |= theirs.keep_best;
        if given("collective") {
            ours.collective = theirs.collective;
        }
        if given("checkpoint_url") {
            ours.checkpoint_url.clone_from(&theirs.checkpoint_url);
        }
        Ok(config)
    }

    /// Sets the task's revision to the one that this program computes, if that is allowed.
    fn revise(&self, task: &mut Task) -> Result<()> {
        let (name, theirs, ours) = (&task.name, task.revision, self.program.revision());
        if *name != self.program.task() || theirs == ours {
            return Ok(());
        }
        let conflict = format!(
            "it was begun with revision {theirs} of the task {name}, and this program computes \
             revision {ours}, which has other bits: go on with the version that began the run"
        );
        ensure!(theirs < ours, "{conflict}");
        ensure!(self.args.allow_mixed_devices, "{conflict}, or add --allow-mixed-devices");
        tracing::warn!(
            "going on with revision {ours} of the task {name}: its bits are not those of revision \
             {theirs}, with which the run began"
        );
        task.revision = ours;
        Ok(())
    }

    /// The differences between the run's task and the requested task.
    fn task_differences(&self, stored: &Task) -> Result<Vec<Difference>> {
        if let Some(path) = &self.args.task {
            return Ok(stored.differences(&read_task(path)?));
        }
        let given = self.given_options();
        if given.is_empty() {
            return Ok(Vec::new());
        }
        let asked = self.options_of(stored)?;
        let mut differences = config::differences(&stored.options, &asked);
        differences.retain(|difference| given.contains(&difference.field));
        Ok(differences)
    }
}

/// That so many checkpoints are all there are, and damaged.
pub(crate) fn all_damaged(count: usize) -> String {
    match count {
        1 => "the only checkpoint is damaged".into(),
        _ => format!("all {count} checkpoints are damaged"),
    }
}

/// Reads the description of a task from a file.
fn read_task(path: &Path) -> Result<Task> {
    let shown = path.display();
    let context = || format!("--task {shown}");
    let size = fs::metadata(path).with_context(context)?.len();
    ensure!(size <= TASK_BYTES_MAX, "--task {shown} is too large for the description of a task");
    let text = fs::read_to_string(path).with_context(context)?;
    let task: Task = serde_json::from_str(&text).with_context(|| {
        format!("--task {shown} does not describe a task: write it with `PROGRAM describe`")
    })?;
    task.validate().with_context(context)?;
    Ok(task)
}

/// The default run directory of a new run.
fn default_dir(run_id: &str) -> PathBuf {
    let now = jiff::ZonedDateTime::now().strftime("%Y%m%d-%H%M%S");
    Path::new(RUNS).join(format!("{now}-{}", run_id.get(..SHORT_ID).unwrap_or(run_id)))
}

pub(crate) fn latest() -> PathBuf {
    Path::new(RUNS).join("latest")
}

/// The run to resume if no flag names one: the latest. If the latest has no checkpoint and no
/// coordinator works on it, the newest run with a checkpoint.
fn latest_to_resume(args: &Args) -> PathBuf {
    let latest = latest();
    let history = RunDir::read_history(&latest).unwrap_or_default();
    let is_taken = checkpoint::has_checkpoint(&latest)
        || RunDir::is_open(&latest)
        // Its checkpoints were removed, which a person must know.
        || RunDir::has_had_checkpoint(&latest, &history);
    // A store itself names the run that it holds.
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

/// The newest valid checkpoint of the run, and the newer ones that are not valid. These are moved away
/// only when the run directory is locked.
fn newest_checkpoint(run_dir: &Path, info: &RunInfo) -> Result<(Start, Damaged)> {
    let checkpoints = RunDir::checkpoints_in(run_dir);
    let Newest { checkpoint, damaged } = Directory::open(&checkpoints).newest()?;
    let Some((file, Checkpoint { metadata, .. })) = checkpoint else {
        for (_, why) in &damaged {
            tracing::warn!("{}", why.skipped());
        }
        ensure!(
            damaged.is_empty(),
            "nothing to resume: {}, in {}; restore one from a copy, or begin a new run in another \
             --run-dir",
            all_damaged(damaged.len()),
            checkpoints.display(),
        );
        let history = RunDir::read_history(run_dir)?;
        // Workers that may still train have the run's state.
        ensure!(
            !RunDir::has_had_checkpoint(run_dir, &history) || !history.past().members.is_empty(),
            "nothing to resume: the run's checkpoints are gone from {}; put them back there, or \
             begin another run in another --run-dir",
            checkpoints.display(),
        );
        return Ok((Start::Again, damaged));
    };
    ensure!(
        metadata.run_id == info.run_id,
        "{} belongs to run {}, not to {}: move it out of the run directory",
        file.display(),
        metadata.run_id,
        info.run_id
    );
    let steps = launch::steps(&info.config);
    ensure!(
        metadata.step <= steps,
        "the run is at step {} already, and --epochs {} ends at step {steps}: give more --epochs",
        metadata.step,
        info.config.operation.epochs
    );
    Ok((Start::Checkpoint(std::path::absolute(file)?, metadata), damaged))
}

/// The flag of an option.
fn flag_name(option: &str) -> String {
    format!("--{}", option.replace('_', "-"))
}

pub(crate) fn is_given(matches: &ArgMatches, flag: &str) -> bool {
    matches.value_source(flag) == Some(ValueSource::CommandLine)
}

fn describe(differences: &[Difference], ours: &str, theirs: &str) -> String {
    let one = |d: &Difference| {
        // As flags are written.
        let name = d.field.replace('_', "-");
        format!("{name}: {} {ours}, {} {theirs}", d.ours, d.theirs)
    };
    differences.iter().map(one).collect::<Vec<_>>().join("; ")
}
