//! The duties of a member beside training: it forwards requests, gives its state to other workers,
//! reports, and as the leader gives checkpoints and samples to the writer.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use collective::{Control, Generation, Rank, TERMS_MAX, Timing};
use config::RunConfig;
use membership::Phase;
use protocol::wire::{EpochReport, NamedValue, RankSeconds, Report, StepTime};
use trainer::{EpochSummary, Ledger, Observer, Replica, StepDetails, StepSummary};
use transport::state::{Recipient, Vectors};

use crate::{
    bridge::{Event, TrainingChannel},
    convert,
    writer::Writer,
};

/// Time between two reports.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);

/// The most epochs whose test losses are kept for checkpoints: more than are trained while the
/// coordinator is away and cannot record them.
const TESTS_MAX: usize = 1024;

/// An observer of one generation.
#[derive(Debug)]
pub(crate) struct Reporter<'a> {
    channel: &'a TrainingChannel,
    generation: Generation,
    ranks: Vec<Rank>,
    checkpoint_every: u64,
    epochs: u64,
    keep_best: bool,
    early_stop_epochs: u32,
    /// The number of sums that the task reports.
    metrics: usize,
    /// The leader's writer; none for other members.
    writer: Option<&'a mut Writer>,
    since: Interval,
    epochs_seen: &'a mut Epochs,
    /// Whether the generation's first step was reported; it is reported at once.
    has_reported: bool,
}

/// This member's records of the epochs. They outlive generations, because an epoch may be trained in
/// several generations.
#[derive(Debug, Default)]
pub(crate) struct Epochs {
    /// The current epoch, with the examples and the time of the steps in which this member took part.
    epoch: u64,
    examples: u64,
    elapsed: Duration,
    /// The test losses of past epochs, for checkpoints.
    tests: BTreeMap<u64, Vec<f64>>,
}

impl Epochs {
    /// The test losses of the last epochs whose end this member has seen.
    pub(crate) fn tests(&self) -> &BTreeMap<u64, Vec<f64>> {
        &self.tests
    }

    fn note_test(&mut self, epoch: u64, test: Vec<f64>) {
        self.tests.insert(epoch, test);
        if self.tests.len() > TESTS_MAX {
            self.tests.pop_first();
        }
    }

    fn add(&mut self, step: &StepSummary<'_>) {
        if self.epoch != step.epoch {
            (self.epoch, self.examples, self.elapsed) = (step.epoch, 0, Duration::ZERO);
        }
        self.examples += step.tally.examples;
        self.elapsed += step.elapsed;
    }

    /// The time of an epoch's steps; none if this member did not take part in them.
    fn time(&self, epoch: u64) -> Option<StepTime> {
        let seconds = self.elapsed.as_secs_f64();
        (self.epoch == epoch).then_some(StepTime { examples: self.examples, seconds })
    }
}

/// The records since the last report.
#[derive(Debug)]
struct Interval {
    begun: Instant,
    steps: u64,
    step: u64,
    epoch: u64,
    examples: u64,
    terms: [f64; TERMS_MAX],
    elapsed: Duration,
    timings: Vec<[u64; 3]>,
    /// The details of the last step.
    details: Option<StepDetails>,
}

impl Interval {
    fn begin(members: usize) -> Self {
        Self {
            begun: Instant::now(),
            steps: 0,
            step: 0,
            epoch: 0,
            examples: 0,
            terms: [0.0; TERMS_MAX],
            elapsed: Duration::ZERO,
            timings: vec![[0; 3]; members],
            details: None,
        }
    }
}

impl<'a> Reporter<'a> {
    pub(crate) fn new(
        config: &RunConfig,
        generation: Generation,
        ranks: Vec<Rank>,
        writer: Option<&'a mut Writer>,
        epochs_seen: &'a mut Epochs,
        channel: &'a TrainingChannel,
    ) -> Self {
        Self {
            channel,
            generation,
            checkpoint_every: u64::from(config.operation.checkpoint_every_epochs),
            epochs: u64::from(config.operation.epochs),
            keep_best: config.operation.keep_best,
            early_stop_epochs: config.operation.early_stop_epochs,
            metrics: config.training.task.metrics.len(),
            writer,
            since: Interval::begin(ranks.len()),
            epochs_seen,
            has_reported: false,
            ranks,
        }
    }

    fn means(&self, sums: [f64; TERMS_MAX], examples: u64) -> Vec<f64> {
        convert::means(&sums[..self.metrics], examples)
    }

