//! One run, read from its directory: rows are read as they are written, and kept in bounded memory.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use history::{
    Events, HistoryError, Item, Metrics, MetricsRow, Numbered, RankRow, StepsRow, Time, Values,
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    series::{BUCKETS_MAX, Coordinates, Series, Spread},
    story::Story,
};

/// Rows that are read at a time, which takes about a tenth of a second. So the first part of a long run is
/// shown at once, and the rest after it is read.
pub(crate) const ROWS_AT_ONCE: usize = 50_000;

/// The most buckets of the epochs.
const EPOCH_BUCKETS_MAX: usize = 1 << 14;

/// The last seconds of training whose time by phase is shown.
const RECENT_SECONDS: f64 = 10.0;

/// A member can be called slow only if the others wait for it longer than this, in seconds.
const SLOW_SECONDS_MIN: f64 = 0.1;

/// The most rows in the last seconds.
const RECENT_ROWS_MAX: usize = 256;

/// The most bytes of a configuration or a summary that are read.
const JSON_BYTES_MAX: u64 = 1 << 22;

/// The folder of the checkpoints, and their names around the step.
const CHECKPOINTS: &str = "checkpoints";
const CHECKPOINT_PREFIX: &str = "step-";
const CHECKPOINT_SUFFIX: &str = ".safetensors";

/// The properties of a run that do not change.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct About {
    pub(crate) run_id: String,
    /// A person's name for the run; else the name of its folder.
    pub(crate) name: String,
    pub(crate) note: Option<String>,
    pub(crate) task: String,
    /// The task's word for an example.
    pub(crate) example: String,
    pub(crate) metrics: Vec<Metric>,
    pub(crate) epochs: Option<u64>,
    pub(crate) workers: Option<u64>,
    pub(crate) steps_per_epoch: Option<u64>,
}

/// A metric and its unit.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Metric {
    pub(crate) name: String,
    pub(crate) unit: String,
}

impl About {
    /// Reads a run's configuration; none if there is no run in `path`.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        let config = read_json(&path.join("config.json"))?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let (training, operation) = (&config["training"], &config["operation"]);
        let task = &training["task"];
        let metric = |metric: &Value| {
            let name = text(&metric["name"])?;
            Some(Metric { name, unit: text(&metric["unit"]).unwrap_or_default() })
        };
        let metrics = task["metrics"].as_array();
        let folder = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let number = |name: &str| training[name].as_u64();
        let batch = number("shards").zip(number("batch_size"));
        let examples = number("train_examples").or_else(|| number("train_images"));
        let steps = batch.zip(examples).map(|((shards, size), examples)| {
            examples.div_ceil(shards.saturating_mul(size).max(1)).max(1)
        });
        Some(Self {
            run_id: text(&config["run_id"])?,
            name: text(&config["name"]).unwrap_or(folder),
            note: text(&config["note"]),
            task: text(&task["name"]).unwrap_or_default(),
            example: text(&task["example"]).unwrap_or_else(|| "example".into()),
            metrics: metrics.map(|all| all.iter().filter_map(metric).collect()).unwrap_or_default(),
            epochs: operation["epochs"].as_u64().or_else(|| number("epochs")),
            workers: operation["workers"].as_u64(),
            steps_per_epoch: steps,
        })
    }
}

/// A run's summary; none before it is complete.
pub(crate) fn read_summary(path: &Path) -> Option<Value> {
    read_json(&path.join("summary.json"))
}

fn read_json(path: &Path) -> Option<Value> {
    let mut bytes = Vec::new();
    disk::open_regular(path).ok()?.take(JSON_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// A member's time by phase, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct RankTime {
    pub(crate) rank: u32,
    pub(crate) compute: f64,
    pub(crate) all_reduce: f64,
    pub(crate) waiting: f64,
    pub(crate) memory_bytes: Option<u64>,
}

impl RankTime {
    fn add(&mut self, row: &RankRow) {
        self.rank = row.rank;
        self.compute += positive(row.compute_seconds);
        self.all_reduce += positive(row.all_reduce_seconds);
        self.waiting += positive(row.waiting_seconds);
        self.memory_bytes = row.memory_bytes.or(self.memory_bytes);
    }
}

fn positive(seconds: f64) -> f64 {
    if seconds.is_finite() { seconds.max(0.0) } else { 0.0 }
}

/// A run that is shown.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) path: PathBuf,
    pub(crate) about: About,
    metrics: Metrics,
    events: Events,
    pub(crate) series: Series,
    /// The epochs that were completed; columns of the test begin with `test_`.
    pub(crate) epochs: Series,
    /// The last rows of one generation, each with its seconds.
    recent: VecDeque<(f64, Vec<RankRow>)>,
    generation: u64,
    pub(crate) totals: BTreeMap<u32, RankTime>,
    /// Examples and seconds of all steps that were trained, also of those trained again.
    pub(crate) examples: u64,
    pub(crate) seconds: f64,
    pub(crate) story: Story,
    pub(crate) samples: Vec<u64>,
    samples_folder: Numbered,
    pub(crate) checkpoints: Checkpoints,
    checkpoints_folder: Numbered,
    /// Whether there are rows that have not been read yet.
    pub(crate) is_behind: bool,
    /// Why the rows cannot be read.
    pub(crate) error: Option<String>,
}

