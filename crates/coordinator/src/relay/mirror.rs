//! A copy of a run's files, as far as its coordinator has sent them, in a folder of this machine. No
//! text from the coordinator becomes the name of a file.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use checkpoint::{CHECKPOINTS, Directory};
use history::{EventRow, EventWriter, Limits, MetricsRow, MetricsWriter, SAMPLES};
use protocol::{
    convert::printable,
    wire::{FollowRequest, FollowedRun, Rows, follow_reply::Body},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::run_dir;

/// The copy of the coordinator's current run; copies of its earlier runs stay in the folder.
#[derive(Debug)]
pub(super) struct Mirror {
    folder: PathBuf,
    /// Held while files are written.
    writing: Arc<Mutex<()>>,
    /// Number of copies begun so far.
    copies: u32,
    current: Option<Copy>,
}

/// The copy of a run.
#[derive(Debug)]
struct Copy {
    path: PathBuf,
    metrics: MetricsWriter,
    events: EventWriter,
    /// The positions up to which rows and files have arrived, as the next request names them.
    have: FollowRequest,
}

impl Mirror {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), writing: Arc::default(), copies: 0, current: None }
    }

    /// The lock that is held while files are written.
    pub(super) fn writing(&self) -> Arc<Mutex<()>> {
        Arc::clone(&self.writing)
    }

    /// The request that continues from the last position.
    pub(super) fn request(&self) -> FollowRequest {
        self.current.as_ref().map(|copy| copy.have.clone()).unwrap_or_default()
    }

    /// Drops the copy of the current run.
    pub(super) fn begin_again(&mut self) {
        let writing = self.writing();
        let _writing = writing.lock();
        if let Some(copy) = self.current.take() {
            let _gone_with_the_folder = fs::remove_dir_all(&copy.path);
        }
    }

    /// Adds a message to the copy. Returns false if all earlier rows are void.
    pub(super) fn take_in(&mut self, body: Body) -> Result<bool> {
        let writing = self.writing();
        let _writing = writing.lock();
        if let Body::Run(run) = body {
            return self.begin(&run).map(|()| true);
        }
        let copy = self.current.as_mut().context("the coordinator has not said which run it is")?;
        match body {
            Body::Metrics(rows) => {
                if rows.restarted {
                    return Ok(false);
                }
                for row in parsed::<MetricsRow>(&rows)? {
                    match row {
                        MetricsRow::Steps(row) => copy.metrics.steps(row, Instant::now())?,
                        MetricsRow::Epoch(row) => copy.metrics.epoch(row, Instant::now())?,
                    }
                }
                copy.metrics.flush(Instant::now())?;
                copy.have.metrics = rows.position;
            }
            Body::Events(rows) => {
                if rows.restarted {
                    return Ok(false);
                }
                parsed::<EventRow>(&rows)?.iter().try_for_each(|row| copy.events.append(row))?;
                copy.have.events = rows.position;
            }
            Body::Samples(samples) => {
                let name = history::samples_path("".as_ref(), samples.epoch);
                copy.put(name, &samples.picture)?;
                copy.have.samples = copy.have.samples.max(samples.epoch);
            }
            Body::Checkpoint(step) => copy.note_checkpoint(step)?,
            Body::Summary(summary) => copy.put(run_dir::SUMMARY, &summary)?,
            Body::Run(_) | Body::Status(_) => bail!("the coordinator sent an unexpected message"),
        }
        Ok(true)
    }

    /// Continues the copy of a run, or begins a new copy.
    fn begin(&mut self, run: &FollowedRun) -> Result<()> {
        if self.current.as_ref().is_some_and(|copy| copy.have.run_id == run.run_id) {
            return Ok(());
        }
        let config = serde_json::from_slice(&run.configuration);
        let mut config: Value =
            config.context("the coordinator sent a configuration that is not a JSON object")?;
        ensure!(
            config.is_object(),
            "the coordinator sent a configuration that is not a JSON object"
        );
        // A run without a name is called by the name of its folder, which differs here.
        if config["name"].is_null() {
            config["name"] = printable(&run.folder).to_string().into();
        }
        self.copies += 1;
        let path = self.folder.join(format!("run-{}", self.copies));
        for folder in [SAMPLES, CHECKPOINTS] {
            let made = fs::create_dir_all(path.join(folder));
            made.with_context(|| format!("cannot make {}", path.display()))?;
        }
        let copy = Copy {
            metrics: MetricsWriter::open(&path, Limits::METRICS)?,
            events: EventWriter::open(&path, Limits::EVENTS)?,
            have: FollowRequest { run_id: run.run_id.clone(), ..FollowRequest::default() },
            path,
        };
        // The configuration comes last, because a folder with a configuration counts as a run.
        copy.put(run_dir::CONFIG, config.to_string().as_bytes())?;
        self.current = Some(copy);
        Ok(())
    }
}

