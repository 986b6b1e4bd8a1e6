//! Products of bf16 by vectors of f32: a group's even links and odd links each have a sum in a register, as
//! AMX has them.
//!
//! Like AMX, every operation turns results below the smallest normal number into zero. CPUs of x86 have a mode for
//! that; portable code does it itself (`Portable`).

#![allow(unsafe_code, reason = "pointers into laid-out factors, and a control register")]
#![allow(clippy::needless_range_loop, reason = "indices that the compiler unrolls to registers")]

use std::marker::PhantomData;

use super::{Chunk, FACTOR_BYTES, GROUP, Lines, SIDE, Unit};
use crate::gemm::vector::Vector;

/// Products by the vectors `V`.
pub(super) struct Vectors<V>(PhantomData<V>);

/// The mode of this thread in which results below the smallest normal number become zero, while this value lives.
#[cfg(target_arch = "x86_64")]
pub(super) struct Flushing {
    before: u32,
    /// The value stays on the thread.
    _thread: PhantomData<*const ()>,
}

#[cfg(target_arch = "x86_64")]
impl Flushing {
    pub(super) fn begin() -> Self {
        /// The bit of MXCSR.
        const FLUSH_TO_ZERO: u32 = 1 << 15;
        let mut before = 0;
        // SAFETY: writes the register to `before`.
        unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut before, options(nostack)) };
        set(before | FLUSH_TO_ZERO);
        Self { before, _thread: PhantomData }
    }
}

#[cfg(target_arch = "x86_64")]
impl Drop for Flushing {
    fn drop(&mut self) {
        set(self.before);
    }
}

/// Sets MXCSR.
#[cfg(target_arch = "x86_64")]
fn set(control: u32) {
    // SAFETY: the callers change the bit for flushing only. The products that it is for are computed between
    // two assembler blocks that the compiler takes to read and write all memory, to which factors and results belong.
    unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const control, options(nostack)) };
}

impl<V: Vector> Unit for Vectors<V> {
    const LINKS: usize = FACTOR_BYTES / size_of::<f32>() / SIDE;
    type Vector = V;

    #[inline(always)]
    unsafe fn add(chunk: &Chunk<'_>) {
        let links = chunk.left.links.next_multiple_of(GROUP);
        let (left, right): (*mut f32, *mut f32) =
            (chunk.left_space.cast(), chunk.right_space.cast());
        // SAFETY: each part has room for a chunk of `LINKS` links and `SIDE` lines.
        unsafe {
            widen(chunk.left, links, (links, 1), chunk.left.count, left);
            widen(chunk.right, links, (1, chunk.stride), chunk.stride, right);
            // At most 24 registers hold sums, or 12 of the 16 registers of AVX2.
            let width = if V::LANES == 16 { 2 } else { 1 };
            let mut column = 0;
            while column < chunk.stride {
                let right = right.add(column);
                if V::LANES * width <= chunk.stride - column {
                    if V::LANES == 16 {
                        strip::<V, 6, 2>(chunk, left, right, links, column);
                    } else {
                        strip::<V, 6, 1>(chunk, left, right, links, column);
                    }
                    column += V::LANES * width;
                } else {
                    strip::<V, 6, 1>(chunk, left, right, links, column);
                    column += V::LANES;
                }
            }
        }
    }
}

/// Writes the numbers of a factor as f32, padded with zeros to `links` and `lines`; numbers below the smallest
/// normal one become zero. A link and a line lie at the distances `strides` from the next.
///
/// # Safety
///
/// `to` has room for `links * lines` numbers.
#[inline(always)]
unsafe fn widen(
    from: Lines<'_>,
    links: usize,
    (line_stride, link_stride): (usize, usize),
    lines: usize,
    to: *mut f32,
) {
    for line in 0..lines {
        for link in 0..links {
            let is_there = line < from.count && link < from.links;
            let number = if is_there { from.data[from.place(line, link)].to_f32() } else { 0.0 };
            let number = if number.abs() < f32::MIN_POSITIVE { 0.0 } else { number };
            // SAFETY: the place is within the caller's bounds.
            unsafe { *to.add(line * line_stride + link * link_stride) = number };
        }
    }
}

/// Computes the columns of `VECTORS` vectors, `ROWS` rows at a time.
///
/// # Safety
///
/// The factors have all rows, these columns and links, and the CPU has the vectors.
#[inline(always)]
unsafe fn strip<V: Vector, const ROWS: usize, const VECTORS: usize>(
    chunk: &Chunk<'_>,
    left: *const f32,
    right: *const f32,
    links: usize,
    column: usize,
) {
    let mut row = 0;
    macro_rules! tiles_of {
        ($rows:expr) => {
            while $rows <= chunk.left.count - row {
                // SAFETY: the rows are within the block.
                unsafe {
                    let results = chunk.results.add(row * chunk.stride + column);
                    let left = left.add(row * links);
                    tile::<V, { $rows }, VECTORS>(chunk, left, right, links, results);
                }
                row += $rows;
            }
        };
    }
    tiles_of!(ROWS);
    tiles_of!(1);
}

#[inline(always)]
unsafe fn tile<V: Vector, const ROWS: usize, const VECTORS: usize>(
    chunk: &Chunk<'_>,
    left: *const f32,
    right: *const f32,
    links: usize,
    results: *mut f32,
) {
    // SAFETY: all places are within the bounds that the caller of `strip` guarantees.
    unsafe {
        for group in (0..links).step_by(GROUP) {
            let mut sums = [[[V::splat(0.0); VECTORS]; ROWS]; 2];
            for link in group..group + GROUP {
                let sums = &mut sums[link % 2];
                let right = right.add(link * chunk.stride);
                let right: [V; VECTORS] = std::array::from_fn(|j| V::load(right.add(j * V::LANES)));
                for i in 0..ROWS {
                    let factor = V::splat(*left.add(i * links + link));
                    for j in 0..VECTORS {
                        sums[i][j] = factor.mul_add_flushed(right[j], sums[i][j]);
                    }
                }
            }
            let [even, odd] = sums;
            for i in 0..ROWS {
                for j in 0..VECTORS {
                    let result = results.add(i * chunk.stride + j * V::LANES);
                    let is_first = chunk.is_first && group == 0;
                    let before = if is_first { V::splat(0.0) } else { V::load(result) };
                    before.add_flushed(even[i][j].add_flushed(odd[i][j])).store(result);
                }
            }
        }
    }
}
