//! Reads a run from its folder, also a run of an earlier version.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use history::{EpochRow, Events, Item, METRICS, MetricsRow, Time, newest_rows};
use protocol::convert::printable;
use serde_json::Value;
use stdout::counted;

use super::{RUNS, shown};
use crate::{files, run_dir::RunDir, settings};

/// The most points of a learning curve: more than a picture has columns.
const POINTS_MAX: usize = 1024;

/// The state of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// A coordinator has the run directory open.
    Running,
    /// All epochs of the run are trained.
    Complete,
    /// Not all epochs are trained, and no coordinator has the run directory open.
    Stopped,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Stopped => "stopped",
        }
    }
}

/// A run that was found.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) path: PathBuf,
    /// The name of the run's folder.
    pub(super) folder: String,
    /// A person's name for the run, and note on it.
    pub(super) name: Option<String>,
    pub(super) note: Option<String>,
    pub(super) id: String,
    pub(super) task: String,
    /// The task's word for an example.
    pub(super) example: String,
    /// The first metric's unit.
    pub(super) unit: String,
    pub(super) state: State,
    pub(super) epochs: u64,
    /// The last epoch that was completed; 0 for none.
    pub(super) epoch: u64,
    pub(super) began: Option<Time>,
    pub(super) examples_per_second: Option<f64>,
    /// The digest of the state after the last step, if the run is complete.
    pub(super) digest: Option<String>,
    /// The run's configuration, by flag.
    pub(super) settings: BTreeMap<String, Value>,
    /// Means of the loss, by step.
    pub(super) losses: Curve,
    /// The test loss after an epoch, by epoch and step.
    pub(super) tests: Vec<(u64, u64, f64)>,
    /// Lines of the metrics that are no rows.
    pub(super) bad_lines: u64,
}

impl Run {
    /// Reads the run in a folder.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let file = path.join("config.json");
        let config: Value = serde_json::from_str(&files::read(&file)?)
            .with_context(|| format!("{} is not a run's configuration", file.display()))?;
        let summary = files::read(&path.join("summary.json")).unwrap_or_default();
        let summary: Value = serde_json::from_str(&summary).unwrap_or_default();
        let (task, operation) = (&config["training"]["task"], &config["operation"]);
        let text = |value: &Value| value.as_str().map(printable);
        let epochs = operation["epochs"].as_u64().unwrap_or_default();
        let canonical = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let folder = canonical.file_name().unwrap_or(canonical.as_os_str());
        let mut run = Self {
            path: path.to_owned(),
            folder: printable(&folder.to_string_lossy()),
            name: text(&config["name"]),
            note: config["note"].as_str().map(str::to_owned),
            id: text(&config["run_id"]).unwrap_or_default(),
            task: text(&task["name"]).unwrap_or_else(|| "vae".into()),
            example: text(&task["example"]).unwrap_or_else(|| "image".into()),
            unit: text(&task["metrics"][0]["unit"]).unwrap_or_default(),
            state: State::Stopped,
            epochs,
            epoch: 0,
            began: began(path),
            examples_per_second: None,
            digest: None,
            settings: settings::by_flag(&config),
            losses: Curve::default(),
            tests: Vec::new(),
            bad_lines: 0,
        };
        run.read_metrics()?;
        // A run that was resumed may have trained beyond the end that its summary describes.
        let end = if summary["has_ended_early"] == true { run.epoch } else { epochs };
        let is_complete = summary["epochs"].as_u64() == Some(end);
        run.state = match (RunDir::is_open(path), is_complete) {
            (true, _) => State::Running,
            (false, true) => State::Complete,
            (false, false) => State::Stopped,
        };
        run.digest = text(&summary["digest"]).filter(|_| is_complete);
        let rate = &summary["train_examples_per_second"];
        run.examples_per_second = rate.as_f64().filter(|_| is_complete).or(run.examples_per_second);
        Ok(run)
    }

    fn read_metrics(&mut self) -> Result<()> {
        let (mut examples, mut seconds) = (0, 0.0);
        let mut rows = newest_rows(&self.path)?;
        for row in &mut rows {
            match row? {
                MetricsRow::Steps(row) => {
                    if let Some(took) = row.took().filter(|took| took.is_finite()) {
                        (examples, seconds) = (examples + row.examples, seconds + took);
                    }
                    if let Some(loss) = row.loss() {
                        self.losses.add(row.step, loss);
                    }
                }
                MetricsRow::Epoch(EpochRow { epoch, step, test, .. }) => {
                    self.epoch = self.epoch.max(epoch);
                    self.tests.extend(test.first().map(|loss| (epoch, step, loss)));
                }
            }
        }
        self.bad_lines = rows.bad_lines();
        self.tests.sort_by_key(|(epoch, ..)| *epoch);
        self.examples_per_second = (seconds > 0.0).then(|| examples as f64 / seconds);
        Ok(())
    }

    /// Reads the run in a folder, and warns if a part of its metrics cannot be read.
    pub(super) fn read_with_warning(path: &Path) -> Result<Self> {
        let run = Self::read(path)?;
        if run.bad_lines > 0 {
            tracing::warn!(
                "left out {} of {} that cannot be read: the file is damaged",
                counted(run.bad_lines, "line"),
                shown(&path.join(METRICS))
            );
        }
        Ok(run)
    }

    /// The run's name, or else the name of its folder.
    pub(super) fn title(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.folder.clone())
    }

    /// The newest test loss.
    pub(super) fn test_loss(&self) -> Option<f64> {
        self.tests.last().map(|(.., loss)| *loss)
    }

    /// The loss with its unit.
    pub(super) fn loss_label(&self) -> String {
        match &self.unit[..] {
            "" => format!("loss per {}", self.example),
            unit => format!("loss ({unit} per {})", self.example),
        }
    }
}

