//! The rows of the metrics. How they are written is in [`crate::serialize`], how they are read in
//! [`crate::parse`].

use crate::Time;

/// Ranks that a row tells of at the most.
pub const RANKS_MAX: usize = 64;

/// A row of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq)]
pub enum MetricsRow {
    /// Some steps: a report of the worker that leads.
    Steps(StepsRow),
    /// An epoch that was completed. Each epoch is written once.
    Epoch(EpochRow),
}

/// What is known of some steps, the last of which is `step`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepsRow {
    /// When it was reported.
    pub time: Option<Time>,
    /// The generation that trained.
    pub generation: u64,
    /// The epoch of the last step, from 1.
    pub epoch: u64,
    /// Updates that the state has seen.
    pub step: u64,
    /// The number of steps that the row is of.
    pub steps: Option<u64>,
    /// Examples that these steps trained on, of all members.
    pub examples: u64,
    /// Seconds that these steps took.
    pub seconds: Option<f64>,
    /// Examples a second in these steps.
    pub examples_per_second: Option<f64>,
    /// The task's metrics: means over the examples.
    pub values: Values,
    /// The least and the largest loss of the rows that became this one by thinning.
    pub loss_range: Option<(f64, f64)>,
    /// The learning rate of the last step.
    pub learning_rate: Option<f64>,
    /// Other numbers of the task's schedule in the last step, by name, as `kl_weight`.
    pub factors: Values,
    /// Norm of the gradient of the last step, before it was clipped; the mean over the rows that
    /// became this one by thinning.
    pub gradient_norm: Option<f64>,
    /// The largest norm of the rows that became this one by thinning.
    pub gradient_norm_max: Option<f64>,
    /// Where the members' time went, in rank order; of more than [`RANKS_MAX`], those that computed
    /// longest.
    pub ranks: Vec<RankRow>,
    /// The number of members, where the row does not tell of all.
    pub rank_count: Option<u64>,
}

/// What is known of a member in some steps.
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

/// What is known of an epoch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EpochRow {
    /// When it was reported.
    pub time: Option<Time>,
    /// The epoch, from 1.
    pub epoch: u64,
    /// Updates that the state has seen at its end.
    pub step: u64,
    /// The generation that trained its last step; none if no worker has told.
    pub generation: Option<u64>,
    /// Examples a second in the epoch's steps that its reporter took part in.
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
    /// The mean loss of the training examples that are held out, where there are any.
    pub validation_loss: Option<f64>,
    /// Version of the coordinator that wrote the row.
    pub version: Option<String>,
}

impl MetricsRow {
    /// Updates that the state has seen.
    #[must_use]
    pub fn step(&self) -> u64 {
        match self {
            Self::Steps(row) => row.step,
            Self::Epoch(row) => row.step,
        }
    }

    /// When it was reported.
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

    /// Seconds that the row's steps took; older rows tell the rate alone.
    #[must_use]
    pub fn took(&self) -> Option<f64> {
        self.seconds.or(self.examples_per_second.map(|rate| self.examples as f64 / rate))
    }

    /// The step after which the row's steps begin.
    #[must_use]
    pub fn begin(&self) -> u64 {
        self.step.saturating_sub(self.steps.unwrap_or(1).max(1))
    }

    /// The number of members that took part.
    #[must_use]
    pub fn members(&self) -> u64 {
        self.rank_count.unwrap_or(self.ranks.len() as u64)
    }

    /// Sets the ranks, of which the row keeps those that computed longest, in rank order.
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

/// Numbers by name, in order; none where one is not known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values(Vec<(String, Option<f64>)>);

impl Values {
    /// The number of that name, if it is known.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(known, _)| known == name)?.1
    }

    /// The first number, if it is known.
    #[must_use]
    pub fn first(&self) -> Option<f64> {
        self.0.first()?.1
    }

    /// All of them in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<f64>)> {
        self.0.iter().map(|(name, value)| (&name[..], *value))
    }

    /// Whether there is none, known or not.
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
