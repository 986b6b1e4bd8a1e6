//! Some examples of a set, as a model wants them.
//!
//! A batch is borrowed indices; nothing is copied until a model asks. It does not know how the indices were chosen, or
//! what an example is.

use crate::{Domain, Stream};

/// Keeps the draws of test examples apart from those of training examples; no set is that large.
const TEST_MARK: u32 = 1 << 31;

/// Examples by index: an index stands for the same example on every worker, always.
pub trait Dataset: Send + Sync + 'static {
    /// How many examples; indices are below it.
    fn count(&self) -> u32;
}

/// The two parts of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splits<D> {
    /// To learn from.
    pub train: D,
    /// To evaluate on.
    pub test: D,
}

/// When an example is looked at. What is drawn for it then is keyed by the run's seed, the visit and the example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visit {
    seed: u64,
    epoch: u64,
    mark: u32,
}

impl Visit {
    /// In an epoch of training, counted from 0.
    #[must_use]
    pub const fn train(seed: u64, epoch: u64) -> Self {
        Self { seed, epoch, mark: 0 }
    }

    /// In an evaluation: the draws of all evaluations are the same, so that these can be compared.
    #[must_use]
    pub const fn test(seed: u64) -> Self {
        Self { seed, epoch: 0, mark: TEST_MARK }
    }

    /// The draws of one example: they do not depend on the batch that it is in.
    #[must_use]
    pub fn stream(&self, example: u32) -> Stream {
        Stream::new(self.seed, Domain::Visit, self.epoch, example | self.mark)
    }
}

/// Examples by their indices.
#[derive(Debug)]
pub struct Batch<'a, D> {
    /// The set.
    pub data: &'a D,
    /// Into the set; each below its count.
    pub indices: &'a [u32],
    /// When they are looked at.
    pub visit: Visit,
}

impl<D> Clone for Batch<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D> Copy for Batch<'_, D> {}

impl<'a, D> Batch<'a, D> {
    /// Examples that are looked at outside of a run: nothing is drawn for them.
    pub const fn of(data: &'a D, indices: &'a [u32]) -> Self {
        Self { data, indices, visit: Visit::test(0) }
    }
}

impl<D> Batch<'_, D> {
    /// How many examples.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there are none: a trailing shard of an epoch's last step.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// The sum of the indices, for the ledger.
    pub fn index_sum(&self) -> u64 {
        self.indices.iter().map(|index| u64::from(*index)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_counts_its_indices() {
        let batch = Batch::of(&(), &[2, 0, 2]);
        assert_eq!((batch.len(), batch.is_empty(), batch.index_sum()), (3, false, 4));
        assert!(Batch::of(&(), &[]).is_empty());
    }
}