/// When the run began: the time of its first event.
fn began(path: &Path) -> Option<Time> {
    match Events::open(path).next_item() {
        Ok(Some(Item::Row(row))) => row.time,
        _ => None,
    }
}

/// A curve of means over neighbouring rows, so that there are fewer than [`POINTS_MAX`] points.
#[derive(Clone, Debug)]
pub(super) struct Curve {
    points: Vec<(u64, f64)>,
    /// Rows in the mean of one point.
    rows: u32,
    /// The sum and number of the rows of the next point.
    sum: f64,
    count: u32,
}

impl Default for Curve {
    fn default() -> Self {
        Self { points: Vec::new(), rows: 1, sum: 0.0, count: 0 }
    }
}

impl Curve {
    fn add(&mut self, step: u64, value: f64) {
        (self.sum, self.count) = (self.sum + value, self.count + 1);
        if self.count < self.rows {
            return;
        }
        self.points.push((step, self.sum / f64::from(self.count)));
        (self.sum, self.count) = (0.0, 0);
        if self.points.len() >= POINTS_MAX {
            let halved = self.points.chunks(2).map(|pair| {
                let sum: f64 = pair.iter().map(|(_, value)| value).sum();
                (pair[pair.len() - 1].0, sum / pair.len() as f64)
            });
            self.points = halved.collect();
            self.rows *= 2;
        }
    }

    pub(super) fn points(&self) -> &[(u64, f64)] {
        &self.points
    }
}

/// The folder of the run that a person names by its folder, by the name of a folder in `runs`, or by
/// the name from `--name`.
pub(super) fn locate(name: &Path) -> Result<PathBuf> {
    let inside = Path::new(RUNS).join(name);
    if let Some(found) = [name, &inside].into_iter().find(|path| RunDir::holds_run(path)) {
        return Ok(found.to_owned());
    }
    let called = |path: &PathBuf| {
        let config = files::read(&path.join("config.json")).unwrap_or_default();
        let config: Value = serde_json::from_str(&config).unwrap_or_default();
        config["name"].as_str().is_some_and(|called| name == Path::new(called))
    };
    // If several runs have the name, the last folder by name is taken, which is the newest by default.
    match list(Path::new(RUNS)).unwrap_or_default().into_iter().rev().find(called) {
        Some(found) => Ok(found),
        None => bail!(
            "{} holds no run, and no run in {RUNS} has this name: name the folder of a run",
            name.display()
        ),
    }
}

/// The runs in a folder, sorted by name, without links to runs. If the folder itself is a run, only
/// that run.
pub(super) fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    if RunDir::holds_run(folder) {
        return Ok(vec![folder.to_owned()]);
    }
    let context =
        || format!("cannot read {}: name the folder that the runs are in", folder.display());
    let mut runs = Vec::new();
    for entry in fs::read_dir(folder).with_context(context)? {
        let entry = entry.with_context(context)?;
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && RunDir::holds_run(&entry.path()) {
            runs.push(entry.path());
        }
    }
    runs.sort();
    Ok(runs)
}
