//! Measures Lockstep: starts a coordinator and its workers as processes, in a temporary folder, and
//! watches them while they train.

use super::process::{self, Process};
use super::procfs::{self, Memory};
use super::statistics::Summary;
use super::subject::{Checkpoints, Precision, Training};
use super::{Collective, machine};
use anyhow::{Context, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The images of one epoch.
const EPOCH_IMAGES: f64 = 60_000.0;

/// A measurement with a shorter training than this is repeated with more epochs, for `SECONDS_AIM`.
const SECONDS_MIN: f64 = 2.0;
const SECONDS_AIM: f64 = 3.0;

/// The least speed of a core, for the first estimate of the number of epochs.
const GUESS_IMAGES_PER_SECOND_AND_CORE: f64 = 8_000.0;

/// How long a run of a few seconds may take, and how long the long run may take.
const RUN_BOUND: Duration = Duration::from_mins(5);
const LONG_RUN_BOUND: Duration = Duration::from_mins(5);
/// How long a coordinator may take to print its address. It checks the data set first, and fetches
/// the data set in the first run.
const LISTEN_BOUND: Duration = Duration::from_mins(5);

/// The long run: epochs of 50 steps, so that evaluation, a checkpoint and samples all come before
/// the first reading.
const LONG_RUN_EPOCHS: u32 = 220;
const LONG_RUN_WORKERS: u32 = 2;
const LONG_RUN_FLAGS: [&str; 8] = [
    "--train-images=1600",
    "--test-images=250",
    "--batch-size=16",
    "--shards=2",
    "--hidden-dim=32",
    "--latent-dim=4",
    "--verify-every=10",
    "--epochs=220",
];
const LONG_RUN_FIRST_READING_STEP: u64 = 100;

/// The runs that save: epochs of 50 steps. They hardly test, since a checkpoint that is written
/// during a test takes no time from training.
const SAVING_EPOCHS: u32 = 60;
const SAVING_WORKERS: u32 = 2;
const SAVING_FLAGS: [&str; 5] =
    ["--train-images=6400", "--test-images=10", "--batch-size=64", "--shards=2", "--offline"];

/// The paths of the programs and of the data.
#[derive(Debug)]
pub(super) struct Lockstep {
    pub(super) coordinator: PathBuf,
    pub(super) worker: PathBuf,
    pub(super) data_dir: PathBuf,
    /// The number of epochs with which earlier runs of the same kind trained long enough.
    pub(super) epochs: BTreeMap<Training, u32>,
}

/// The figures of a training run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    pub(super) images_per_second: f64,
    pub(super) seconds: f64,
    pub(super) worker_peak_bytes: u64,
    /// Heap, stacks and shared memory: the largest reading.
    pub(super) worker_own_peak_bytes: u64,
    pub(super) coordinator_share: Option<f64>,
}

/// The growth of a worker's memory in the long run; negative if it has shrunk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growth {
    pub(super) heap_bytes: f64,
    pub(super) resident_bytes: f64,
    pub(super) steps: u64,
}

impl Lockstep {
    /// Makes sure that the programs work and that the data set is on this machine. Only this run
    /// may use the network.
    pub(super) fn prepare(&self) -> anyhow::Result<()> {
        let flags = ["--epochs=1", "--train-images=64", "--test-images=10", "--shards=1"];
        let mut run = Run::start(self, &flags.map(str::to_owned), 1, 1)?;
        process::wait(&mut run.processes, RUN_BOUND, |_| {})
    }

    /// Trains long enough to measure the speed.
    pub(super) fn train(
        &mut self,
        training: Training,
        collective: Collective,
    ) -> anyhow::Result<Shown> {
        let mut epochs = self.epochs.get(&training).copied().unwrap_or_else(|| guess(training));
        let mut shown = self.train_epochs(training, collective, epochs)?;
        if shown.seconds < SECONDS_MIN {
            epochs = epochs_for(shown.images_per_second);
            shown = self.train_epochs(training, collective, epochs)?;
        }
        self.epochs.insert(training, epochs);
        Ok(shown)
    }

    fn train_epochs(
        &self,
        training: Training,
        collective: Collective,
        epochs: u32,
    ) -> anyhow::Result<Shown> {
        let mut flags = vec![
            format!("--shards={}", training.workers),
            format!("--batch-size={}", training.batch_size),
            format!("--epochs={epochs}"),
            format!("--collective={collective}"),
            "--offline".to_owned(),
        ];
        if training.precision == Precision::Bf16 {
            flags.push("--precision=bf16".to_owned());
        }
        let mut run = Run::start(self, &flags, training.workers, training.threads)?;
        let folder = run.run_dir();
        let (mut worker_peak_bytes, mut worker_own_peak_bytes) = (0, 0);
        let mut processor = ProcessorTime::default();
        process::wait(&mut run.processes, RUN_BOUND, |processes| {
            for memory in processes[1..].iter().filter_map(|worker| procfs::memory(worker.id())) {
                worker_peak_bytes = memory.peak.max(worker_peak_bytes);
                worker_own_peak_bytes =
                    (memory.anonymous + memory.shared).max(worker_own_peak_bytes);
            }
            processor.look(processes[0].id(), &folder);
        })?;
        let (images_per_second, seconds) = summary(&folder)?;
        Ok(Shown {
            images_per_second,
            seconds,
            worker_peak_bytes,
            worker_own_peak_bytes,
            coordinator_share: processor.share(),
        })
    }

