//! The bounds of the options. Each has the name of its flag.

use std::ops::RangeInclusive;

/// Width of a layer, and number of dimensions of the latent space.
pub const DIM: RangeInclusive<u32> = 1..=1 << 16;
/// Epochs in which the weight of the KL divergence grows.
pub const KL_WARMUP_EPOCHS: RangeInclusive<u32> = 0..=1_000_000;
/// Latents drawn for each image.
pub const IMPORTANCE_SAMPLES: RangeInclusive<u32> = 1..=4096;

/// Pixels along a side of an image.
pub const IMAGE_SIDE: RangeInclusive<u32> = 1..=1024;

/// Numbers per pixel.
pub const IMAGE_CHANNELS: RangeInclusive<u32> = 1..=3;