/// The checkpoints of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Checkpoints {
    pub(crate) kept: usize,
    pub(crate) newest_step: Option<u64>,
    /// Unix seconds.
    pub(crate) newest_time: Option<f64>,
}

impl Run {
    pub(crate) fn open(path: &Path, about: About) -> Self {
        Self {
            path: path.to_owned(),
            about,
            metrics: Metrics::open(path),
            events: Events::open(path),
            series: Series::new(BUCKETS_MAX),
            epochs: Series::new(EPOCH_BUCKETS_MAX),
            recent: VecDeque::new(),
            generation: 0,
            totals: BTreeMap::new(),
            examples: 0,
            seconds: 0.0,
            story: Story::new(),
            samples: Vec::new(),
            samples_folder: Numbered::samples(path),
            checkpoints: Checkpoints::default(),
            checkpoints_folder: Numbered::new(
                path.join(CHECKPOINTS),
                CHECKPOINT_PREFIX,
                CHECKPOINT_SUFFIX,
            ),
            is_behind: false,
            error: None,
        }
    }

    /// Reads the rows and files written since the last call; at most [`ROWS_AT_ONCE`] rows.
    pub(crate) fn refresh(&mut self) {
        self.error = self.read_rows().err().map(|error| error.to_string());
        self.list_samples();
        self.list_checkpoints();
    }

    fn read_rows(&mut self) -> Result<(), HistoryError> {
        self.is_behind = false;
        let mut rows = 0;
        while let Some(item) = self.metrics.next_item()? {
            rows += 1;
            match item {
                Item::Row(MetricsRow::Steps(row)) => self.add_steps(&row),
                Item::Row(MetricsRow::Epoch(row)) => {
                    let train = row.train.iter().map(|(name, value)| (name.to_owned(), value));
                    let test = row.test.iter().map(|(name, value)| (format!("test_{name}"), value));
                    let rate = [("examples_per_second".to_owned(), row.examples_per_second)];
                    let coordinates = Coordinates {
                        seconds: self.series.last().seconds,
                        ..self.coordinates(row.step, row.epoch, row.time)
                    };
                    // If the step is already there, the epoch was trained again, so the old one is
                    // dropped.
                    self.epochs.rewind(coordinates.step - 1.0);
                    let values: Vec<(String, Option<f64>)> =
                        train.chain(test).chain(rate).collect();
                    let known = values
                        .iter()
                        .filter_map(|(name, value)| Some((&name[..], Spread::one((*value)?))));
                    self.epochs.push(coordinates, known);
                }
                Item::Rewound { step } => self.series.rewind(step as f64),
                Item::Restarted => {
                    (self.series, self.epochs) =
                        (Series::new(BUCKETS_MAX), Series::new(EPOCH_BUCKETS_MAX));
                    (self.examples, self.seconds) = (0, 0.0);
                    self.totals.clear();
                    self.recent.clear();
                }
            }
            if rows == ROWS_AT_ONCE {
                self.is_behind = true;
                break;
            }
        }
        while let Some(item) = self.events.next_item()? {
            match item {
                Item::Row(row) => self.story.push(&row),
                Item::Rewound { .. } => {}
                Item::Restarted => self.story = Story::new(),
            }
        }
        Ok(())
    }

    fn coordinates(&self, step: u64, epoch: u64, time: Option<Time>) -> Coordinates {
        let step = step as f64;
        let epoch = match self.about.steps_per_epoch {
            Some(steps) => step / steps as f64,
            None => epoch as f64,
        };
        let time = time.map_or(f64::NAN, Time::unix_seconds);
        Coordinates { step, epoch, seconds: 0.0, time }
    }

