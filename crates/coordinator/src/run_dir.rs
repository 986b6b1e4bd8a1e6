//! The run directory: what is in it, and how it is written so that nothing is ever half done.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use checkpoint::{CHECKPOINTS, Directory};
use config::RunConfig;
use disk::{Draft, convenience};
use history::{EVENTS, EventRow, EventWriter, Limits, METRICS, MetricsWriter, SAMPLES};
use serde::{Deserialize, Serialize};

use crate::{
    files,
    journal::{History, Journal},
    program::Program,
    recorded::Recorded,
};

/// The configuration of a run, in its directory.
pub(crate) const CONFIG: &str = "config.json";
/// What a run has come to, there.
pub(crate) const SUMMARY: &str = "summary.json";
const JOURNAL: &str = "journal.jsonl";
const LOCK: &str = "lock";

/// The link to the newest run, beside the runs.
const LATEST: &str = "latest";

/// Names that are tried for a new link before it gets its own.
const LINK_ATTEMPTS: u32 = 100;

/// What `config.json` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunInfo {
    pub(crate) run_id: String,
    /// What a person calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// What a person wants to remember of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
    #[serde(flatten)]
    pub(crate) config: RunConfig,
}

impl RunInfo {
    /// Reads what a `config.json` holds, also one that an earlier version has written.
    pub(crate) fn parse(json: &[u8], program: &dyn Program) -> serde_json::Result<Self> {
        let mut info = serde_json::from_slice(json)?;
        program.upgrade(&mut info);
        serde_json::from_value(info)
    }

    /// The configuration as workers read it.
    pub(crate) fn configuration_json(&self) -> String {
        serde_json::to_string(&self.config).unwrap_or_default()
    }
}

/// An open run directory; no other coordinator has it open.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    metrics: MetricsWriter,
    events: EventWriter,
    journal: Journal,
    recorded: Recorded,
    has_begun: bool,
    _lock: File,
}

impl RunDir {
    /// Whether there is a run in `path`.
    pub(crate) fn holds_run(path: &Path) -> bool {
        path.join(CONFIG).exists()
    }

    /// Whether a coordinator has the run in `path` open.
    pub(crate) fn is_open(path: &Path) -> bool {
        let lock = File::open(path.join(LOCK)).ok();
        lock.is_some_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    /// Reads which run is in `path`.
    pub(crate) fn read_info(path: &Path, program: &dyn Program) -> Result<RunInfo> {
        let file = path.join(CONFIG);
        RunInfo::parse(files::read(&file)?.as_bytes(), program)
            .with_context(|| format!("{} is not a run's configuration", file.display()))
    }

    /// Whether the summary of the run in `path` is of that many steps.
    pub(crate) fn is_summed_up(path: &Path, steps: u64) -> bool {
        let summary = files::read(&path.join(SUMMARY)).ok();
        let summary: Option<serde_json::Value> =
            summary.and_then(|text| serde_json::from_str(&text).ok());
        summary.is_some_and(|summary| summary["steps"] == steps)
    }

    /// Refuses a folder for a new run that cannot be written, or where files are that the run
    /// would write and another program has written. Leaves nothing.
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

    /// Refuses a folder that cannot be written. Leaves nothing.
    pub(crate) fn try_write(path: &Path) -> Result<()> {
        let tried = disk::try_folder(path);
        tried.map_err(|error| anyhow!("{error}; choose another --run-dir"))
    }

    /// Makes a run directory of a run that began elsewhere; what else is in it comes later.
    pub(crate) fn restore(path: &Path, info: &RunInfo) -> Result<()> {
        let checkpoints = Directory::open(Self::checkpoints_in(path)).list()?;
        let is_of_run = |(_, path): &(u64, PathBuf)| disk::holds(path, info.run_id.as_bytes());
        // One that has lost its configuration alone is still the run's.
        if !checkpoints.iter().any(is_of_run) {
            Self::try_new(path)?;
        }
        fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
        write_json(path, CONFIG, info)
    }

    /// Where a run in `path` keeps its checkpoints.
    pub(crate) fn checkpoints_in(path: &Path) -> PathBuf {
        path.join(CHECKPOINTS)
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

    /// Opens a run directory for writing, made now if there is none.
    pub(crate) fn create(path: &Path, info: &RunInfo) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
        let path = fs::canonicalize(path)
            .with_context(|| format!("cannot open the run directory {}", path.display()))?;
        let lock = lock(&path)?;
        // First, for it says whose the rest is.
        write_json(&path, CONFIG, info)?;
        for folder in [CHECKPOINTS, SAMPLES] {
            let folder = path.join(folder);
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let metrics = MetricsWriter::open(&path, Limits::METRICS)?;
        let recorded = Recorded::read(&path)?;
        let events = EventWriter::open(&path, Limits::EVENTS)?;
        let journal = Journal::open(path.join(JOURNAL))?;
        Ok(Self { path, metrics, events, journal, recorded, has_begun: false, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Notes that workers begin to compute.
    pub(crate) fn begin(&mut self) {
        self.has_begun = true;
    }

    /// Whether workers have begun to compute since it was opened.
    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun
    }

    pub(crate) fn checkpoints(&self) -> Directory {
        Directory::open(Self::checkpoints_in(&self.path))
    }

    /// The checkpoint with the lowest validation loss, where it is kept.
    pub(crate) fn best_checkpoint(&self) -> Option<PathBuf> {
        self.checkpoints().best()
    }

    /// Where the samples of an epoch, from 1, are.
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

    /// The metrics, to be written.
    pub(crate) fn metrics(&mut self) -> &mut MetricsWriter {
        &mut self.metrics
    }

    /// What the metrics held when they were opened.
    pub(crate) fn take_recorded(&mut self) -> Recorded {
        std::mem::take(&mut self.recorded)
    }

    pub(crate) fn journal(&mut self) -> &mut Journal {
        &mut self.journal
    }

    /// Reads the journal of the run in `path`, if it has one.
    pub(crate) fn read_history(path: &Path) -> Result<History> {
        let journal = path.join(JOURNAL);
        if journal.exists() { History::read(&journal) } else { Ok(History::default()) }
    }

    /// Points the link `latest` beside this directory at it. The link is a convenience: what keeps
    /// it from being made is a warning, and what is in its place and was not made here stays.
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

/// Whether `link` is a link to something beside it, as those are that are made here, or nothing.
fn is_link_of_ours(link: &Path) -> bool {
    match fs::read_link(link) {
        Ok(target) => Some(target.as_os_str()) == target.file_name(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Makes a link, in the place of one that is there.
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

/// An object as a file of its own holds it.
pub(crate) fn json(object: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(object)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn lock(path: &Path) -> Result<File> {
    let name = path.join(LOCK);
    let file = files::append(&name)?;
    let locked = convenience::lock(&file, &name);
    let is_free = locked.with_context(|| format!("cannot lock {}", path.display()))?;
    ensure!(is_free, "another coordinator is running in {}: stop it first", path.display());
    Ok(file)
}

#[cfg(test)]
mod tests;
