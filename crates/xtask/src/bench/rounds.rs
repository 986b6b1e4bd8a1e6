//! Runs all jobs, round after round, and keeps their figures.
//!
//! Rounds are interleaved: jobs that are compared run within the same minute, so that a machine
//! that is slow for a while is slow for both. Every other round goes backwards, so that no job is
//! always the first. Does not know how a job is run.

use super::nearness::{self, Distance};
use super::plan::{Comparison, Row};
use super::statistics::Summary;
use super::subject::{Figure, Job, Quantity};
use super::table::number;
use crate::interrupt;
use anyhow::ensure;
use std::collections::BTreeMap;
use std::time::Instant;

/// A job is not tried again after so many failures.
const FAILURES_MAX: u32 = 2;

/// Every figure of every round.
#[derive(Debug, Default)]
pub(super) struct Figures {
    rounds: usize,
    /// A value for each round; none if the job failed in that round, or did not run in it.
    values: BTreeMap<Figure, Vec<Option<f64>>>,
    /// The reason of each job's last failure.
    pub(super) failures: BTreeMap<Job, String>,
}

impl Figures {
    fn put(&mut self, round: usize, job: Job, found: Vec<(Quantity, f64)>) {
        for (quantity, value) in found {
            let values = self.values.entry((job, quantity)).or_default();
            values.resize(round + 1, None);
            values[round] = Some(value);
        }
        self.rounds = self.rounds.max(round + 1);
    }

    /// Sets a figure's values to those of earlier rounds.
    pub(super) fn restore(&mut self, figure: Figure, values: Vec<Option<f64>>) {
        self.rounds = self.rounds.max(values.len());
        self.values.insert(figure, values);
    }

    /// The number of measurements of the figure that was measured most often.
    pub(super) fn rounds(&self) -> usize {
        let counts = self.values.values().map(|values| values.iter().flatten().count());
        counts.max().unwrap_or(0)
    }

    /// Whether there are figures of a job.
    pub(super) fn has(&self, job: Job) -> bool {
        self.rounds_of(job) > 0
    }

    /// The number of rounds up to a job's last measurement.
    fn rounds_of(&self, job: Job) -> usize {
        let figures = self.values.iter().filter(|((of, _), _)| *of == job);
        figures.map(|(_, values)| values.len()).max().unwrap_or(0)
    }

    /// The jobs that have figures.
    pub(super) fn jobs(&self) -> Vec<Job> {
        let mut jobs: Vec<Job> = self.values.keys().map(|(job, _)| *job).collect();
        jobs.dedup();
        jobs
    }

    /// The figures of those rounds in which the cores were at this distance.
    pub(super) fn only(&self, distance: Distance) -> Figures {
        let mut only = Figures { rounds: self.rounds, ..Figures::default() };
        for job in self.jobs() {
            let distances = nearness::of_rounds(self, job);
            let figures = self.all().filter(|((of, _), _)| *of == job);
            only.values.extend(figures.map(|(figure, values)| {
                let pairs = values.into_iter().zip(&distances);
                let kept = pairs.map(|(value, found)| value.filter(|_| *found == Some(distance)));
                (figure, kept.collect())
            }));
        }
        only
    }

    /// The median of a figure's rounds.
    pub(super) fn median(&self, figure: Figure) -> Option<f64> {
        Some(Summary::of(self.of(figure).into_iter().flatten())?.median)
    }

    /// All figures, in order, each with its value in each round.
    pub(super) fn all(&self) -> impl Iterator<Item = (Figure, Vec<Option<f64>>)> {
        self.values.keys().map(|figure| (*figure, self.of(*figure)))
    }

    /// A figure's value in each round.
    pub(super) fn of(&self, figure: Figure) -> Vec<Option<f64>> {
        let mut values = self.values.get(&figure).cloned().unwrap_or_default();
        values.resize(self.rounds, None);
        values
    }

    /// The ratio of the medians.
    pub(super) fn ratio(&self, ours: Figure, comparison: &Comparison) -> Option<f64> {
        let other = comparison.other().and_then(|(figure, _)| self.median(figure));
        comparison.ratio(self.median(ours)?, other)
    }

    /// The ratio in each round.
    pub(super) fn ratios(&self, ours: Figure, comparison: &Comparison) -> Vec<Option<f64>> {
        let ours = self.of(ours);
        let others = match comparison.other() {
            Some((figure, _)) => self.of(figure),
            None => vec![None; ours.len()],
        };
        let pairs = ours.into_iter().zip(others);
        pairs.map(|(ours, other)| comparison.ratio(ours?, other)).collect()
    }

    /// The reasons of failures of the row's jobs.
    pub(super) fn reasons(&self, row: &Row) -> Vec<String> {
        let failed = row.jobs().into_iter();
        failed.filter_map(|job| Some(format!("{job}: {}", self.failures.get(&job)?))).collect()
    }
}

