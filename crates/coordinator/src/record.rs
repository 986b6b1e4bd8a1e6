//! The numbers of a run so far, for the metrics, the summary and the printed lines.
//!
//! A number that is not known is none, never 0.

use std::{collections::BTreeMap, time::Instant};

use anyhow::Result;
use checkpoint::EpochLedger;
use collective::{Digest, Generation};
use config::Metric;
use history::{EpochRow, RankRow, StepsRow, Time, Values};
use protocol::{
    convert::printable,
    wire::{self, EpochReport, NamedValue, RankSeconds, Report, StatusReply},
};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    console::{EpochLine, Progress, Rate},
    launch::Launch,
    recorded::Recorded,
    run_dir::RunDir,
    terms::{Terms, figure},
};

/// Version of this coordinator, for the rows that it writes.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The most factors of a task's schedule in a row.
const FACTORS_MAX: usize = 8;

/// The numbers of a run.
#[derive(Debug)]
pub(crate) struct Record {
    run_id: String,
    task: String,
    /// The task's word for an example.
    example: String,
    metrics: Vec<Metric>,
    workers: u32,
    shards: u32,
    epochs: u32,
    /// Whether the run ends early when the validation loss stops improving.
    may_end_early: bool,
    has_ended_early: bool,
    /// The epoch with the lowest validation loss, and this loss.
    best: Option<(u64, f64)>,
    steps_per_epoch: u64,
    /// Step of the checkpoint that this coordinator began from; 0 without one.
    begun_at: u64,
    /// Updates done, as far as was reported.
    step: u64,
    /// Examples of each epoch that was completed, as counted by the all-reduce.
    examples_counted: Vec<u64>,
    last: Option<Last>,
    recorded: Recorded,
    /// Epochs that are in the checkpoint and that no worker has reported. They are recorded from the
    /// checkpoint unless a worker reports them.
    unreported: BTreeMap<u64, EpochLedger>,
    /// The newest epoch whose test was reported, and the terms of this test.
    tested: Option<(u64, Terms)>,
    /// The examples of all steps that this coordinator has recorded, and the seconds these took.
    examples: u64,
    seconds: f64,
}

/// The last report of some steps.
#[derive(Debug)]
struct Last {
    generation: u64,
    step: u64,
    terms: Terms,
    examples_per_second: Option<f64>,
    at: Instant,
}

/// What `summary.json` holds.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    run_id: String,
    task: String,
    steps: u64,
    epochs: u32,
    /// Whether the run ended before all epochs because the validation loss stopped improving.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    has_ended_early: bool,
    /// The epoch with the lowest validation loss, if examples are held out.
    #[serde(skip_serializing_if = "Option::is_none")]
    best_epoch: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    best_validation_loss: Option<f64>,
    workers: u32,
    shards: u32,
    /// Means over the whole test set, as `test_loss` and so on.
    #[serde(flatten)]
    test: Map<String, Value>,
    /// Examples a second over the steps that this coordinator has recorded; none if there are none.
    train_examples_per_second: Option<f64>,
    digest: String,
    generations: u64,
    /// By epoch, as added up by the all-reduce.
    examples_counted: Vec<u64>,
}

/// The end of an epoch: a line to print, and a row for the metrics.
#[derive(Debug)]
pub(crate) struct EpochNews {
    pub(crate) text: String,
    pub(crate) row: EpochRow,
}

impl Record {
    pub(crate) fn new(launch: &Launch, recorded: Recorded) -> Self {
        let config = launch.config();
        let task = &config.training.task;
        let steps_per_epoch = launch.steps_per_epoch();
        let before = launch.checkpoint().map(|(_, metadata)| metadata);
        let step = before.map_or(0, |metadata| metadata.step);
        let ledger = before.map_or(&[][..], |metadata| &metadata.ledger);
        let complete = (1..).zip(ledger).take_while(|(epoch, _)| epoch * steps_per_epoch <= step);
        let unreported = complete.filter(|(epoch, _)| !recorded.has_epoch(*epoch));
        Self {
            run_id: launch.info.run_id.clone(),
            task: task.name.clone(),
            example: task.example.clone(),
            metrics: task.metrics.clone(),
            workers: config.operation.workers,
            shards: config.training.shards,
            epochs: config.operation.epochs,
            may_end_early: config.operation.early_stop_epochs > 0,
            has_ended_early: false,
            best: best_of(ledger),
            steps_per_epoch,
            begun_at: step,
            step,
            examples_counted: ledger.iter().map(|epoch| epoch.images).collect(),
            last: None,
            unreported: unreported.map(|(epoch, ledger)| (epoch, ledger.clone())).collect(),
            recorded,
            tested: None,
            examples: 0,
            seconds: 0.0,
        }
    }