    /// Trains the default model, and saves checkpoints meanwhile or only at the end. Returns images a
    /// second.
    pub(super) fn train_saving(&self, checkpoints: Checkpoints) -> anyhow::Result<f64> {
        let epochs_between = match checkpoints {
            Checkpoints::Every50Steps => 1,
            Checkpoints::AtTheEnd => SAVING_EPOCHS,
        };
        let mut flags: Vec<String> = SAVING_FLAGS.map(str::to_owned).into();
        flags.push(format!("--epochs={SAVING_EPOCHS}"));
        flags.push(format!("--checkpoint-every-epochs={epochs_between}"));
        let mut run = Run::start(self, &flags, SAVING_WORKERS, 1)?;
        process::wait(&mut run.processes, RUN_BOUND, |_| {})?;
        let (images_per_second, _) = summary(&run.run_dir())?;
        Ok(images_per_second)
    }

    /// Trains a small model for many steps, and compares each worker's early memory with its memory
    /// at the end. Returns the growth of the worker that grew most.
    pub(super) fn train_long(&self) -> anyhow::Result<Growth> {
        let mut flags: Vec<String> = LONG_RUN_FLAGS.map(str::to_owned).into();
        flags.push("--offline".to_owned());
        let mut run = Run::start(self, &flags, LONG_RUN_WORKERS, 1)?;
        let folder = run.run_dir();
        let steps = u64::from(LONG_RUN_EPOCHS) * 50;
        let mut readings: Vec<Vec<Memory>> = vec![Vec::new(); run.processes.len()];
        let mut last_step = 0;
        process::wait(&mut run.processes, LONG_RUN_BOUND, |processes| {
            let step = step(&folder).unwrap_or(0);
            // After the last step a worker frees its memory.
            if !(LONG_RUN_FIRST_READING_STEP..steps).contains(&step) {
                return;
            }
            last_step = step;
            for (readings, worker) in readings.iter_mut().zip(processes).skip(1) {
                readings.extend(procfs::memory(worker.id()));
            }
        })?;
        let grown = |of: fn(&Memory) -> u64| {
            let workers = readings.iter().skip(1);
            let growths = workers.map(|one| growth(one.iter().map(|memory| of(memory) as f64)));
            let growths: Option<Vec<f64>> = growths.collect();
            let largest = growths.and_then(|growths| growths.into_iter().reduce(f64::max));
            largest.context("the workers were not seen often enough while they trained")
        };
        Ok(Growth {
            heap_bytes: grown(|memory| memory.anonymous)?,
            resident_bytes: grown(|memory| memory.resident)?,
            steps: last_step,
        })
    }
}

/// A coordinator and its workers. When it is dropped, all are killed and their folder is removed.
struct Run {
    /// The coordinator, then the workers.
    processes: Vec<Process>,
    folder: tempfile::TempDir,
}

impl Run {
    fn start(
        lockstep: &Lockstep,
        flags: &[String],
        workers: u32,
        threads: u32,
    ) -> anyhow::Result<Run> {
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        let mut run = Run { processes: Vec::new(), folder };
        let place = run.folder.path().to_owned();
        let mut command = process::command(&lockstep.coordinator);
        command.args(["--listen=127.0.0.1:0", &format!("--workers={workers}")]).args(flags);
        command.arg("--run-dir").arg(run.run_dir()).arg("--data-dir").arg(&lockstep.data_dir);
        let mut coordinator = Process::start("coordinator", &mut command, &place)?;
        let address = process::recv(&mut coordinator, LISTEN_BOUND, address_in)?;
        run.processes.push(coordinator);
        for rank in 0..workers {
            let mut command = process::command(&lockstep.worker);
            command.arg(format!("--coordinator={address}")).arg(format!("--threads={threads}"));
            command.arg("--data-dir").arg(&lockstep.data_dir);
            let name = format!("worker-{rank}");
            run.processes.push(Process::start(&name, &mut command, &place)?);
        }
        Ok(run)
    }

    fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }
}

/// The address in the line "Listening on" of a coordinator.
pub(crate) fn address_in(output: &str) -> Option<String> {
    let whole_lines = output.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let address = whole_lines.filter_map(|line| line.trim_end().strip_prefix("Listening on "));
    address.map(str::to_owned).next()
}

/// The coordinator's processor time from the first report of training to the last.
#[derive(Default)]
struct ProcessorTime {
    first: Option<(Instant, Duration)>,
    last: Option<(Instant, Duration)>,
}