/// Runs the jobs for `rounds` more rounds. A failure is noted, and the other jobs continue; Ctrl-C
/// is an error.
pub(super) fn run(
    figures: &mut Figures,
    jobs: &[Job],
    rounds: usize,
    mut measure: impl FnMut(Job) -> anyhow::Result<Vec<(Quantity, f64)>>,
) -> anyhow::Result<()> {
    let mut failures: BTreeMap<Job, u32> = BTreeMap::new();
    let first = jobs.iter().map(|job| figures.rounds_of(*job)).max().unwrap_or(0);
    for round in first..first + rounds {
        let mut order = jobs.to_vec();
        if round % 2 == 1 {
            order.reverse();
        }
        for job in order {
            let failed = failures.entry(job).or_default();
            if *failed >= FAILURES_MAX || (job.is_once() && figures.has(job)) {
                continue;
            }
            let begun = Instant::now();
            let outcome = measure(job);
            ensure!(!interrupt::seen(), "interrupted");
            let told = match outcome {
                Ok(found) => {
                    let first = found.first().map(|(quantity, value)| tell(*quantity, *value));
                    figures.put(round, job, found);
                    first.unwrap_or_default()
                }
                Err(error) => {
                    *failed += 1;
                    let reason = format!("{error:#}");
                    figures.failures.insert(job, reason.clone());
                    format!("failed: {reason}")
                }
            };
            let seconds = begun.elapsed().as_secs();
            stdout::say!("round {} of {}, {job}: {told} ({seconds} s)", round + 1, first + rounds);
        }
    }
    Ok(())
}

/// A figure in the line that is printed after each job.
fn tell(quantity: Quantity, value: f64) -> String {
    match quantity {
        Quantity::ImagesPerSecond => format!("{} images/s", number(value)),
        Quantity::Milliseconds { .. } => "done".to_owned(),
        other => format!("{} {other}", number(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::subject::Transport;
    use anyhow::bail;

    const GOOD: Job = Job::Exchange(Transport::Shm);
    const BAD: Job = Job::Exchange(Transport::Gloo);

    #[test]
    fn a_job_that_fails_does_not_stop_the_others_and_is_given_up() {
        let mut calls = Vec::new();
        let mut figures = Figures::default();
        run(&mut figures, &[GOOD, BAD, Job::LongRun], 3, |job| {
            calls.push(job);
            match job {
                BAD => bail!("no such thing"),
                _ => Ok(vec![(Quantity::Steps, calls.len() as f64)]),
            }
        })
        .unwrap();
        // Every other round goes backwards; the long run has one turn, a failure two.
        assert_eq!(calls, [GOOD, BAD, Job::LongRun, BAD, GOOD, GOOD]);
        assert_eq!(figures.of((GOOD, Quantity::Steps)), [Some(1.0), Some(5.0), Some(6.0)]);
        assert_eq!(figures.of((Job::LongRun, Quantity::Steps)), [Some(3.0), None, None]);
        assert_eq!(figures.of((BAD, Quantity::Steps)), [None; 3]);
        assert_eq!(figures.failures[&BAD], "no such thing");
    }

    #[test]
    fn rounds_that_are_added_come_after_those_before() {
        let mut figures = Figures::default();
        figures.restore((GOOD, Quantity::Steps), vec![Some(1.0)]);
        figures.restore((Job::LongRun, Quantity::Steps), vec![Some(2.0)]);
        let mut calls = Vec::new();
        run(&mut figures, &[GOOD, BAD, Job::LongRun], 1, |job| {
            calls.push(job);
            Ok(vec![(Quantity::Steps, 3.0)])
        })
        .unwrap();
        // The second round goes backwards; the long run is done once only, and was done before.
        assert_eq!(calls, [BAD, GOOD]);
        assert_eq!(figures.of((GOOD, Quantity::Steps)), [Some(1.0), Some(3.0)]);
        assert_eq!(figures.of((BAD, Quantity::Steps)), [None, Some(3.0)]);
    }

    #[test]
    fn ratios_are_of_one_round_each() {
        let mut figures = Figures::default();
        let figure = (GOOD, Quantity::Steps);
        let other = (BAD, Quantity::Steps);
        figures.put(0, GOOD, vec![(Quantity::Steps, 6.0)]);
        figures.put(0, BAD, vec![(Quantity::Steps, 2.0)]);
        figures.put(1, GOOD, vec![(Quantity::Steps, 4.0)]);
        let comparison = Comparison::Rate(other, "theirs");
        assert_eq!(figures.ratios(figure, &comparison), [Some(3.0), None]);
        // The ratio of the medians uses every round: 5 over 2.
        assert_eq!(figures.ratio(figure, &comparison), Some(2.5));
    }
}