    /// Ends the run after this step, because the members have found no better validation loss for
    /// the allowed number of epochs. Returns whether the run may end there.
    pub(crate) fn end_early(&mut self, step: u64) -> bool {
        let epochs = u32::try_from(step / self.steps_per_epoch).unwrap_or(u32::MAX);
        let is_possible =
            self.may_end_early && epochs > 0 && step.is_multiple_of(self.steps_per_epoch);
        if is_possible && epochs < self.epochs {
            (self.epochs, self.has_ended_early) = (epochs, true);
        }
        is_possible
    }

    /// Steps of the whole run.
    pub(crate) fn steps(&self) -> u64 {
        self.steps_per_epoch * u64::from(self.epochs)
    }

    /// Updates done, as far as was reported.
    pub(crate) fn step(&self) -> u64 {
        self.step
    }

    /// Step of the checkpoint that this coordinator began from.
    pub(crate) fn begun_at(&self) -> u64 {
        self.begun_at
    }

    /// Whole epochs in that checkpoint.
    pub(crate) fn begun_at_epoch(&self) -> u64 {
        self.begun_at / self.steps_per_epoch
    }

    /// How far the metrics are recorded.
    pub(crate) fn recorded(&self) -> wire::Recorded {
        (&self.recorded).into()
    }

    /// The epoch that the update after `step` belongs to, from 1.
    fn epoch_at(&self, step: u64) -> u64 {
        (step / self.steps_per_epoch + 1).min(self.epochs.into())
    }

    /// Fills in the numbers of the training. `seen` is the newest step in a member's heartbeat;
    /// `training` is the generation that trains, if there is one.
    pub(crate) fn describe(&self, status: &mut StatusReply, seen: u64, training: Option<u64>) {
        (status.step, status.steps) = (self.step.max(seen), self.steps());
        (status.epoch, status.epochs) = (self.epoch_at(status.step), self.epochs);
        status.workers = self.workers;
        (status.task, status.example) = (self.task.clone(), self.example.clone());
        let Some(last) = &self.last else { return };
        status.metrics = (&last.terms).into();
        status.reported_step = Some(last.step);
        status.reported_seconds_ago = Some(last.at.elapsed().as_secs_f64());
        status.examples_per_second =
            last.examples_per_second.filter(|_| training == Some(last.generation));
    }

    /// A rate with the task's word for examples; none if the rate is not known.
    fn rate(&self, per_second: Option<f64>) -> Option<Rate> {
        let examples = format!("{}s", self.example);
        per_second.map(|per_second| Rate { per_second, examples })
    }

    /// The progress of training, before the first report.
    pub(crate) fn progress(&self) -> Progress {
        Progress {
            epoch: self.epoch_at(self.step),
            epochs: self.epochs,
            step: self.step,
            steps: self.steps(),
            loss: None,
            rate: None,
        }
    }

