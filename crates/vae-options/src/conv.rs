//! The sizes of the convolutional network: its levels with their sides and channels, and its parameters.
//!
//! Each level of the encoder halves the sides and doubles the channels; the decoder reverses
//! this. The layers themselves are in the crate `vae-conv`, their exports in the crate `latent`.

use std::ops::RangeInclusive;

use crate::{ImageShape, Likelihood, ModelConfig};

/// Pixels along a side of an image that the network accepts.
pub const IMAGE_SIDE: RangeInclusive<u32> = 8..=256;

/// Kernel side, stride and padding of the convolutions that halve the sides, and of those that double them.
pub const KERNEL: u32 = 4;
/// The stride; see [`KERNEL`].
pub const STRIDE: u32 = 2;
/// The padding; see [`KERNEL`]. The decoder's last convolution has the same padding.
pub const PADDING: u32 = 1;
/// Kernel side of the decoder's last convolution, which keeps the sides.
pub const LAST_KERNEL: u32 = 3;

/// Channels of a group, which is normalised together.
pub const GROUP: u32 = 8;

/// Channels of the first level. Each further level has twice as many, up to `CHANNELS_MOST`.
const CHANNELS: u32 = 32;
const CHANNELS_MOST: u32 = 128;

/// Channels of the decoder at the image's own size.
const LAST_CHANNELS: u32 = 16;

/// The sides are halved until none is longer than this.
const SIDE_MOST: u32 = 8;

/// Tensors that libtorch keeps for each normalised level until the backward pass: the outputs of the convolution,
/// of the norm and of the activation.
const KEPT: u64 = 3;

/// A level: its channels, and the sides of its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// The number of channels.
    pub channels: u32,
    /// Height and width.
    pub sides: [u32; 2],
}

impl Level {
    /// The numbers of its output for one image.
    #[must_use]
    pub const fn numbers(&self) -> u64 {
        self.channels as u64 * self.sides[0] as u64 * self.sides[1] as u64
    }
}

/// The levels of the network for images of one shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels {
    image: Level,
    below: Vec<Level>,
}

impl Levels {
    /// The levels for images of this shape.
    #[must_use]
    pub fn of([height, width, channels]: ImageShape) -> Self {
        let image = Level { channels, sides: [height, width] };
        let half = |side: u32| (side / STRIDE).max(1);
        let mut below = vec![Level { channels: CHANNELS, sides: image.sides.map(half) }];
        while let Some(last) =
            below.last().filter(|level| level.sides.iter().max() > Some(&SIDE_MOST))
        {
            let channels = (2 * last.channels).min(CHANNELS_MOST);
            below.push(Level { channels, sides: last.sides.map(half) });
        }
        Self { image, below }
    }

    /// The image as a level.
    #[must_use]
    pub const fn image(&self) -> Level {
        self.image
    }

    /// The outputs of the encoder's convolutions, the largest first.
    #[must_use]
    pub fn below(&self) -> &[Level] {
        &self.below
    }

    /// The last level of [`Levels::below`].
    #[must_use]
    pub fn smallest(&self) -> Level {
        self.below.last().copied().unwrap_or(self.image)
    }

    /// The level that the decoder makes from level `number` of [`Levels::below`].
    #[must_use]
    pub fn above(&self, number: usize) -> Level {
        let larger = number.checked_sub(1).and_then(|number| self.below.get(number));
        larger.copied().unwrap_or(Level { channels: LAST_CHANNELS, ..self.image })
    }

    /// The rows and columns that the decoder adds at the bottom and at the right on the way from level `number`
    /// to the level above: half of an odd side was rounded down.
    #[must_use]
    pub fn missing(&self, number: usize) -> [u32; 2] {
        let (below, above) = (self.below[number], self.above(number));
        [0, 1].map(|side| above.sides[side].saturating_sub(STRIDE * below.sides[side]))
    }

    /// The number of trained parameters of the network.
    pub(crate) fn parameters(&self, config: &ModelConfig) -> u64 {
        let layer = |inputs: u64, outputs: u64| (inputs + 1) * outputs;
        let convolution = |kernel: u32, inputs: u32, outputs: u32| {
            layer(u64::from(inputs) * u64::from(kernel * kernel), outputs.into())
        };
        // A group norm has a factor and an addend for each channel.
        let normalised = |inputs: u32, outputs: u32| {
            convolution(KERNEL, inputs, outputs) + 2 * u64::from(outputs)
        };
        let above = |number| self.above(number).channels;
        let convolutions: u64 = (0..self.below.len())
            .map(|number| {
                let channels = self.below[number].channels;
                let inputs = if number == 0 { self.image.channels } else { above(number) };
                normalised(inputs, channels) + normalised(channels, above(number))
            })
            .sum();
        let last = convolution(LAST_KERNEL, LAST_CHANNELS, self.image.channels);
        let (hidden, latent) = (u64::from(config.hidden_dim), u64::from(config.latent_dim));
        let features = self.smallest().numbers();
        let dense = layer(features, hidden)
            + layer(hidden, 2 * latent)
            + layer(latent, hidden)
            + layer(hidden, features);
        let variance = u64::from(config.likelihood == Likelihood::Gaussian);
        convolutions + last + dense + variance
    }

    /// The fewest numbers that a step keeps for an image, and for each of its latents, until the
    /// gradient is computed.
    pub(crate) fn kept(&self, hidden_dim: u32) -> (u64, u64) {
        let encoder: u64 = self.below.iter().map(Level::numbers).sum();
        let decoder: u64 = (0..self.below.len()).map(|number| self.above(number).numbers()).sum();
        let (image, dense) = (self.image.numbers(), u64::from(hidden_dim));
        (image + KEPT * encoder + 2 * dense, image + KEPT * decoder + 2 * dense)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sides(image: ImageShape) -> Vec<(u32, [u32; 2])> {
        Levels::of(image).below().iter().map(|level| (level.channels, level.sides)).collect()
    }

    #[test]
    fn sides_are_halved_until_they_are_short() {
        assert_eq!(sides([28, 28, 1]), [(32, [14, 14]), (64, [7, 7])]);
        assert_eq!(sides([8, 8, 1]), [(32, [4, 4])]);
        assert_eq!(sides([29, 64, 3]), [(32, [14, 32]), (64, [7, 16]), (128, [3, 8])]);
        assert_eq!(sides([256, 256, 3]).last(), Some(&(128, [8, 8])));
    }

    #[test]
    fn the_decoder_has_what_was_rounded_off() {
        let levels = Levels::of([29, 38, 3]);
        assert_eq!([0, 1, 2].map(|number| levels.missing(number)), [[1, 0], [0, 1], [1, 1]]);
        assert_eq!(levels.above(0), Level { channels: 16, sides: [29, 38] });
        assert_eq!(levels.above(2), levels.below()[1]);
    }
}
