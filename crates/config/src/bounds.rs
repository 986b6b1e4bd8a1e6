//! The bounds of the numbers in a configuration; each constant has the name of its flag.

use std::ops::RangeInclusive;

/// Members that compute together.
pub const WORKERS: RangeInclusive<u32> = 1..=4096;
/// Slices of a global batch.
pub const SHARDS: RangeInclusive<u32> = 1..=4096;
/// Examples per shard and step.
pub const BATCH_SIZE: RangeInclusive<u32> = 1..=1 << 20;
/// Passes over the training examples; also numbers of checkpoints.
pub const EPOCHS: RangeInclusive<u32> = 1..=1_000_000;
/// Examples of a part of a data set.
pub const EXAMPLES: RangeInclusive<u32> = 1..=u32::MAX >> 1;
/// Threads of a worker.
pub const THREADS: RangeInclusive<u32> = 1..=1024;

/// The bound of a learning rate or a norm, in words.
pub const POSITIVE: &str = "a positive number";
/// The bound of a weight, in words.
pub const NOT_NEGATIVE: &str = "a number that is not negative";

/// Whether a number is [`POSITIVE`].
#[must_use]
pub fn is_positive(number: f64) -> bool {
    number.is_finite() && number > 0.0
}

/// Whether a number is [`NOT_NEGATIVE`].
#[must_use]
pub fn is_not_negative(number: f64) -> bool {
    number.is_finite() && number >= 0.0
}
