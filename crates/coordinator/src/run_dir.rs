//! The run directory: its files, each of which is written completely or not at all.

use std::{
    ffi::OsStr,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use checkpoint::{CHECKPOINTS, Directory};
use config::RunConfig;
use disk::{Draft, convenience};
use history::{EVENTS, EventRow, EventWriter, Limits, METRICS, MetricsWriter, SAMPLES};
use serde::{Deserialize, Serialize};

use crate::{
    files,
    journal::{Entry, History, Journal},
    program::Program,
    recorded::Recorded,
};

/// The configuration of a run, in its directory.
pub(crate) const CONFIG: &str = "config.json";
/// The results of a complete run, in its directory.
pub(crate) const SUMMARY: &str = "summary.json";
const JOURNAL: &str = "journal.jsonl";
const LOCK: &str = "lock";

/// The link to the newest run, beside the runs.
const LATEST: &str = "latest";

/// How many temporary names are tried for a new link.
const LINK_ATTEMPTS: u32 = 100;

/// The content of `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunInfo {
    pub(crate) run_id: String,
    /// A person's name for the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// A person's note on the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
    #[serde(flatten)]
    pub(crate) config: RunConfig,
}

impl RunInfo {
    /// Reads a `config.json`, also of an earlier version.
    pub(crate) fn parse(json: &[u8], program: &dyn Program) -> serde_json::Result<Self> {
        let mut info = serde_json::from_slice(json)?;
        program.upgrade(&mut info);
        serde_json::from_value(info)
    }

    /// The configuration as the JSON that workers receive.
    pub(crate) fn configuration_json(&self) -> String {
        serde_json::to_string(&self.config).unwrap_or_default()
    }
}

/// An open run directory, locked against other coordinators.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    metrics: MetricsWriter,
    events: EventWriter,
    journal: Journal,
    recorded: Recorded,
    has_begun: bool,
    /// Whether the journal says that the directory has held a checkpoint.
    has_checkpoint: bool,
    _locks: (Option<File>, File),
}

impl RunDir {
    /// Whether there is a run in `path`.
    pub(crate) fn holds_run(path: &Path) -> bool {
        path.join(CONFIG).exists()
    }

    /// Whether a coordinator has the run in `path` open.
    pub(crate) fn is_open(path: &Path) -> bool {
        let is_locked = |opened: std::io::Result<File>| {
            opened.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
        };
        is_locked(File::open(path)) || is_locked(disk::open_regular(&path.join(LOCK)))
    }

    /// Reads the configuration of the run in `path`.
    pub(crate) fn read_info(path: &Path, program: &dyn Program) -> Result<RunInfo> {
        let file = path.join(CONFIG);
        RunInfo::parse(files::read(&file)?.as_bytes(), program)
            .with_context(|| format!("{} is not a run's configuration", file.display()))
    }

    /// Whether the run in `path` has a summary of exactly this many steps.
    pub(crate) fn is_summed_up(path: &Path, steps: u64) -> bool {
        let summary = files::read(&path.join(SUMMARY)).ok();
        let summary: Option<serde_json::Value> =
            summary.and_then(|text| serde_json::from_str(&text).ok());
        summary.is_some_and(|summary| summary["steps"] == steps)
    }