impl ProcessorTime {
    fn look(&mut self, coordinator: u32, run_dir: &Path) {
        let training = step(run_dir).is_some() && !run_dir.join("summary.json").exists();
        let Some(used) = procfs::processor_time(coordinator) else { return };
        if training {
            let now = (Instant::now(), used);
            self.first = self.first.or(Some(now));
            self.last = Some(now);
        }
    }

    fn share(&self) -> Option<f64> {
        let (first, last) = (self.first?, self.last?);
        let elapsed = (last.0 - first.0).as_secs_f64();
        // The clock of processor time ticks every 10 ms, so a share over less than a second is too
        // inexact.
        (elapsed >= 1.0).then(|| (last.1 - first.1).as_secs_f64() / elapsed)
    }
}

/// The last reported step of the run; none before the first report.
fn step(run_dir: &Path) -> Option<u64> {
    step_in(&fs::read_to_string(run_dir.join("metrics.jsonl")).ok()?)
}

fn step_in(metrics: &str) -> Option<u64> {
    let last = metrics.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok())?;
    last["step"].as_u64()
}

/// Images a second in training, and the seconds of training.
fn summary(run_dir: &Path) -> anyhow::Result<(f64, f64)> {
    let file = run_dir.join("summary.json");
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    parse_summary(&text).with_context(|| format!("{} lacks the speed", file.display()))
}

fn parse_summary(text: &str) -> Option<(f64, f64)> {
    let summary: Value = serde_json::from_str(text).ok()?;
    // Earlier builds, without other tasks, wrote the second name.
    let field = |name: &str, before: &str| summary.get(name).or_else(|| summary.get(before));
    let rate = field("train_examples_per_second", "train_images_per_second")?;
    let rate = rate.as_f64().filter(|rate| *rate > 0.0)?;
    let epochs = field("examples_counted", "images_counted")?.as_array()?;
    let images: f64 = epochs.iter().filter_map(Value::as_f64).sum();
    Some((rate, images / rate))
}

/// The median of the last quarter of the readings, minus the median of the first quarter. Single
/// readings would not do: a leader's memory goes up and down with every checkpoint.
fn growth(readings: impl Iterator<Item = f64>) -> Option<f64> {
    let readings: Vec<f64> = readings.collect();
    let quarter = readings.len() / 4;
    let median = |readings: &[f64]| Some(Summary::of(readings.iter().copied())?.median);
    Some(median(&readings[readings.len() - quarter..])? - median(&readings[..quarter])?)
}

fn guess(training: Training) -> u32 {
    let cores = (training.workers * training.threads).min(machine::cores());
    epochs_for(GUESS_IMAGES_PER_SECOND_AND_CORE * f64::from(cores))
}

/// The number of epochs that takes long enough at this speed.
fn epochs_for(images_per_second: f64) -> u32 {
    (SECONDS_AIM * images_per_second / EPOCH_IMAGES).ceil().max(1.0) as u32
}

/// The default folder of the data set, the same as that of the programs.
pub(crate) fn default_data_dir() -> anyhow::Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(folder) = variable("LOCKSTEP_DATA_DIR") {
        return Ok(std::path::absolute(folder)?);
    }
    let cache = variable("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || variable("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = cache.or_else(home);
    ensure!(cache.is_some(), "HOME is not set: give the folder of MNIST with LOCKSTEP_DATA_DIR");
    Ok(cache.unwrap_or_default().join("lockstep/mnist"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coordinators_address_is_found_once_its_line_is_whole() {
        assert_eq!(address_in("Run directory: /x\nListening on http://127.0.0.1:40"), None);
        let output = "Run directory: /x\nListening on http://127.0.0.1:4000\nStart\n";
        assert_eq!(address_in(output).as_deref(), Some("http://127.0.0.1:4000"));
    }

    #[test]
    fn the_last_whole_line_of_the_metrics_tells_the_step() {
        let metrics = "{\"kind\":\"steps\",\"step\":7}\n{\"kind\":\"steps\",\"step\":9}\n{\"kin";
        assert_eq!(step_in(metrics), Some(9));
        assert_eq!(step_in(""), None);
    }

    #[test]
    fn the_summary_tells_speed_and_time() {
        let summary =
            r#"{"train_images_per_second": 30000.0, "images_counted": [60000, 60000], "steps": 9}"#;
        assert_eq!(parse_summary(summary), Some((30_000.0, 4.0)));
        assert_eq!(parse_summary(r#"{"train_images_per_second": 0.0}"#), None);
    }

    #[test]
    fn growth_is_what_stays_and_not_what_comes_and_goes() {
        let saw = |rise: f64| (0..100_u8).map(move |n| f64::from(n % 5) + rise * f64::from(n));
        assert_eq!(growth(saw(0.0)), Some(0.0));
        assert_eq!(growth(saw(1.0)), Some(75.0));
        assert_eq!(growth([1.0, 2.0].into_iter()), None);
    }

    #[test]
    fn enough_epochs_are_trained_to_measure() {
        assert_eq!(epochs_for(1_000.0), 1);
        assert_eq!(epochs_for(60_000.0), 3);
        assert_eq!(epochs_for(61_000.0), 4);
    }
}