    /// Adds a leader's report. Returns the progress to show and the row for the metrics; none if the
    /// steps were recorded before.
    pub(crate) fn report(&mut self, report: &Report) -> Option<(Progress, StepsRow)> {
        if report.step > self.steps() || !self.recorded.add_steps(report.generation, report.step) {
            return None;
        }
        self.step = report.step;
        self.examples += report.examples;
        self.seconds += report.seconds;
        let terms = Terms::new(&self.metrics, &report.means);
        let examples_per_second = rate(report.examples, report.seconds);
        let mut row = StepsRow {
            time: Some(Time::now()),
            generation: report.generation,
            epoch: report.epoch,
            step: report.step,
            steps: Some(report.steps).filter(|steps| *steps > 0),
            examples: report.examples,
            seconds: Some(report.seconds),
            examples_per_second,
            values: self.values(&terms),
            learning_rate: report.learning_rate,
            factors: factors(&report.factors),
            gradient_norm: report.gradient_norm,
            ..StepsRow::default()
        };
        row.set_ranks(report.ranks.iter().map(rank_row).collect());
        let (epoch, step, loss) = (report.epoch, report.step, terms.loss());
        let rate = self.rate(examples_per_second);
        let progress = Progress { epoch, step, loss, rate, ..self.progress() };
        let (generation, at) = (report.generation, Instant::now());
        self.last = Some(Last { generation, step, terms, examples_per_second, at });
        Some((progress, row))
    }

    /// The metrics by name; a metric that is not known has the value none.
    fn values(&self, terms: &Terms) -> Values {
        let value = |metric: &Metric| {
            let mut known = terms.iter().filter(|(other, _)| *other == metric);
            (metric.name.clone(), known.next().map(|(_, value)| value))
        };
        self.metrics.iter().map(value).collect()
    }

    /// Adds the end of an epoch. Returns a row for it and for all earlier epochs that no worker has
    /// reported, except those recorded before.
    pub(crate) fn epoch_report(&mut self, report: &EpochReport) -> Vec<EpochNews> {
        let epoch = report.epoch;
        let is_possible = (1..=u64::from(self.epochs)).contains(&epoch);
        if !is_possible || report.step != epoch * self.steps_per_epoch {
            return Vec::new();
        }
        let train = Terms::new(&self.metrics, &report.train);
        let test = Terms::new(&self.metrics, &report.test);
        if !test.is_empty() && self.tested.as_ref().is_none_or(|(tested, _)| *tested <= epoch) {
            self.tested = Some((epoch, test.clone()));
        }
        if report.examples_by_epoch.len() >= self.examples_counted.len() {
            self.examples_counted.clone_from(&report.examples_by_epoch);
        }
        self.best = report.best_epoch.zip(report.best_validation_loss).or(self.best);
        self.unreported.remove(&epoch);
        if self.recorded.has_epoch(epoch) {
            return Vec::new();
        }
        let mut rows = self.unreported_before(epoch);
        self.recorded.add_epoch(epoch);
        let time = report.step_time.unwrap_or_default();
        let row = EpochRow {
            generation: Some(report.generation),
            examples_per_second: rate(time.examples, time.seconds),
            examples_counted: Some(report.examples),
            index_sum: Some(report.index_sum),
            validation_loss: report.validation_loss,
            ..EpochRow::default()
        };
        rows.push(self.epoch_news(epoch, &train, &test, row));
        rows
    }

    /// Rows for the epochs before `epoch` that are only in the checkpoint, in order.
    pub(crate) fn unreported_before(&mut self, epoch: u64) -> Vec<EpochNews> {
        let later = self.unreported.split_off(&epoch);
        let before = std::mem::replace(&mut self.unreported, later);
        let row = |(epoch, ledger): (u64, EpochLedger)| {
            self.recorded.add_epoch(epoch);
            let row = EpochRow {
                examples_counted: Some(ledger.images),
                index_sum: Some(ledger.index_sum),
                validation_loss: ledger.validation_loss,
                ..EpochRow::default()
            };
            let mean = |sum: &f64| sum / ledger.images.max(1) as f64;
            let train: Vec<f64> = ledger.loss_terms.iter().map(mean).collect();
            let train = Terms::new(&self.metrics, &train);
            let test = Terms::new(&self.metrics, &ledger.test_losses);
            self.epoch_news(epoch, &train, &test, row)
        };
        before.into_iter().map(row).collect()
    }

    /// Completes the row of an epoch, and writes its line.
    fn epoch_news(&self, epoch: u64, train: &Terms, test: &Terms, row: EpochRow) -> EpochNews {
        let text = EpochLine {
            epoch,
            epochs: self.epochs,
            train,
            test_loss: test.loss(),
            rate: self.rate(row.examples_per_second),
        };
        let text = text.to_string();
        let row = EpochRow {
            time: Some(Time::now()),
            epoch,
            step: epoch * self.steps_per_epoch,
            train: self.values(train),
            test: self.values(test),
            version: Some(VERSION.to_owned()),
            ..row
        };
        EpochNews { text, row }
    }

