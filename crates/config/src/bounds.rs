//! The bounds of the numbers in a configuration, each named as its flag.

use std::ops::RangeInclusive;

/// Members that compute together.
pub const WORKERS: RangeInclusive<u32> = 1..=4096;
/// Slices of a global batch.
pub const SHARDS: RangeInclusive<u32> = 1..=4096;
/// Images per shard and step.
pub const BATCH_SIZE: RangeInclusive<u32> = 1..=60_000;
/// Width of a layer, and dimensions of the latent space.
pub const DIM: RangeInclusive<u32> = 1..=1 << 16;
/// Passes over the training images, and numbers of them and of checkpoints.
pub const EPOCHS: RangeInclusive<u32> = 1..=1_000_000;
/// Epochs in which the weight of the KL divergence grows.
pub const WARMUP_EPOCHS: RangeInclusive<u32> = 0..=1_000_000;
/// Images of the training split.
pub const TRAIN_IMAGES: RangeInclusive<u32> = 1..=60_000;
/// Images of the test split.
pub const TEST_IMAGES: RangeInclusive<u32> = 1..=10_000;
/// Latents drawn an image.
pub const IMPORTANCE_SAMPLES: RangeInclusive<u32> = 1..=4096;

/// What a learning rate or a norm must be.
pub const POSITIVE: &str = "a positive number";
/// What a weight must be.
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