    fn add_steps(&mut self, row: &StepsRow) {
        let seconds = positive(row.took().unwrap_or_default());
        let begun = self.series.last().seconds;
        let coordinates = Coordinates {
            seconds: begun + seconds,
            ..self.coordinates(row.step, row.epoch, row.time)
        };
        self.series.push(coordinates, columns(row));
        self.examples = self.examples.saturating_add(row.examples);
        self.seconds += seconds;
        for rank in &row.ranks {
            self.totals.entry(rank.rank).or_default().add(rank);
        }
        if std::mem::replace(&mut self.generation, row.generation) != row.generation {
            // In a new generation, the ranks may belong to other workers.
            self.recent.clear();
        }
        if !row.ranks.is_empty() {
            self.recent.push_back((seconds, row.ranks.clone()));
        }
        let mut recent: f64 = self.recent.iter().map(|(seconds, _)| seconds).sum();
        while self.recent.len() > 1
            && (recent > RECENT_SECONDS || self.recent.len() > RECENT_ROWS_MAX)
        {
            recent -= self.recent.pop_front().map_or(0.0, |(seconds, _)| seconds);
        }
    }

    /// Each member's time by phase in the last seconds.
    pub(crate) fn recent(&self) -> Vec<RankTime> {
        let mut ranks: BTreeMap<u32, RankTime> = BTreeMap::new();
        for row in self.recent.iter().flat_map(|(_, rows)| rows) {
            ranks.entry(row.rank).or_default().add(row);
        }
        ranks.into_values().collect()
    }

    /// The path of the samples of an epoch.
    pub(crate) fn sample(&self, epoch: u64) -> PathBuf {
        history::samples_path(&self.path, epoch)
    }

    fn list_samples(&mut self) {
        if let Some(epochs) = self.samples_folder.changed() {
            self.samples = epochs;
        }
    }

    fn list_checkpoints(&mut self) {
        let Some(steps) = self.checkpoints_folder.changed() else { return };
        let newest_step = steps.last().copied();
        let name = |step| format!("{CHECKPOINT_PREFIX}{step:08}{CHECKPOINT_SUFFIX}");
        let newest = newest_step.map(|step| self.path.join(CHECKPOINTS).join(name(step)));
        let changed = newest.and_then(|path| fs::metadata(path).ok()?.modified().ok());
        let since = changed.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        let newest_time = since.map(|since| since.as_secs_f64());
        self.checkpoints = Checkpoints { kept: steps.len(), newest_step, newest_time };
    }
}

/// The member that the others waited for. It waited less than half as long as the others on average. The
/// others waited for more than a twentieth of their time, and longer than [`SLOW_SECONDS_MIN`].
pub(crate) fn slowest(ranks: &[RankTime]) -> Option<u32> {
    let least = ranks.iter().min_by(|one, other| one.waiting.total_cmp(&other.waiting))?;
    let others = ranks.iter().filter(|rank| rank.rank != least.rank);
    let (mut waiting, mut all, mut count) = (0.0, 0.0, 0);
    for rank in others {
        waiting += rank.waiting;
        all += rank.compute + rank.all_reduce + rank.waiting;
        count += 1;
    }
    let mean = waiting / f64::from(count.max(1));
    let is_slow = waiting > all / 20.0 && mean > SLOW_SECONDS_MIN && least.waiting < mean / 2.0;
    (count > 0 && is_slow).then_some(least.rank)
}

/// The columns of a row.
fn columns(row: &StepsRow) -> impl Iterator<Item = (&str, Spread)> {
    let range = |spread: Spread, min: f64, max: f64| Spread {
        min: spread.min.min(min as f32),
        max: spread.max.max(max as f32),
        ..spread
    };
    let first = row.values.iter().next().map(|(name, _)| name.to_owned());
    let values = known(&row.values).map(move |(name, value)| match row.loss_range {
        Some((min, max)) if first.as_deref() == Some(name) => {
            (name, range(Spread::one(value), min, max))
        }
        _ => (name, Spread::one(value)),
    });
    let norm = row
        .gradient_norm
        .map(|norm| range(Spread::one(norm), norm, row.gradient_norm_max.unwrap_or(norm)));
    let others = [
        ("examples_per_second", row.examples_per_second.map(Spread::one)),
        ("learning_rate", row.learning_rate.map(Spread::one)),
        ("gradient_norm", norm),
    ];
    let others = others.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let factors = known(&row.factors).map(|(name, value)| (name, Spread::one(value)));
    values.chain(factors).chain(others)
}

