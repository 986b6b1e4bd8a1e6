//! The sizes of the convolutional network, without its arithmetic; see `conv.rs` of the crate `vae`.

use crate::{ImageShape, Likelihood, ModelConfig};

/// Channels of the first level; each further one has twice as many, up to the most.
const CHANNELS: u32 = 32;
const CHANNELS_MOST: u32 = 128;

/// Channels of the decoder at the full size.
pub const LAST_CHANNELS: u32 = 16;

/// The sides are halved until none is longer than this.
const SIDE_MOST: u32 = 8;

/// Width of the dense layers between the smallest level and the latents.
pub const DENSE: u32 = 256;

/// Side of the convolutions that halve the sides, and of those that double them.
pub const KERNEL: u32 = 4;

/// Side of the convolution that gives the pixels.
pub const LAST_KERNEL: u32 = 3;

/// A level: its channels, and the sides of what it gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Channels.
    pub channels: u32,
    /// Height and width.
    pub sides: [u32; 2],
}

impl Level {
    /// How many numbers it gives.
    #[must_use]
    pub fn numbers(&self) -> u64 {
        self.sides.iter().fold(u64::from(self.channels), |all, side| all * u64::from(*side))
    }
}

/// The levels of the encoder, the largest first; the decoder goes the same way back.
#[must_use]
pub fn levels([height, width, _]: ImageShape) -> Vec<Level> {
    let halved = |sides: [u32; 2]| sides.map(|side| (side / 2).max(1));
    let mut levels = vec![Level { channels: CHANNELS, sides: halved([height, width]) }];
    while let Some(last) = levels.last().filter(|l| l.sides.iter().any(|side| *side > SIDE_MOST)) {
        let channels = (2 * last.channels).min(CHANNELS_MOST);
        levels.push(Level { channels, sides: halved(last.sides) });
    }
    levels
}

/// The number of trained parameters.
pub(crate) fn parameters(config: &ModelConfig) -> u64 {
    let layer = |inputs: u64, outputs: u64| (inputs + 1) * outputs;
    let (levels, latent, dense) =
        (levels(config.image), u64::from(config.latent_dim), u64::from(DENSE));
    let (area, last_area) = (u64::from(KERNEL * KERNEL), u64::from(LAST_KERNEL * LAST_KERNEL));
    let (colours, last) = (u64::from(config.image[2]), u64::from(LAST_CHANNELS));
    let mut count = layer(last_area * last, colours);
    let mut larger = [colours, last];
    for level in &levels {
        let channels = u64::from(level.channels);
        // A convolution each way, and a norm after each.
        count += layer(area * larger[0], channels) + 2 * channels;
        count += area * channels * larger[1] + larger[1] + 2 * larger[1];
        larger = [channels; 2];
    }
    let features = levels.last().map_or(0, Level::numbers);
    count += layer(features, dense) + layer(dense, 2 * latent);
    count += layer(latent, dense) + layer(dense, features);
    count + u64::from(config.likelihood == Likelihood::Gaussian)
}

/// Bytes of one example in a batch, at the least: what the levels give, both ways.
pub(crate) fn example_bytes(image: ImageShape) -> u64 {
    let pixels = u64::from(image[0]) * u64::from(image[1]);
    let levels: u64 = levels(image).iter().map(Level::numbers).sum();
    4 * (2 * 3 * levels + 3 * u64::from(LAST_CHANNELS) * pixels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_halved_until_they_are_short() {
        let sides = |image| levels(image).iter().map(|l| (l.channels, l.sides)).collect::<Vec<_>>();
        assert_eq!(sides([28, 28, 1]), [(32, [14, 14]), (64, [7, 7])]);
        let expected = [(32, [32, 16]), (64, [16, 8]), (128, [8, 4])];
        assert_eq!(sides([64, 33, 3]), expected);
    }
}