    /// Refuses a folder for a new run that cannot be written, or that holds files of the same names
    /// from another program. Leaves no file behind.
    pub(crate) fn try_new(path: &Path) -> Result<()> {
        let holds_something = |name: &&str| {
            let path = path.join(name);
            match fs::metadata(&path) {
                Ok(file) if file.is_dir() => {
                    fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some())
                }
                Ok(file) => file.is_file() && file.len() > 0,
                Err(_) => false,
            }
        };
        let found = [METRICS, EVENTS, SUMMARY, JOURNAL, CHECKPOINTS, SAMPLES];
        if let Some(name) = found.into_iter().find(holds_something) {
            bail!(
                "{} is there already and belongs to no run: choose another --run-dir, a new or an \
                 empty folder",
                path.join(name).display()
            );
        }
        Self::try_write(path)
    }

    /// Refuses a folder that cannot be written. Leaves no file behind.
    pub(crate) fn try_write(path: &Path) -> Result<()> {
        let tried = disk::try_folder(path);
        tried.map_err(|error| anyhow!("{error}; choose another --run-dir"))
    }

    /// Makes a run directory, with the configuration only, for a run that began elsewhere.
    pub(crate) fn restore(path: &Path, info: &RunInfo) -> Result<()> {
        let checkpoints = Directory::open(Self::checkpoints_in(path)).list()?;
        let is_of_run = |(_, path): &(u64, PathBuf)| disk::holds(path, info.run_id.as_bytes());
        // A directory with a checkpoint of this run belongs to it, even without a configuration.
        if !checkpoints.iter().any(is_of_run) {
            Self::try_new(path)?;
        }
        fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
        write_json(path, CONFIG, info)
    }

    /// The folder of the checkpoints of a run in `path`.
    pub(crate) fn checkpoints_in(path: &Path) -> PathBuf {
        path.join(CHECKPOINTS)
    }

    /// Whether a coordinator writes a file of this path, relative to the run directory.
    pub(crate) fn is_file_of_run(inside: &Path) -> bool {
        let mut names = inside.iter().map(OsStr::to_string_lossy);
        let Some(first) = names.next() else { return false };
        // Closed files of metrics and events have numbers in their names.
        let is_log = [METRICS, EVENTS].into_iter().any(|log| {
            let (stem, ending) = log.split_once('.').unwrap_or((log, ""));
            first.starts_with(stem) && first.ends_with(ending)
        });
        let is_in_folder = names.next().is_some() && [CHECKPOINTS, SAMPLES].contains(&&*first);
        is_in_folder || is_log || [CONFIG, SUMMARY, JOURNAL, LOCK].contains(&&*first)
    }

    /// The files that are made with a run directory.
    pub(crate) fn files_in(path: &Path) -> Vec<PathBuf> {
        let files = [CONFIG, METRICS, EVENTS, JOURNAL, LOCK];
        files.map(|name| path.join(name)).into()
    }

    /// The folders that are made with a run directory, in it.
    pub(crate) fn folders_in(path: &Path) -> Vec<PathBuf> {
        [CHECKPOINTS, SAMPLES].map(|name| path.join(name)).into()
    }

    /// Opens a run directory for writing; makes it if there is none.
    pub(crate) fn create(path: &Path, info: &RunInfo) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
        let path = fs::canonicalize(path)
            .with_context(|| format!("cannot open the run directory {}", path.display()))?;
        let locks = lock(&path)?;
        // The configuration comes first, because it says which run the other files belong to.
        write_json(&path, CONFIG, info)?;
        for folder in [CHECKPOINTS, SAMPLES] {
            let folder = path.join(folder);
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let metrics = MetricsWriter::open(&path, Limits::METRICS)?;
        let recorded = Recorded::read(&path)?;
        let events = EventWriter::open(&path, Limits::EVENTS)?;
        let has_checkpoint = Self::read_history(&path)?.has_checkpoint();
        let journal = Journal::open(path.join(JOURNAL))?;
        Ok(Self {
            path,
            metrics,
            events,
            journal,
            recorded,
            has_begun: false,
            has_checkpoint,
            _locks: locks,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Records that workers begin to compute.
    pub(crate) fn begin(&mut self) {
        self.has_begun = true;
    }

    /// Whether workers have begun to compute since the directory was opened.
    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun
    }

    pub(crate) fn checkpoints(&self) -> Directory {
        Directory::open(Self::checkpoints_in(&self.path))
    }

    /// The checkpoint with the lowest validation loss, if it is kept.
    pub(crate) fn best_checkpoint(&self) -> Option<PathBuf> {
        self.checkpoints().best()
    }

    /// The path of the samples of an epoch, from 1.
    pub(crate) fn samples_path(&self, epoch: u64) -> PathBuf {
        history::samples_path(&self.path, epoch)
    }

    pub(crate) fn write_summary(&self, summary: &impl Serialize) -> Result<()> {
        write_json(&self.path, SUMMARY, summary)
    }

    /// Appends a row to the events.
    pub(crate) fn append_event(&mut self, row: &EventRow) -> Result<()> {
        Ok(self.events.append(row)?)
    }

    /// The writer of the metrics.
    pub(crate) fn metrics(&mut self) -> &mut MetricsWriter {
        &mut self.metrics
    }

    /// The epochs and steps in the metrics at the time they were opened.
    pub(crate) fn take_recorded(&mut self) -> Recorded {
        std::mem::take(&mut self.recorded)
    }

    pub(crate) fn journal(&mut self) -> &mut Journal {
        &mut self.journal
    }

    /// Notes in the journal, once, that the directory holds a checkpoint.
    pub(crate) fn note_checkpoint(&mut self) -> Result<()> {
        if !self.has_checkpoint && self.checkpoints().list().is_ok_and(|found| !found.is_empty()) {
            self.journal.note(&Entry::Checkpoint)?;
            self.has_checkpoint = true;
        }
        Ok(())
    }

    /// Whether the run in `path` has had a checkpoint, even if none is left.
    pub(crate) fn has_had_checkpoint(path: &Path, history: &History) -> bool {
        history.has_checkpoint() || path.join(SUMMARY).exists()
    }

    /// Reads the journal of the run in `path`, if it has one.
    pub(crate) fn read_history(path: &Path) -> Result<History> {
        let journal = path.join(JOURNAL);
        if journal.exists() && !disk::is_device(&journal) {
            History::read(&journal)
        } else {
            Ok(History::default())
        }
    }

    /// Points the link `latest` beside this directory at this directory. The link is a convenience:
    /// a failure is only logged, and a file of the same name that is no such link stays as it is.
    pub(crate) fn point_latest(&self) {
        let (Some(runs), Some(name)) = (self.path.parent(), self.path.file_name()) else { return };
        let link = runs.join(LATEST);
        let consequence = format!("name this run with --run-dir {}", self.path.display());
        if !is_link_of_ours(&link) {
            tracing::warn!(
                "{} is not a link to a run and stays as it is; {consequence}",
                link.display()
            );
        } else if let Err(error) = point(&link, Path::new(name)) {
            convenience::warn("create the link", &link, &consequence, &error);
        }
    }
}

/// Whether `link` is a link to a file beside it, as [`RunDir::point_latest`] makes it, or does not exist.
fn is_link_of_ours(link: &Path) -> bool {
    match fs::read_link(link) {
        Ok(target) => Some(target.as_os_str()) == target.file_name(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Makes a link, or replaces it.
fn point(link: &Path, target: &Path) -> io::Result<()> {
    let mut made = Err(io::ErrorKind::AlreadyExists.into());
    let mut beside = PathBuf::new();
    for attempt in 0..LINK_ATTEMPTS {
        let name = format!(".lockstep-latest-{}-{attempt}", std::process::id());
        beside = link.with_file_name(name);
        made = std::os::unix::fs::symlink(target, &beside);
        if !matches!(&made, Err(error) if error.kind() == io::ErrorKind::AlreadyExists) {
            break;
        }
    }
    made?;
    fs::rename(&beside, link).inspect_err(|_| drop(fs::remove_file(&beside)))
}

fn write_json(folder: &Path, name: &str, object: &impl Serialize) -> Result<()> {
    let path = folder.join(name);
    let bytes = json(object).with_context(|| format!("cannot write {}", path.display()))?;
    let draft = Draft::new(&path, &bytes)?;
    crashpoint::reach!("run-dir.written");
    draft.sync()?;
    crashpoint::reach!("run-dir.synced");
    draft.put()?;
    crashpoint::reach!("run-dir.renamed");
    disk::sync_folder(folder).with_context(|| format!("cannot write {}", path.display()))
}

/// The content of a file that holds this object.
pub(crate) fn json(object: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(object)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Locks the folder, and a file in it. The file can be deleted; the folder cannot be locked on some
/// network file systems, which is no reason for a warning, because the file can.
fn lock(path: &Path) -> Result<(Option<File>, File)> {
    let taken = || anyhow!("another coordinator is running in {}: stop it first", path.display());
    let folder = File::open(path).ok();
    let folder = match folder.as_ref().map(File::try_lock) {
        Some(Ok(())) => folder,
        Some(Err(TryLockError::WouldBlock)) => return Err(taken()),
        Some(Err(TryLockError::Error(_))) | None => None,
    };
    let name = path.join(LOCK);
    let file = files::append(&name)?;
    let locked = convenience::lock(&file, &name);
    let is_free = locked.with_context(|| format!("cannot lock {}", path.display()))?;
    if is_free { Ok((folder, file)) } else { Err(taken()) }
}

#[cfg(test)]
mod tests;