fn known(values: &Values) -> impl Iterator<Item = (&str, f64)> {
    values.iter().filter_map(|(name, value)| Some((name, value?)))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn rank(rank: u32, compute: f64, waiting: f64) -> RankTime {
        RankTime { rank, compute, waiting, ..RankTime::default() }
    }

    #[test]
    fn the_slowest_is_the_one_that_waits_least_while_the_others_wait() {
        let ranks = [rank(0, 7.0, 2.3), rank(1, 9.2, 0.1), rank(2, 7.1, 2.4)];
        assert_eq!(slowest(&ranks), Some(1));
        assert_eq!(slowest(&[rank(0, 9.0, 0.4), rank(1, 9.2, 0.1)]), None, "it is no wait");
        assert_eq!(slowest(&[rank(0, 9.0, 1.4), rank(1, 9.2, 1.1)]), None, "both wait");
        assert_eq!(slowest(&[rank(0, 0.01, 0.02), rank(1, 0.03, 0.0)]), None, "for a moment");
        assert_eq!(slowest(&[rank(0, 9.0, 1.4)]), None);
        assert_eq!(slowest(&[]), None);
    }

    #[test]
    fn a_run_is_read_as_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let config = r#"{"run_id":"r","training":{"shards":2,"batch_size":5,"train_examples":95,
            "task":{"name":"t","example":"image","metrics":[{"name":"loss","unit":"nats"}]}},
            "operation":{"epochs":3,"workers":2}}"#;
        fs::write(folder.path().join("config.json"), config).unwrap();
        fs::create_dir(folder.path().join("samples")).unwrap();
        fs::write(folder.path().join("samples/epoch-002.png"), "").unwrap();
        let about = About::read(folder.path()).unwrap();
        assert_eq!((about.steps_per_epoch, about.epochs), (Some(10), Some(3)));
        let mut run = Run::open(folder.path(), about);
        run.refresh();
        assert_eq!((run.series.rows(), &run.samples[..]), (0, &[2][..]));
        let mut file = fs::File::create(folder.path().join(history::METRICS)).unwrap();
        let row = |step: u64, generation: u64| {
            format!(
                "{{\"kind\":\"steps\",\"step\":{step},\"epoch\":1,\"generation\":{generation},\
                 \"examples\":10,\"examples_per_second\":100.0,\"loss\":{step}.5,\"ranks\":[\
                 {{\"rank\":0,\"compute_seconds\":0.1,\"all_reduce_seconds\":0.0,\
                 \"waiting_seconds\":0.0}}]}}\n"
            )
        };
        file.write_all((row(1, 1) + &row(2, 1) + &row(3, 1)).as_bytes()).unwrap();
        run.refresh();
        assert_eq!((run.series.rows(), run.examples), (3, 30));
        let last = run.series.last();
        assert!((last.seconds - 0.3).abs() < 1e-9 && (last.epoch - 0.3).abs() < 1e-9, "{last:?}");
        assert_eq!(run.recent().len(), 1);
        // The run was resumed from step 1.
        file.write_all(row(2, 2).as_bytes()).unwrap();
        run.refresh();
        assert_eq!((run.series.rows(), run.series.last().step, run.examples), (2, 2.0, 40));
        assert!(run.error.is_none());
    }

    /// Checks how much is read and sent at a time; a benchmark measures the time.
    #[test]
    fn of_a_long_run_a_part_is_shown_at_once_and_the_rest_as_it_is_read() {
        const ROWS: usize = 4 * ROWS_AT_ONCE + 1;
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), r#"{"run_id":"r"}"#).unwrap();
        let row = |step: usize| {
            format!(
                "{{\"kind\":\"steps\",\"step\":{step},\"epoch\":1,\"generation\":1,\"examples\":1,\
                 \"loss\":{}.5}}\n",
                step % 100
            )
        };
        let rows: String = (1..=ROWS).map(row).collect();
        fs::write(folder.path().join(history::METRICS), rows).unwrap();
        let mut run = Run::open(folder.path(), About::read(folder.path()).unwrap());
        for part in 1..=4 {
            run.refresh();
            assert_eq!((run.series.rows(), run.is_behind), ((part * ROWS_AT_ONCE) as u64, true));
        }
        run.refresh();
        assert_eq!((run.series.rows(), run.is_behind), (ROWS as u64, false));
        let all = f64::NEG_INFINITY..f64::INFINITY;
        let chart = run.series.chart(crate::series::Axis::Step, all.start, all.end, 600);
        let sent = serde_json::to_string(&chart).unwrap().len();
        assert!(sent < 64 * 1024, "{sent} bytes");
    }
}