    pub(crate) fn summary(&self, digest: Digest, generations: Generation) -> Summary {
        let terms = self.tested.as_ref().map(|(_, terms)| terms.clone()).unwrap_or_default();
        let test = self.values(&terms);
        let test = test.iter().map(|(name, value)| (format!("test_{name}"), value.into()));
        Summary {
            run_id: self.run_id.clone(),
            task: self.task.clone(),
            steps: self.steps(),
            epochs: self.epochs,
            has_ended_early: self.has_ended_early,
            best_epoch: self.best.map(|(epoch, _)| epoch),
            best_validation_loss: self.best.map(|(_, loss)| loss),
            workers: self.workers,
            shards: self.shards,
            test: test.collect(),
            train_examples_per_second: rate(self.examples, self.seconds),
            digest: digest.to_string(),
            generations: generations.0,
            examples_counted: self.examples_counted.clone(),
        }
    }

    /// The lines that are printed at the end of a run.
    pub(crate) fn closing_words(&self, run_dir: &RunDir, digest: Digest) -> Result<String> {
        // Checkpoints of later steps do not belong to this run.
        let mut listed = run_dir.checkpoints().list()?.into_iter();
        let newest = listed.rfind(|(step, _)| *step <= self.steps()).map(|(_, path)| path);
        let mut words = format!("Done: {}", stdout::counted(self.steps(), "step"));
        let tested = self.tested.as_ref().and_then(|(_, test)| test.describe_loss(&self.example));
        if let Some(loss) = tested {
            words += &format!(", test loss {loss}");
        }
        if let Some(rate) = self.rate(rate(self.examples, self.seconds)) {
            words += &format!(", {rate}");
        }
        if let Some(others) = self.tested.as_ref().and_then(|(_, test)| test.describe_others()) {
            words += &format!("\nTest:       {others}");
        }
        words += &format!("\nDigest:     {digest}");
        if let Some(checkpoint) = newest {
            words += &format!("\nCheckpoint: {}", checkpoint.display());
        }
        if let Some((epoch, loss)) = self.best {
            let early = if self.has_ended_early { ", so training has ended early" } else { "" };
            words +=
                &format!("\nLowest validation loss {} after epoch {epoch}{early}", figure(loss));
        }
        if let Some(best) = run_dir.best_checkpoint() {
            words += &format!("\nBest:       {}", best.display());
        }
        let samples = run_dir.samples_path(u64::from(self.epochs));
        if samples.exists() {
            words += &format!("\nPicture:    {}", samples.display());
        }
        Ok(words)
    }
}

/// The epoch with the lowest validation loss, from 1, and this loss; the first if several are equal.
fn best_of(ledger: &[EpochLedger]) -> Option<(u64, f64)> {
    let losses = (1..).zip(ledger).filter_map(|(epoch, l)| Some((epoch, l.validation_loss?)));
    losses.reduce(|best, next| if next.1 < best.1 { next } else { best })
}

/// Examples a second; none if no time was measured.
fn rate(examples: u64, seconds: f64) -> Option<f64> {
    let rate = examples as f64 / seconds;
    (examples > 0 && seconds > 0.0 && rate.is_finite()).then_some(rate)
}

/// The first factors of a schedule, with names that can be printed.
fn factors(factors: &[NamedValue]) -> Values {
    let named = |factor: &NamedValue| (printable(&factor.name).to_string(), Some(factor.value));
    factors.iter().take(FACTORS_MAX).map(named).collect()
}

fn rank_row(rank: &RankSeconds) -> RankRow {
    RankRow {
        rank: rank.rank,
        compute_seconds: rank.compute,
        all_reduce_seconds: rank.all_reduce,
        waiting_seconds: rank.waiting,
        memory_bytes: None,
    }
}

#[cfg(test)]
mod tests;
