//! Working memory that is kept from step to step. Returning large pieces to the system
//! and faulting them in again would cost more than computing the noise of a step. The model decides what the memory
//! holds.

use crate::{ModelError, layout::ALIGNMENT_FLOATS, memory};

/// A cache line, in numbers of two bytes, the smallest that are stored.
const LINE: usize = 2 * ALIGNMENT_FLOATS;

/// `N` slices whose lengths are proportional to the number of examples. They grow and never
/// shrink, and begin at cache lines.
#[derive(Debug)]
pub struct Scratch<T, const N: usize> {
    per_example: [usize; N],
    memory: Vec<T>,
}

impl<T: Copy + Default, const N: usize> Scratch<T, N> {
    /// Slices with these lengths per example.
    #[must_use]
    pub const fn new(per_example: [usize; N]) -> Self {
        Self { per_example, memory: Vec::new() }
    }

    /// Allocates memory for `examples` examples.
    ///
    /// # Errors
    ///
    /// [`ModelError::Memory`], with the bytes that were requested.
    pub fn reserve(&mut self, examples: usize) -> Result<(), ModelError> {
        let padded = |len: usize| (len as u128 * examples as u128).next_multiple_of(LINE as u128);
        let len: u128 = self.per_example.iter().map(|&len| padded(len)).sum();
        let len = len + LINE as u128;
        if len <= self.memory.len() as u128 {
            return Ok(());
        }
        let purpose = || format!("working memory for a batch of {examples} examples");
        let bytes = len.saturating_mul(size_of::<T>() as u128);
        memory::check(bytes, purpose)?;
        // The old content is not needed, so its memory is released before the larger piece is allocated.
        self.memory = Vec::new();
        self.memory
            .try_reserve_exact(len as usize)
            .map_err(|_| ModelError::Memory { purpose: purpose(), bytes: bytes as u64 })?;
        self.memory.resize(len as usize, T::default());
        Ok(())
    }

    /// The slices for `examples` examples, with their old content.
    ///
    /// # Panics
    ///
    /// If there is not enough memory. [`Scratch::reserve`] must be called first for sizes from user input.
    pub fn slices(&mut self, examples: usize) -> [&mut [T]; N] {
        if let Err(error) = self.reserve(examples) {
            panic!("{error}");
        }
        // An unaligned start would be slower, but correct.
        let start = self.memory.as_ptr().align_offset(4 * ALIGNMENT_FLOATS);
        let mut rest = &mut self.memory[start.min(LINE)..];
        self.per_example.map(|len| {
            let len = len * examples;
            let (slice, tail) = std::mem::take(&mut rest).split_at_mut(len.next_multiple_of(LINE));
            rest = tail;
            &mut slice[..len]
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::bf16::Bf16;

    use super::*;

    #[test]
    fn slices_are_aligned_and_of_their_lengths() {
        fn check<T: Copy + Default>() {
            let mut scratch = Scratch::<T, 3>::new([3, 784, 1]);
            for examples in [1, 7, 64, 3, 0] {
                let slices = scratch.slices(examples);
                let lengths = slices.each_ref().map(|slice| slice.len());
                assert_eq!(lengths, [3, 784, 1].map(|n| n * examples));
                for slice in slices {
                    assert_eq!(slice.as_ptr().align_offset(64), 0);
                }
            }
        }
        check::<f32>();
        check::<Bf16>();
    }

    #[test]
    fn memory_is_kept_once_a_size_was_seen() {
        let mut scratch = Scratch::<f32, 2>::new([5, 9]);
        scratch.reserve(64).unwrap();
        let place = scratch.memory.as_ptr();
        for examples in [1, 64, 63] {
            scratch.slices(examples)[1].fill(1.0);
            assert_eq!(scratch.memory.as_ptr(), place);
        }
    }

    #[test]
    fn absurd_sizes_are_errors() {
        for examples in [usize::MAX, usize::MAX / 64, 1 << 50] {
            let error = Scratch::<f32, 2>::new([784, 1 << 20]).reserve(examples).unwrap_err();
            assert!(matches!(error, ModelError::Memory { .. }));
        }
    }
}
