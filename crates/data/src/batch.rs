//! Some images of a set, as a model wants them.
//!
//! A batch is borrowed indices; nothing is copied until a model asks. It does not know how the indices were chosen.

use crate::{Domain, Images, PIXELS, Stream};

/// The value of a white pixel.
const WHITE: f32 = 255.0;

/// Words of a block of a stream.
const WORDS: usize = 4;
/// Keeps the draws of test images apart from those of training images; no set is that large.
const TEST_MARK: u32 = 1 << 31;

/// When an image is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// In an epoch of training, from 0.
    Train {
        /// Which.
        epoch: u64,
    },
    /// In an evaluation; the same draw in all, so that they can be compared.
    Test,
}

/// Images by their indices.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The set.
    pub images: &'a Images,
    /// Into the set; each below `images.len()`.
    pub indices: &'a [u32],
}

impl Batch<'_> {
    /// How many images.
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

    /// Writes the pixels, 0 to 1, row-major `[len, 784]`: exactly x / 255 as torchvision computes it.
    ///
    /// # Panics
    /// If `out` is not `len * 784` long, or an index is not below `images.len()`.
    pub fn gather_pixels(&self, out: &mut [f32]) {
        assert_eq!(out.len(), self.len() * PIXELS, "784 floats an image");
        for (row, index) in out.chunks_exact_mut(PIXELS).zip(self.indices) {
            for (out, pixel) in row.iter_mut().zip(self.images.image(*index)) {
                *out = f32::from(*pixel) / WHITE;
            }
        }
    }

    /// The images with each pixel black or white, white with the probability of its grey. The
    /// draws depend on the seed, the visit and the image's index, not on the batch.
    pub fn binarized(&self, seed: u64, visit: Visit) -> Images {
        let (epoch, mark) = match visit {
            Visit::Train { epoch } => (epoch, 0),
            Visit::Test => (0, TEST_MARK),
        };
        let mut pixels = Vec::with_capacity(self.len() * PIXELS);
        for index in self.indices {
            let stream = Stream::new(seed, Domain::Binarize, epoch, index | mark);
            for (block, grey) in self.images.image(*index).chunks(WORDS).enumerate() {
                // A word is below grey / 255 of its range with exactly that probability.
                let white =
                    |(word, grey): (u32, &u8)| u64::from(word) * 255 < u64::from(*grey) << 32;
                let words = stream.block(block as u32);
                pixels.extend(
                    words.into_iter().zip(grey).map(|pair| if white(pair) { u8::MAX } else { 0 }),
                );
            }
        }
        let labels = self.indices.iter().map(|index| self.images.label(*index)).collect();
        Images { pixels, labels }
    }

    /// Replaces the content of `out` with the labels.
    ///
    /// # Panics
    /// If an index is not below `images.len()`.
    pub fn gather_labels(&self, out: &mut Vec<i64>) {
        out.clear();
        out.extend(self.indices.iter().map(|index| i64::from(self.images.label(*index))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gathers_in_the_order_of_the_indices() {
        let pixels = (0..3u8).flat_map(|image| [image * 100; PIXELS]).collect();
        let images = Images::new(pixels, vec![7, 8, 9]).unwrap();
        let batch = Batch { images: &images, indices: &[2, 0, 2] };
        assert_eq!((batch.len(), batch.is_empty(), batch.index_sum()), (3, false, 4));
        let mut pixels = vec![-1.0; 3 * PIXELS];
        batch.gather_pixels(&mut pixels);
        assert!(pixels[..PIXELS].iter().all(|pixel| *pixel == 200.0 / 255.0));
        assert!(pixels[PIXELS..2 * PIXELS].iter().all(|pixel| *pixel == 0.0));
        assert_eq!(pixels[..PIXELS], pixels[2 * PIXELS..]);
        let mut labels = vec![1, 2, 3, 4];
        batch.gather_labels(&mut labels);
        assert_eq!(labels, [9, 7, 9]);
    }

    #[test]
    fn pixels_are_correctly_rounded_quotients() {
        let pixels: Vec<u8> = (0..PIXELS).map(|at| at as u8).collect();
        let images = Images::new(pixels, vec![0]).unwrap();
        let mut out = vec![0.0; PIXELS];
        Batch { images: &images, indices: &[0] }.gather_pixels(&mut out);
        for (at, pixel) in out.iter().enumerate() {
            assert_eq!(*pixel, (f64::from(at as u8) / 255.0) as f32);
        }
        assert_eq!((out[0], out[255]), (0.0, 1.0));
    }

    #[test]
    fn a_pixel_is_white_as_often_as_it_is_grey() {
        const EPOCHS: u64 = 4000;
        let pixels: Vec<u8> = (0..2 * PIXELS).map(|at| (at % 256) as u8).collect();
        let images = Images::new(pixels, vec![3, 4]).unwrap();
        let mut whites = vec![0_u64; PIXELS];
        for epoch in 0..EPOCHS {
            let batch = Batch { images: &images, indices: &[1] };
            let drawn = batch.binarized(5, Visit::Train { epoch });
            assert_eq!(drawn.label(0), 4);
            for (count, pixel) in whites.iter_mut().zip(drawn.image(0)) {
                assert!([0, 255].contains(pixel));
                *count += u64::from(*pixel / 255);
            }
        }
        for (count, grey) in whites.into_iter().zip(images.image(1)) {
            let (expected, p) =
                (EPOCHS as f64 * f64::from(*grey) / 255.0, f64::from(*grey) / 255.0);
            // Five standard deviations; none for black and white, which stay.
            let bound = 5.0 * (EPOCHS as f64 * p * (1.0 - p)).sqrt();
            assert!((count as f64 - expected).abs() <= bound, "{count} of {grey}");
        }
    }

    #[test]
    fn draws_depend_on_seed_visit_and_image_not_on_the_batch() {
        let images = Images::new(vec![128; 3 * PIXELS], vec![0; 3]).unwrap();
        let draw = |indices: &[u32], seed, visit| {
            let drawn = Batch { images: &images, indices }.binarized(seed, visit);
            drawn.image(drawn.len() as u32 - 1).to_vec()
        };
        let visit = Visit::Train { epoch: 2 };
        assert_eq!(draw(&[1], 0, visit), draw(&[2, 0, 1], 0, visit));
        let others = [
            draw(&[1], 1, visit),
            draw(&[1], 0, Visit::Train { epoch: 0 }),
            draw(&[1], 0, Visit::Test),
            draw(&[0], 0, visit),
        ];
        assert!(others.iter().all(|other| *other != draw(&[1], 0, visit)));
    }

    #[test]
    fn an_empty_batch_is_fine() {
        let images = Images::new(Vec::new(), Vec::new()).unwrap();
        let batch = Batch { images: &images, indices: &[] };
        batch.gather_pixels(&mut []);
        assert_eq!((batch.len(), batch.index_sum()), (0, 0));
    }
}