impl Copy {
    /// Records a checkpoint as an empty file with its name: the coordinator keeps the content.
    fn note_checkpoint(&self, step: u64) -> Result<()> {
        let folder = self.path.join(CHECKPOINTS);
        let earlier = Directory::open(folder.clone()).list()?;
        self.put(Path::new(CHECKPOINTS).join(checkpoint::file_name(step)), &[])?;
        for (_, path) in earlier.iter().filter(|(other, _)| *other != step) {
            fs::remove_file(path).with_context(|| format!("cannot delete {}", path.display()))?;
        }
        Ok(())
    }

    /// Writes a whole file, so that no reader sees a part of it.
    fn put(&self, name: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
        let (path, beside) = (self.path.join(name), self.path.join("incoming"));
        let put = fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, &path));
        put.with_context(|| format!("cannot write {}", path.display()))
    }
}

fn parsed<R: DeserializeOwned>(rows: &Rows) -> Result<Vec<R>> {
    let lines = rows.lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let rows: serde_json::Result<Vec<R>> = lines.map(serde_json::from_slice).collect();
    rows.context("the coordinator sent a row that is none: use programs of one build")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(run_id: &str) -> Body {
        let configuration = format!("{{\"run_id\":\"{run_id}\"}}").into_bytes().into();
        Body::Run(FollowedRun { run_id: run_id.into(), folder: "../first".into(), configuration })
    }

    fn steps(step: u64, position: &str) -> Rows {
        let line = format!(
            "{{\"kind\":\"steps\",\"step\":{step},\"epoch\":1,\"generation\":1,\"examples\":1,\
             \"loss\":1.0}}\n"
        );
        Rows { restarted: false, lines: line.into_bytes().into(), position: position.into() }
    }

    #[test]
    fn a_copy_goes_on_and_begins_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut mirror = Mirror::new(folder.path());
        assert!(mirror.take_in(Body::Metrics(steps(1, "p"))).is_err(), "no run yet");
        assert!(mirror.take_in(run("a")).unwrap());
        assert!(mirror.take_in(Body::Metrics(steps(1, "p"))).unwrap());
        let first = folder.path().join("run-1");
        let config = fs::read_to_string(first.join("config.json")).unwrap();
        assert!(config.contains("../first"), "{config}");
        // The coordinator was restarted with the same run.
        assert_eq!((&*mirror.request().run_id, &*mirror.request().metrics), ("a", "p"));
        assert!(mirror.take_in(run("a")).unwrap());
        assert!(mirror.take_in(Body::Metrics(steps(2, "q"))).unwrap());
        let rows = fs::read_to_string(first.join(history::METRICS)).unwrap();
        assert_eq!(rows.lines().count(), 2);
        // Only the newest checkpoint is listed.
        for step in [5, 5, 7] {
            assert!(mirror.take_in(Body::Checkpoint(step)).unwrap());
            let listed = Directory::open(first.join(CHECKPOINTS)).list().unwrap();
            assert_eq!(listed.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [step]);
        }
        // All rows are void, and are sent again.
        let restarted = Rows { restarted: true, ..steps(1, "r") };
        assert!(!mirror.take_in(Body::Metrics(restarted)).unwrap());
        mirror.begin_again();
        assert!(!first.exists());
        assert_eq!(mirror.request(), FollowRequest::default());
        assert!(mirror.take_in(run("b")).unwrap());
        assert!(folder.path().join("run-2").join("config.json").exists());
        let wrong = Rows { lines: b"{}\n".to_vec().into(), ..steps(1, "s") };
        assert!(mirror.take_in(Body::Metrics(wrong)).is_err());
    }
}
