//! A batch: some examples of a data set, by index.
//!
//! A batch borrows its indices and copies nothing; the model reads the examples that it needs. This file does not
//! know how the indices were chosen, or what an example is.

use crate::{Domain, Stream};

/// The bit that marks a test example in the key of its draws, so that they differ from those of the training example
/// of the same index. No data set has so many examples.
const TEST_MARK: u32 = 1 << 31;

/// Examples by index. An index stands for the same example on every worker, at any time.
pub trait Dataset: Send + Sync + 'static {
    /// The number of examples; every index is below it.
    fn count(&self) -> u32;
}

/// The two parts of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splits<D> {
    /// The examples to train on.
    pub train: D,
    /// The examples to evaluate on.
    pub test: D,
}

/// A pass over the data set: an epoch of training, or an evaluation. Draws for an example are keyed by the run's
/// seed, the pass and the example's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    seed: u64,
    epoch: u64,
    mark: u32,
}

impl Pass {
    /// An epoch of training; epochs count from 0.
    #[must_use]
    pub const fn train(seed: u64, epoch: u64) -> Self {
        Self { seed, epoch, mark: 0 }
    }

    /// An evaluation. All evaluations use the same draws, so their results can be compared.
    #[must_use]
    pub const fn test(seed: u64) -> Self {
        Self { seed, epoch: 0, mark: TEST_MARK }
    }

    /// The random stream of one example. It does not depend on the batch that holds the example.
    #[must_use]
    pub fn stream(&self, example: u32) -> Stream {
        Stream::new(self.seed, Domain::Pass, self.epoch, example | self.mark)
    }
}

/// Some examples of a data set, by their indices.
#[derive(Debug)]
pub struct Batch<'a, D> {
    /// The data set.
    pub data: &'a D,
    /// Indices of examples in the data set; each is below its count.
    pub indices: &'a [u32],
    /// The pass in which the examples are read.
    pub pass: Pass,
}

impl<D> Clone for Batch<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D> Copy for Batch<'_, D> {}

impl<'a, D> Batch<'a, D> {
    /// A batch that is read outside of a run, where no random numbers are drawn for the examples.
    pub const fn of(data: &'a D, indices: &'a [u32]) -> Self {
        Self { data, indices, pass: Pass::test(0) }
    }
}

impl<D> Batch<'_, D> {
    /// The number of examples.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether the batch has no examples, as a trailing shard of an epoch's last step may have none.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// The sum of the indices. The ledger uses it to check that every example was counted.
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
