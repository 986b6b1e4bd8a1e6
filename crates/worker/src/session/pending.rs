//! Reports that the coordinator may not have recorded yet. After a reconnection the worker sends the
//! reports that the coordinator lacks.
//!
//! Sent reports are kept for a while too, because a coordinator that dies loses messages that it has
//! not read.

use std::collections::VecDeque;

use protocol::wire::{
    EpochReport, RankSeconds, Ready, Recorded, Report, worker_message::Body as WorkerMsg,
};

/// The most reports of epochs that are kept; older ones are dropped.
const EPOCHS_MAX: usize = 1024;

/// The most sent reports of steps that are kept: more than can be under way to a silent coordinator
/// before it counts as lost.
const SENT_MAX: usize = 256;

/// The most reports of steps that wait while the coordinator is away. If there are more, each two
/// neighbours are merged.
const UNSENT_MAX: usize = 512;

/// Reports that wait for the coordinator.
#[derive(Debug, Default)]
pub(super) struct PendingReports {
    /// The state after the last generation.
    pub(super) ready: Option<Ready>,
    epochs: VecDeque<EpochReport>,
    sent: VecDeque<Report>,
    unsent: Vec<Report>,
}

impl PendingReports {
    /// Keeps the report of an epoch. The previous report then drops its counts of all epochs, because
    /// the newest report has them.
    pub(super) fn keep_epoch(&mut self, report: &EpochReport) {
        if let Some(newest) = self.epochs.back_mut() {
            if newest.epoch >= report.epoch {
                return;
            }
            newest.examples_by_epoch = Vec::new();
        }
        self.epochs.push_back(report.clone());
        drop_oldest(&mut self.epochs, EPOCHS_MAX);
    }

    /// Keeps the report of some steps. `is_sent` tells whether it is sent now.
    pub(super) fn keep_steps(&mut self, report: &Report, is_sent: bool) {
        if is_sent {
            self.sent.push_back(report.clone());
            drop_oldest(&mut self.sent, SENT_MAX);
            return;
        }
        self.unsent.push(report.clone());
        if self.unsent.len() > UNSENT_MAX {
            let halved = self.unsent.chunks(2).flat_map(|pair| match pair {
                [one, other] if one.generation == other.generation => vec![merged(one, other)],
                apart => apart.to_vec(),
            });
            self.unsent = halved.collect();
        }
    }

    /// The reports that the coordinator lacks, after it has `recorded` so much, in the order of their
    /// steps. They count as sent from now on.
    pub(super) fn lacking(&mut self, recorded: &Recorded) -> Vec<WorkerMsg> {
        self.sent.extend(self.unsent.drain(..));
        let last = (recorded.generation, recorded.step);
        self.sent.retain(|report| (report.generation, report.step) > last);
        self.epochs.retain(|report| report.epoch > recorded.epoch);
        // The report of an epoch comes after those of its last steps.
        let steps = self.sent.iter().map(|r| ((r.step, 0), WorkerMsg::Report(r.clone())));
        let epochs = self.epochs.iter().map(|r| ((r.step, 1), WorkerMsg::EpochReport(r.clone())));
        let mut lacking: Vec<_> = steps.chain(epochs).collect();
        lacking.sort_by_key(|(place, _)| *place);
        drop_oldest(&mut self.sent, SENT_MAX);
        lacking.into_iter().map(|(_, message)| message).collect()
    }
}

fn drop_oldest<T>(reports: &mut VecDeque<T>, max: usize) {
    let surplus = reports.len().saturating_sub(max);
    reports.drain(..surplus);
}

