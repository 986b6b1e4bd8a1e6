//! The run directory: what is in it, and how it is written so that nothing is ever half done.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use checkpoint::{CHECKPOINTS, Directory};
use config::RunConfig;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::{
    files,
    journal::{History, Journal},
    recorded::Recorded,
};

const CONFIG: &str = "config.json";
const METRICS: &str = "metrics.jsonl";
const EVENTS: &str = "events.jsonl";
const SUMMARY: &str = "summary.json";
const JOURNAL: &str = "journal.jsonl";
const LOCK: &str = "lock";
const SAMPLES: &str = "samples";

/// What `config.json` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunInfo {
    pub(crate) run_id: String,
    #[serde(flatten)]
    pub(crate) config: RunConfig,
}

/// An open run directory; no other coordinator has it open.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    metrics: File,
    events: File,
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
        let locked =
            lock.map(|lock| rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared));
        locked == Some(Err(rustix::io::Errno::WOULDBLOCK))
    }

    /// Reads which run is in `path`.
    pub(crate) fn read_info(path: &Path) -> Result<RunInfo> {
        let file = path.join(CONFIG);
        let text = files::read(&file)?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not a run's configuration", file.display()))
    }

    /// Whether the summary of the run in `path` is of that many steps.
    pub(crate) fn is_summed_up(path: &Path, steps: u64) -> bool {
        let summary = files::read(&path.join(SUMMARY)).ok();
        let summary: Option<serde_json::Value> =
            summary.and_then(|text| serde_json::from_str(&text).ok());
        summary.is_some_and(|summary| summary["steps"] == steps)
    }

    /// Makes a run directory of a run that began elsewhere; what else is in it comes later.
    pub(crate) fn restore(path: &Path, info: &RunInfo) -> Result<()> {
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
        for folder in [CHECKPOINTS, SAMPLES] {
            let folder = path.join(folder);
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let metrics = files::append_lines(&path.join(METRICS))?;
        let recorded = Recorded::read(&path.join(METRICS))?;
        let events = files::append_lines(&path.join(EVENTS))?;
        let journal = Journal::open(path.join(JOURNAL))?;
        let run_dir =
            Self { path, metrics, events, journal, recorded, has_begun: false, _lock: lock };
        write_json(&run_dir.path, CONFIG, info)?;
        Ok(run_dir)
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

    /// Where the samples of an epoch, from 1, are.
    pub(crate) fn samples_path(&self, epoch: u64) -> PathBuf {
        self.path.join(SAMPLES).join(format!("epoch-{epoch:03}.png"))
    }

    pub(crate) fn write_summary(&self, summary: &impl Serialize) -> Result<()> {
        write_json(&self.path, SUMMARY, summary)
    }

    /// Appends a line to the log of events.
    pub(crate) fn append_event(&mut self, object: &impl Serialize) -> Result<()> {
        files::append_line(&mut self.events, object)
            .with_context(|| format!("cannot write {}", self.path.join(EVENTS).display()))
    }

    /// Appends a line to the metrics.
    pub(crate) fn append_metrics(&mut self, object: &impl Serialize) -> Result<()> {
        files::append_line(&mut self.metrics, object)
            .with_context(|| format!("cannot write {}", self.path.join(METRICS).display()))
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

    /// Points the link `latest` beside this directory at it.
    pub(crate) fn point_latest(&self) -> Result<()> {
        let (Some(runs), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Ok(());
        };
        let (link, beside) =
            (runs.join("latest"), runs.join(format!(".latest-{}", std::process::id())));
        let point = || -> io::Result<()> {
            match fs::remove_file(&beside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            std::os::unix::fs::symlink(name, &beside)?;
            fs::rename(&beside, &link)
        };
        point().with_context(|| format!("cannot point {} at the run", link.display()))
    }
}

fn write_json(folder: &Path, name: &str, object: &impl Serialize) -> Result<()> {
    let path = folder.join(name);
    let beside = folder.join(format!(".{name}.tmp"));
    let write = || -> io::Result<()> {
        let mut file = File::create(&beside)?;
        file.write_all(&json(object)?)?;
        crashpoint::reach!("run-dir.written");
        file.sync_all()?;
        crashpoint::reach!("run-dir.synced");
        fs::rename(&beside, &path)?;
        crashpoint::reach!("run-dir.renamed");
        File::open(folder)?.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// An object as a file of its own holds it.
pub(crate) fn json(object: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(object)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn lock(path: &Path) -> Result<File> {
    let file = files::append(&path.join(LOCK))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            bail!("another coordinator is running in {}: stop it first", path.display())
        }
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}
