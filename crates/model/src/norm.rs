//! The norm of a gradient, used for clipping. The bits depend on the vector alone: not on the
//! instruction set, and not on the number of threads.
//!
//! A vector is cut into blocks of [`BLOCK`] floats. Within a block, the float with index `i` adds its
//! square to lane `i % LANES`, in f64, where the square of an f32 is exact. The lanes are then
//! added by halves, and the blocks' sums in ascending order, from 0.

use crate::{Isa, Team, kernel};

/// Floats of a block. This number and the order of addition define the bits of the result.
const BLOCK: usize = 1 << 14;

/// Independent sums of a block. They fill two registers of the widest instruction set
/// twice, so that no addition waits for the previous one.
const LANES: usize = 32;

/// Blocks whose sums are kept on the stack together: those of a million floats.
const GROUP: usize = 64;

/// The sum of the squares of a vector's floats.
#[must_use]
pub fn sum_of_squares(isa: Isa, team: &Team, vector: &[f32]) -> f64 {
    let mut sum = 0.0;
    for group in vector.chunks(GROUP * BLOCK) {
        let mut blocks = [0.0; GROUP];
        let parts = blocks.iter_mut().zip(group.chunks(BLOCK));
        team.each(parts, |(block_sum, block)| *block_sum = block_sum_of_squares(isa, block));
        for block_sum in &blocks[..group.len().div_ceil(BLOCK)] {
            sum += block_sum;
        }
    }
    sum
}

/// The sum of the squares of a vector of `length` floats that is nowhere in memory as a whole. `write` writes the
/// floats that begin at an index. `memory` is reused by later calls.
pub fn sum_of_squares_by_block(
    isa: Isa,
    length: usize,
    memory: &mut Vec<f32>,
    mut write: impl FnMut(usize, &mut [f32]),
) -> f64 {
    memory.resize(BLOCK, 0.0);
    let mut sum = 0.0;
    for start in (0..length).step_by(BLOCK) {
        let block = &mut memory[..BLOCK.min(length - start)];
        write(start, block);
        sum += block_sum_of_squares(isa, block);
    }
    sum
}

kernel! {
    fn block_sum_of_squares(block: &[f32]) -> f64 {
        let mut lanes = [0.0_f64; LANES];
        let (rows, rest) = block.as_chunks::<LANES>();
        for row in rows {
            for (lane, value) in lanes.iter_mut().zip(row) {
                *lane += f64::from(*value) * f64::from(*value);
            }
        }
        for (lane, value) in lanes.iter_mut().zip(rest) {
            *lane += f64::from(*value) * f64::from(*value);
        }
        let mut width = LANES / 2;
        while width > 0 {
            for lane in 0..width {
                lanes[lane] += lanes[lane + width];
            }
            width /= 2;
        }
        lanes[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(len: usize) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * 0.37).sin() * (1.0 + i as f32)).collect()
    }

    /// The definition in the module's docs, step by step.
    fn defined(vector: &[f32]) -> f64 {
        let mut sum = 0.0;
        for block in vector.chunks(BLOCK) {
            let mut lanes = vec![0.0; LANES];
            for (i, value) in block.iter().enumerate() {
                lanes[i % LANES] += f64::from(*value) * f64::from(*value);
            }
            while lanes.len() > 1 {
                let upper = lanes.split_off(lanes.len() / 2);
                lanes.iter_mut().zip(upper).for_each(|(lane, other)| *lane += other);
            }
            sum += lanes[0];
        }
        sum
    }

    #[test]
    fn the_bits_are_those_of_the_definition_for_all_instruction_sets_and_teams() {
        let teams = [1, 2, 3].map(Team::new);
        for len in [0, 1, 31, 33, BLOCK - 1, BLOCK, 3 * BLOCK + 77, (GROUP + 1) * BLOCK + 5] {
            let vector = vector(len);
            let expected = defined(&vector);
            for isa in Isa::available() {
                for team in &teams {
                    let found = sum_of_squares(isa, team, &vector);
                    assert_eq!(found.to_bits(), expected.to_bits(), "{len} {isa:?} {team:?}");
                }
                let write = |start: usize, block: &mut [f32]| {
                    block.copy_from_slice(&vector[start..start + block.len()]);
                };
                let found = sum_of_squares_by_block(isa, len, &mut Vec::new(), write);
                assert_eq!(found.to_bits(), expected.to_bits(), "{len} {isa:?} by block");
            }
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let mut vector = vector(5000);
        vector[4321] = f32::NAN;
        assert!(sum_of_squares(Isa::best(), &Team::default(), &vector).is_nan());
    }
}
