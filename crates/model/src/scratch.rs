//! Working memory that is kept from step to step: giving large pieces back to the system
//! and faulting them in again costs a step more than its noise. What it holds is the
//! model's business.

use crate::{ModelError, layout::ALIGNMENT_FLOATS, memory};

/// `N` slices whose lengths are proportional to the number of images; they grow, never
/// shrink, and begin at cache lines.
#[derive(Debug)]
pub(crate) struct Scratch<const N: usize> {
    floats_per_image: [usize; N],
    memory: Vec<f32>,
}

impl<const N: usize> Scratch<N> {
    pub(crate) const fn new(floats_per_image: [usize; N]) -> Self {
        Self { floats_per_image, memory: Vec::new() }
    }

    /// Makes room for `images`.
    pub(crate) fn reserve(&mut self, images: usize) -> Result<(), ModelError> {
        let padded = |floats: usize| {
            (floats as u128 * images as u128).next_multiple_of(ALIGNMENT_FLOATS as u128)
        };
        let floats: u128 = self.floats_per_image.iter().map(|&floats| padded(floats)).sum();
        let floats = floats + ALIGNMENT_FLOATS as u128;
        if floats <= self.memory.len() as u128 {
            return Ok(());
        }
        let purpose = || format!("working memory for a batch of {images} images");
        memory::check(4 * floats, purpose)?;
        let len = floats as usize;
        // What it held is not needed: release it before the larger piece is asked for.
        self.memory = Vec::new();
        self.memory
            .try_reserve_exact(len)
            .map_err(|_| ModelError::Memory { purpose: purpose(), bytes: 4 * len as u64 })?;
        self.memory.resize(len, 0.0);
        Ok(())
    }

    /// The slices for `images`, with whatever they held.
    ///
    /// # Panics
    ///
    /// Where there is no room; who takes sizes from input reserves before.
    pub(crate) fn slices(&mut self, images: usize) -> [&mut [f32]; N] {
        if let Err(error) = self.reserve(images) {
            panic!("{error}");
        }
        // An unaligned start would cost time, not correctness.
        let start = self.memory.as_ptr().align_offset(4 * ALIGNMENT_FLOATS);
        let mut rest = &mut self.memory[start.min(ALIGNMENT_FLOATS)..];
        self.floats_per_image.map(|floats| {
            let len = floats * images;
            let (slice, tail) =
                std::mem::take(&mut rest).split_at_mut(len.next_multiple_of(ALIGNMENT_FLOATS));
            rest = tail;
            &mut slice[..len]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_aligned_and_of_their_lengths() {
        let mut scratch = Scratch::new([3, 784, 1]);
        for images in [1, 7, 64, 3, 0] {
            let slices = scratch.slices(images);
            assert_eq!(slices.each_ref().map(|slice| slice.len()), [3, 784, 1].map(|n| n * images));
            for slice in slices {
                assert_eq!(slice.as_ptr().align_offset(64), 0);
            }
        }
    }

    #[test]
    fn memory_is_kept_once_a_size_was_seen() {
        let mut scratch = Scratch::new([5, 9]);
        scratch.reserve(64).unwrap();
        let place = scratch.memory.as_ptr();
        for images in [1, 64, 63] {
            scratch.slices(images)[1].fill(1.0);
            assert_eq!(scratch.memory.as_ptr(), place);
        }
    }

    #[test]
    fn absurd_sizes_are_errors() {
        for images in [usize::MAX, usize::MAX / 64, 1 << 50] {
            let error = Scratch::new([784, 1 << 20]).reserve(images).unwrap_err();
            assert!(matches!(error, ModelError::Memory { .. }));
        }
    }
}