    /// Reports the steps since the last report.
    pub(crate) fn flush(&mut self) {
        let since = std::mem::replace(&mut self.since, Interval::begin(self.ranks.len()));
        if self.writer.is_none() || since.examples == 0 {
            return;
        }
        let seconds = |micros: u64| micros as f64 / 1e6;
        let rank = |(rank, [compute, all_reduce, waiting]): (&Rank, [u64; 3])| RankSeconds {
            rank: rank.0,
            compute: seconds(compute),
            all_reduce: seconds(all_reduce),
            waiting: seconds(waiting),
        };
        let details = since.details.as_ref();
        let factor =
            |(name, value): &(&str, f64)| NamedValue { name: (*name).into(), value: *value };
        self.channel.events.send(Event::Report(Report {
            generation: self.generation.0,
            step: since.step,
            epoch: since.epoch,
            examples: since.examples,
            seconds: since.elapsed.as_secs_f64(),
            means: self.means(since.terms, since.examples),
            ranks: self.ranks.iter().zip(since.timings).map(rank).collect(),
            steps: since.steps,
            learning_rate: details.map(|details| details.learning_rate),
            factors: details.iter().flat_map(|details| &details.factors).map(factor).collect(),
            gradient_norm: details.map(|details| details.gradient_norm),
        }));
    }
}

impl Observer for Reporter<'_> {
    fn control(&self) -> Control {
        // If a file could not be written, pause: steps that cannot be saved are not computed. The
        // error is reported at the end of the generation.
        if self.writer.as_ref().is_some_and(|writer| writer.has_failed()) {
            self.channel.shared.request(Control::PAUSE);
        }
        self.channel.shared.requests()
    }

    fn wants_details(&self, is_last: bool) -> bool {
        // A step with details is reported. The first step of a generation is reported at once.
        let is_due = is_last || !self.has_reported || self.since.begun.elapsed() >= REPORT_INTERVAL;
        self.writer.is_some() && is_due
    }

    fn wants_state(&self) -> bool {
        self.channel.has_recipients()
    }

    fn memory_freed(&mut self) {
        transport::release_freed_blocks();
    }

    fn stepped(&mut self, step: &StepSummary<'_>, replica: &Replica, ledger: &Ledger) {
        self.channel.shared.note_step(step.step);
        self.epochs_seen.add(step);
        if replica.is_at_hand() && self.channel.has_recipients() {
            donate(self.channel.recipients(), replica, ledger);
        }
        if self.writer.is_none() {
            return;
        }
        let since = &mut self.since;
        (since.step, since.epoch) = (step.step, step.epoch);
        since.steps += 1;
        since.details.clone_from(&step.details);
        since.examples += step.tally.examples;
        since.elapsed += step.elapsed;
        for (sum, term) in since.terms.iter_mut().zip(step.tally.terms) {
            *sum += term;
        }
        for (sums, member) in since.timings.iter_mut().zip(step.contributions) {
            let Timing { compute_us, all_reduce_us, waiting_us } = member.timing;
            for (sum, time) in sums.iter_mut().zip([compute_us, all_reduce_us, waiting_us]) {
                *sum += u64::from(time);
            }
        }
        self.has_reported = true;
        if step.details.is_some() {
            self.flush();
        }
    }

    fn epoch_ended(&mut self, summary: &EpochSummary, replica: &Replica, ledger: &Ledger) {
        self.flush();
        let epoch = summary.epoch;
        let (train, test) = (&summary.train, &summary.test);
        let train = self.means(train.terms, train.examples);
        let test = self.means(test.terms, test.examples);
        self.epochs_seen.note_test(epoch, test.clone());
        let best = ledger.best_epoch();
        if let Some(writer) = &mut self.writer {
            self.channel.shared.enter(Phase::Saving);
            let is_best = self.keep_best && best.is_some_and(|(best, _)| best == epoch);
            let is_last = epoch == self.epochs || ledger.has_stalled(self.early_stop_epochs);
            if epoch.is_multiple_of(self.checkpoint_every) || is_last || is_best {
                writer.save(replica, ledger, self.epochs_seen.tests());
            }
            writer.show(epoch, replica);
            self.channel.shared.enter(Phase::Computing);
        }
        self.channel.events.send(Event::EpochReport(EpochReport {
            epoch,
            step: replica.step(),
            generation: self.generation.0,
            train,
            test,
            examples_by_epoch: ledger.epochs.iter().map(|epoch| epoch.examples).collect(),
            index_sum: summary.train.index_sum,
            examples: summary.train.examples,
            step_time: self.epochs_seen.time(epoch),
            validation_loss: summary.validation,
            best_epoch: best.map(|(epoch, _)| epoch),
            best_validation_loss: best.map(|(_, loss)| loss),
        }));
    }
}

/// Gives the state to other workers. Workers of this host get only its place, if it is in shared
/// memory.
pub(crate) fn donate(recipients: Vec<Recipient>, replica: &Replica, ledger: &Ledger) {
    let place = replica.place();
    let waiting = recipients.into_iter().filter(Recipient::waits);
    let (near, far): (Vec<_>, Vec<_>) =
        waiting.partition(|recipient| recipient.is_near && place.is_some());
    let give = |recipients: Vec<Recipient>, vectors: &dyn Fn() -> Vectors| {
        if recipients.is_empty() {
            return;
        }
        let snapshot = Arc::new(convert::to_snapshot(replica.view(), ledger, vectors()));
        for recipient in recipients {
            recipient.give(Arc::clone(&snapshot));
        }
    };
    give(near, &|| Vectors::Place(place.clone().unwrap_or_default()));
    give(far, &|| Vectors::Held(Arc::new(replica.snapshot())));
}
