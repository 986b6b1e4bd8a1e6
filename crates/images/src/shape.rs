//! The shape of the images of a set: height, width and channels.

use std::fmt;

/// The longest side of an example. Larger images are photographs and must be scaled.
pub(crate) const SIDE_MAX: u32 = 1024;

/// The shape of each image of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows.
    pub height: u32,
    /// Pixels in a row.
    pub width: u32,
    /// Numbers of a pixel: 1 for grey; 3 for red, green and blue.
    pub channels: u32,
}

impl Shape {
    /// A grey shape.
    #[must_use]
    pub const fn grey(height: u32, width: u32) -> Self {
        Self { height, width, channels: 1 }
    }

    /// Whether the sides and the channels are within their bounds.
    #[must_use]
    pub const fn is_valid(&self) -> bool {
        let sides = self.height >= 1 && self.width >= 1;
        let bounded = self.height <= SIDE_MAX && self.width <= SIDE_MAX;
        sides && bounded && (self.channels == 1 || self.channels == 3)
    }

    /// The bytes of an image: one per pixel and channel.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.height as usize * self.width as usize * self.channels as usize
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let colour = if self.channels == 1 { "grey" } else { "RGB" };
        write!(formatter, "{} x {} {colour}", self.height, self.width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_told_in_words_and_bounded() {
        assert_eq!(Shape::grey(28, 30).to_string(), "28 x 30 grey");
        let rgb = Shape { channels: 3, ..Shape::grey(64, 64) };
        assert_eq!((rgb.to_string(), rgb.bytes()), ("64 x 64 RGB".into(), 12_288));
        assert!(rgb.is_valid() && Shape::grey(1, SIDE_MAX).is_valid());
        for wrong in [Shape::grey(0, 1), Shape::grey(1, SIDE_MAX + 1), Shape { channels: 2, ..rgb }]
        {
            assert!(!wrong.is_valid(), "{wrong:?}");
        }
    }
}
