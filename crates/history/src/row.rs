//! The rows of the metrics. [`crate::serialize`] writes them, [`crate::parse`] reads them.

use crate::Time;

/// The most ranks in a row.
pub const RANKS_MAX: usize = 64;

/// A row of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq)]
pub enum MetricsRow {
    /// Some steps: a report of the leader.
    Steps(StepsRow),
    /// An epoch that was completed. Each epoch is written once.
    Epoch(EpochRow),
}

/// The numbers of some steps, the last of which is `step`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepsRow {
    /// When the steps were reported.
    pub time: Option<Time>,
    /// The generation that trained.
    pub generation: u64,
    /// The epoch of the last step, from 1.
    pub epoch: u64,
    /// Updates done at the end of these steps.
    pub step: u64,
    /// The number of these steps.
    pub steps: Option<u64>,
    /// Examples that these steps trained on, over all members.
    pub examples: u64,
    /// Seconds that these steps took.
    pub seconds: Option<f64>,
    /// Examples a second in these steps.
    pub examples_per_second: Option<f64>,
    /// The task's metrics: means over the examples.
    pub values: Values,
    /// The smallest and the largest loss of the rows that were merged into this one.
    pub loss_range: Option<(f64, f64)>,
    /// The learning rate of the last step.
    pub learning_rate: Option<f64>,
    /// Other factors of the task's schedule in the last step, by name, such as `kl_weight`.
    pub factors: Values,
    /// Norm of the gradient of the last step, before clipping; in a merged row, the mean over the
    /// rows that were merged.
    pub gradient_norm: Option<f64>,
    /// The largest norm of the rows that were merged into this one.
    pub gradient_norm_max: Option<f64>,
    /// How the members spent their time, in rank order. With more than [`RANKS_MAX`] members, only
    /// those that computed longest.
    pub ranks: Vec<RankRow>,
    /// The number of members, if `ranks` does not list all.
    pub rank_count: Option<u64>,
}

/// The numbers of a member in some steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RankRow {
    /// The member.
    pub rank: u32,
    /// Seconds of computing gradients and updates.
    pub compute_seconds: f64,
    /// Seconds of moving and adding gradients.
    pub all_reduce_seconds: f64,
    /// Seconds blocked until others had computed.
    pub waiting_seconds: f64,
    /// Memory of the member's process at the end, in bytes.
    pub memory_bytes: Option<u64>,
}

/// The numbers of an epoch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EpochRow {
    /// When the epoch was reported.
    pub time: Option<Time>,
    /// The epoch, from 1.
    pub epoch: u64,
    /// Updates done at the end of the epoch.
    pub step: u64,
    /// The generation that trained the epoch's last step; none if no worker has reported it.
    pub generation: Option<u64>,
    /// Examples a second in the epoch's steps in which the reporting worker took part.
    pub examples_per_second: Option<f64>,
    /// Examples that the all-reduce has counted.
    pub examples_counted: Option<u64>,
    /// Sum of the indices of these examples.
    pub index_sum: Option<u64>,
    /// The task's metrics: means over the examples that were trained on.
    pub train: Values,
    /// The task's metrics: means over the test examples. Their names in the file begin with
    /// `test_`.
    pub test: Values,
    /// The mean loss of the training examples that are held out, if there are any.
    pub validation_loss: Option<f64>,
    /// Version of the coordinator that wrote the row.
    pub version: Option<String>,
}

impl MetricsRow {
    /// Updates done at the end of the steps or the epoch.
    #[must_use]
    pub fn step(&self) -> u64 {
        match self {
            Self::Steps(row) => row.step,
            Self::Epoch(row) => row.step,
        }
    }

    /// When the row was reported.
    #[must_use]
    pub fn time(&self) -> Option<Time> {
        match self {
            Self::Steps(row) => row.time,
            Self::Epoch(row) => row.time,
        }
    }
}

impl StepsRow {
    /// The loss: the first of the task's metrics.
    #[must_use]
    pub fn loss(&self) -> Option<f64> {
        self.values.first()
    }

    /// Seconds that the row's steps took; rows of older versions have only the rate.
    #[must_use]
    pub fn took(&self) -> Option<f64> {
        self.seconds.or(self.examples_per_second.map(|rate| self.examples as f64 / rate))
    }

    /// The step before the first of the row's steps.
    #[must_use]
    pub fn begin(&self) -> u64 {
        self.step.saturating_sub(self.steps.unwrap_or(1).max(1))
    }

    /// The number of members that took part.
    #[must_use]
    pub fn members(&self) -> u64 {
        self.rank_count.unwrap_or(self.ranks.len() as u64)
    }

    /// Sets the ranks, in rank order. If there are more than [`RANKS_MAX`], the row keeps those that
    /// computed longest.
    pub fn set_ranks(&mut self, mut ranks: Vec<RankRow>) {
        if ranks.len() > RANKS_MAX {
            self.rank_count = Some(self.members().max(ranks.len() as u64));
            ranks.sort_by(|one, other| other.compute_seconds.total_cmp(&one.compute_seconds));
            ranks.truncate(RANKS_MAX);
        }
        ranks.sort_by_key(|rank| rank.rank);
        self.ranks = ranks;
    }
}

/// Numbers by name, in order; a number that is not known is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values(Vec<(String, Option<f64>)>);

impl Values {
    /// The number with this name, if it is known.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(known, _)| known == name)?.1
    }

    /// The first number, if it is known.
    #[must_use]
    pub fn first(&self) -> Option<f64> {
        self.0.first()?.1
    }

    /// All names and numbers, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<f64>)> {
        self.0.iter().map(|(name, value)| (&name[..], *value))
    }

    /// Whether there are no names at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn push(&mut self, name: String, value: Option<f64>) {
        self.0.push((name, value));
    }
}

impl<N: Into<String>> FromIterator<(N, Option<f64>)> for Values {
    fn from_iter<I: IntoIterator<Item = (N, Option<f64>)>>(values: I) -> Self {
        Self(values.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_ranks_the_slowest_are_told_of() {
        let rank = |rank: u32| RankRow {
            rank,
            compute_seconds: f64::from(rank % 10),
            ..RankRow::default()
        };
        let mut row = StepsRow::default();
        row.set_ranks((0..640).rev().map(rank).collect());
        let told: Vec<u32> = row.ranks.iter().map(|rank| rank.rank).collect();
        assert_eq!(told, (0..64).map(|ten| ten * 10 + 9).collect::<Vec<_>>());
        assert_eq!((row.rank_count, row.members()), (Some(640), 640));
        let mut few = StepsRow::default();
        few.set_ranks((0..3).map(rank).collect());
        assert_eq!((few.ranks.len(), few.rank_count, few.members()), (3, None, 3));
    }
}
