//! Some examples of a set, as a model wants them.
//!
//! A batch is borrowed indices; nothing is copied until a model asks. It does not know how the indices were chosen, or
//! what an example is.

use crate::{Domain, Images, PIXELS, Stream};

/// The value of a white pixel.
const WHITE: f32 = 255.0;

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

/// Writes grey values as pixels, 0 to 1: exactly x / 255 as torchvision computes it.
pub fn unit_pixels(greys: &[u8], out: &mut [f32]) {
    for (out, grey) in out.iter_mut().zip(greys) {
        *out = f32::from(*grey) / WHITE;
    }
}

impl Batch<'_, Images> {
    /// Writes the pixels, 0 to 1, row-major `[len, 784]`; see [`unit_pixels`].
    ///
    /// # Panics
    /// If `out` is not `len * 784` long, or an index is not below the count.
    pub fn gather_pixels(&self, out: &mut [f32]) {
        assert_eq!(out.len(), self.len() * PIXELS, "784 floats an image");
        for (row, index) in out.chunks_exact_mut(PIXELS).zip(self.indices) {
            unit_pixels(self.data.image(*index), row);
        }
    }

    /// Replaces the content of `out` with the labels.
    ///
    /// # Panics
    /// If an index is not below the count.
    pub fn gather_labels(&self, out: &mut Vec<i64>) {
        out.clear();
        out.extend(self.indices.iter().map(|index| i64::from(self.data.label(*index))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gathers_in_the_order_of_the_indices() {
        let pixels = (0..3u8).flat_map(|image| [image * 100; PIXELS]).collect();
        let images = Images::new(pixels, vec![7, 8, 9]).unwrap();
        let batch = Batch::of(&images, &[2, 0, 2]);
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
        Batch::of(&images, &[0]).gather_pixels(&mut out);
        for (at, pixel) in out.iter().enumerate() {
            assert_eq!(*pixel, (f64::from(at as u8) / 255.0) as f32);
        }
        assert_eq!((out[0], out[255]), (0.0, 1.0));
    }

    #[test]
    fn an_empty_batch_is_fine() {
        let images = Images::new(Vec::new(), Vec::new()).unwrap();
        let batch = Batch::of(&images, &[]);
        batch.gather_pixels(&mut []);
        assert_eq!((batch.len(), batch.index_sum()), (0, 0));
    }
}
