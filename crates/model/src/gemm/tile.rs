//! The innermost part of a product: a tile of results that stays in registers while a chunk of
//! the chain is added to it.

#![allow(unsafe_code, reason = "pointers into matrices, whose bounds `blocks.rs` has checked")]
#![allow(clippy::needless_range_loop, reason = "indices that the compiler unrolls to registers")]

use super::vector::Vector;

/// Numbers of a cache line.
const LINE: usize = 16;

/// The left factor, from a row and a link of the chain onward. Its elements are used one at a time.
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub(super) data: *const f32,
    /// The distance from a row to the next; 1 if `transposed`.
    pub(super) row_stride: usize,
    /// The distance from a link to the next; 1 unless `transposed`.
    pub(super) link_stride: usize,
    pub(super) transposed: bool,
}

/// A panel of the right factor. Its rows have as many whole vectors as a tile is wide.
#[derive(Clone, Copy)]
pub(super) struct Panel {
    pub(super) data: *const f32,
    pub(super) stride: usize,
    /// The number of its rows.
    pub(super) links: usize,
    /// The link of each row; null if the panel has all links.
    pub(super) list: *const u16,
}

/// The results. The first chunk is written to them, the others are added.
#[derive(Clone, Copy)]
pub(super) struct Results {
    pub(super) data: *mut f32,
    pub(super) stride: usize,
    pub(super) first: bool,
}

/// Adds a chunk's sums to the results, for `rows` rows and the panel's columns.
///
/// # Safety
///
/// The pointers cover `rows` rows, the panel's links and `vectors` vectors, no other thread uses
/// these results, and the CPU has the vectors' instruction set.
#[inline(always)]
pub(super) unsafe fn strip<V: Vector>(
    rows: usize,
    vectors: usize,
    left: Left,
    panel: Panel,
    results: Results,
    prefetch: bool,
) {
    /// The rows of a tile, by its vectors: at most 24 registers hold sums, or 12 of the 16 registers of AVX2.
    macro_rules! of_shape {
        ($($vectors:literal: $rows:literal or $rows_transposed:literal),*) => {
            match (vectors, left.transposed, panel.list.is_null()) {
                // SAFETY, of all arms: as the caller guarantees.
                $(
                    ($vectors, false, true) => unsafe {
                        run::<V, $rows, $vectors, false, false>(rows, left, panel, results, prefetch);
                    },
                    ($vectors, false, false) => unsafe {
                        run::<V, $rows, $vectors, false, true>(rows, left, panel, results, prefetch);
                    },
                    ($vectors, true, true) => unsafe {
                        run::<V, $rows_transposed, $vectors, true, false>(rows, left, panel, results, false);
                    },
                    ($vectors, true, false) => unsafe {
                        run::<V, $rows_transposed, $vectors, true, true>(rows, left, panel, results, false);
                    },
                )*
                _ => unreachable!("a panel of {vectors} vectors"),
            }
        };
    }
    // If the left factor is not transposed, each row needs an address register: more than 8 do not fit.
    if V::LANES == 16 {
        of_shape!(4: 6 or 6, 3: 8 or 8, 2: 8 or 12, 1: 8 or 24);
    } else {
        of_shape!(2: 6 or 6, 1: 8 or 12);
    }
}

/// The most vectors of a panel.
pub(super) const fn vectors_max<V: Vector>() -> usize {
    if V::LANES == 16 { 4 } else { 2 }
}

/// Computes one tile after the other, down the rows.
///
/// # Safety
///
/// As for [`strip`].
#[inline(always)]
unsafe fn run<
    V: Vector,
    const ROWS: usize,
    const VECTORS: usize,
    const TRANSPOSED: bool,
    const LISTED: bool,
>(
    rows: usize,
    left: Left,
    panel: Panel,
    results: Results,
    prefetch: bool,
) {
    let mut row = 0;
    macro_rules! tiles_of {
        ($rows:expr) => {
            while $rows <= rows - row {
                // SAFETY: the rows are within the caller's bounds.
                unsafe {
                    let left = Left { data: left.data.add(row * left.row_stride), ..left };
                    let results =
                        Results { data: results.data.add(row * results.stride), ..results };
                    if prefetch {
                        prefetch_rows::<V>(left, $rows, panel.links);
                    }
                    tile::<V, { $rows }, VECTORS, TRANSPOSED, LISTED>(left, panel, results);
                }
                row += $rows;
            }
        };
    }
    tiles_of!(ROWS);
    tiles_of!(4);
    tiles_of!(1);
}

/// Prefetches the rows after the next `rows`. Rows are too short for the CPU to predict the accesses.
#[inline(always)]
fn prefetch_rows<V: Vector>(left: Left, rows: usize, links: usize) {
    for row in rows..2 * rows {
        for link in (0..links).step_by(LINE) {
            V::prefetch(left.data.wrapping_add(row * left.row_stride + link));
        }
    }
}

/// Computes one tile: `ROWS` rows of `VECTORS` vectors.
///
/// # Safety
///
/// As for [`strip`], with the tile's first row in place of the panel's.
#[inline(always)]
unsafe fn tile<
    V: Vector,
    const ROWS: usize,
    const VECTORS: usize,
    const TRANSPOSED: bool,
    const LISTED: bool,
>(
    left: Left,
    panel: Panel,
    results: Results,
) {
    // SAFETY: the tile's rows, links and vectors are within the bounds that the caller of `strip` guarantees.
    unsafe {
        let mut sums = [[V::splat(0.0); VECTORS]; ROWS];
        for row in 0..panel.links {
            let link = if LISTED { usize::from(*panel.list.add(row)) } else { row };
            let column = left.data.add(if TRANSPOSED { link * left.link_stride } else { link });
            let right = panel.data.add(row * panel.stride);
            let right: [V; VECTORS] = std::array::from_fn(|j| V::load(right.add(j * V::LANES)));
            for i in 0..ROWS {
                let factor = *column.add(if TRANSPOSED { i } else { i * left.row_stride });
                let factor = V::splat(factor);
                for j in 0..VECTORS {
                    sums[i][j] = factor.mul_add(right[j], sums[i][j]);
                }
            }
        }
        for i in 0..ROWS {
            for j in 0..VECTORS {
                let result = results.data.add(i * results.stride + j * V::LANES);
                let before = if results.first { V::splat(0.0) } else { V::load(result) };
                before.add(sums[i][j]).store(result);
            }
        }
    }
}