/// Merges two reports of consecutive steps.
fn merged(one: &Report, other: &Report) -> Report {
    let examples = one.examples + other.examples;
    let share = |report: &Report| report.examples as f64 / examples.max(1) as f64;
    let mean = |(a, b): (&f64, &f64)| a * share(one) + b * share(other);
    let rank = |(one, other): (&RankSeconds, &RankSeconds)| RankSeconds {
        rank: other.rank,
        compute: one.compute + other.compute,
        all_reduce: one.all_reduce + other.all_reduce,
        waiting: one.waiting + other.waiting,
    };
    Report {
        examples,
        seconds: one.seconds + other.seconds,
        means: one.means.iter().zip(&other.means).map(mean).collect(),
        ranks: one.ranks.iter().zip(&other.ranks).map(rank).collect(),
        steps: one.steps + other.steps,
        ..other.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(step: u64) -> Report {
        let means = vec![step as f64, 0.0];
        let ranks = vec![RankSeconds { rank: 3, compute: 0.5, ..RankSeconds::default() }];
        let (examples, seconds) = (10, 1.0);
        let (generation, epoch, steps) = (1, 1, 1);
        Report {
            generation,
            step,
            examples,
            seconds,
            means,
            ranks,
            epoch,
            steps,
            ..Report::default()
        }
    }

    fn epoch(epoch: u64) -> EpochReport {
        let examples_by_epoch = vec![10; usize::try_from(epoch).unwrap()];
        EpochReport { epoch, step: 10 * epoch, examples_by_epoch, ..EpochReport::default() }
    }

    /// The steps of the reports; negative for reports of epochs.
    fn places(said: &[WorkerMsg]) -> Vec<i64> {
        let place = |said: &WorkerMsg| match said {
            WorkerMsg::Report(report) => report.step.cast_signed(),
            WorkerMsg::EpochReport(report) => -report.step.cast_signed(),
            other => panic!("{other:?}"),
        };
        said.iter().map(place).collect()
    }

    #[test]
    fn what_is_lacking_is_sent_in_order_also_if_it_was_sent_before() {
        let mut pending = PendingReports::default();
        for step in [5, 10, 15, 20, 25] {
            pending.keep_steps(&steps(step), step <= 15);
        }
        [1, 2].iter().for_each(|number| pending.keep_epoch(&epoch(*number)));
        let recorded = Recorded { epoch: 0, generation: 1, step: 5 };
        assert_eq!(places(&pending.lacking(&recorded)), [10, -10, 15, 20, -20, 25]);
        // The coordinator may have died again before it read them.
        let recorded = Recorded { epoch: 1, generation: 1, step: 15 };
        assert_eq!(places(&pending.lacking(&recorded)), [20, -20, 25]);
        let recorded = Recorded { epoch: 2, generation: 2, step: 1 };
        assert_eq!(places(&pending.lacking(&recorded)), [0; 0]);
    }

    #[test]
    fn an_epoch_is_kept_once_and_only_the_newest_has_all_counts() {
        let mut pending = PendingReports::default();
        [1, 1, 2, 2, 3].iter().for_each(|number| pending.keep_epoch(&epoch(*number)));
        let counts = |said: &WorkerMsg| match said {
            WorkerMsg::EpochReport(report) => report.examples_by_epoch.len(),
            other => panic!("{other:?}"),
        };
        let lacking = pending.lacking(&Recorded::default());
        assert_eq!(lacking.iter().map(counts).collect::<Vec<_>>(), [0, 0, 3]);
    }

    #[test]
    fn however_long_the_coordinator_is_away_memory_is_bounded_and_sums_are_kept() {
        let mut pending = PendingReports::default();
        let count = 10 * UNSENT_MAX as u64;
        for step in 1..=count {
            pending.keep_steps(&steps(step), false);
            pending.keep_epoch(&epoch(step));
            assert!(pending.unsent.len() <= UNSENT_MAX && pending.epochs.len() <= EPOCHS_MAX);
        }
        let (mut examples, mut loss, mut compute) = (0, 0.0, 0.0);
        for said in pending.lacking(&Recorded::default()) {
            if let WorkerMsg::Report(report) = said {
                examples += report.examples;
                loss += report.means[0] * report.examples as f64;
                compute += report.ranks[0].compute;
            }
        }
        assert_eq!(examples, 10 * count);
        let sum = (10 * count * (count + 1) / 2) as f64;
        assert!((loss - sum).abs() < 1e-9 * sum, "{loss}");
        assert!((compute - 0.5 * count as f64).abs() < 1e-6, "{compute}");
    }
}
