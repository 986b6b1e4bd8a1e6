//! Packs the right factor of a product in the order in which tiles read it, and transposes results.

#![allow(unsafe_code, reason = "pointers into matrices, whose bounds `blocks.rs` has checked")]

use super::vector::{SQUARE, Vector};

/// The right factor, from a link of the chain and a column onward.
#[derive(Clone, Copy)]
pub(super) struct Right {
    pub(super) data: *const f32,
    /// The distance from one link to the next, or from one column to the next if `transposed`.
    pub(super) stride: usize,
    pub(super) transposed: bool,
    /// Whether so many elements are zero that a search for rows to skip pays off.
    pub(super) sparse: bool,
}

impl Right {
    /// The factor from a later link and column onward.
    ///
    /// # Safety
    ///
    /// The link and the column are within the matrix.
    pub(super) unsafe fn from(self, link: usize, column: usize) -> Self {
        let (major, minor) = if self.transposed { (column, link) } else { (link, column) };
        // SAFETY: as the caller guarantees.
        Self { data: unsafe { self.data.add(major * self.stride + minor) }, ..self }
    }
}

/// Copies `links` rows of `columns` numbers to `panel`, padded with zeros to `width`.
///
/// # Safety
///
/// `right` has the links and columns, `panel` has room for `links * width` numbers, `columns` is
/// at most `width`, a multiple of the lanes, and the CPU has the instruction set.
#[inline(always)]
pub(super) unsafe fn pack<V: Vector>(
    right: Right,
    links: usize,
    columns: usize,
    width: usize,
    panel: *mut f32,
) {
    // SAFETY: all indices are below the bounds that the caller guarantees.
    unsafe {
        if right.transposed {
            transpose::<V>(right.data, right.stride, columns, links, panel, width);
        } else {
            for link in 0..links {
                let (from, to) = (right.data.add(link * right.stride), panel.add(link * width));
                if columns == width {
                    copy_row::<V>(from, width, to);
                } else {
                    std::ptr::copy_nonoverlapping(from, to, columns);
                }
            }
        }
        if columns < width {
            for link in 0..links {
                std::ptr::write_bytes(panel.add(link * width + columns), 0, width - columns);
            }
        }
    }
}

/// Copies the rows of `from` that have a nonzero number to `panel`, which may be the same memory, and
/// the indices of these rows to `list`. Returns their number.
///
/// # Safety
///
/// `from` has `links` rows of `width` numbers, `panel` and `list` have room for them, and the CPU
/// has the instruction set.
#[inline(always)]
pub(super) unsafe fn pack_nonzero<V: Vector>(
    from: *const f32,
    stride: usize,
    links: usize,
    width: usize,
    panel: *mut f32,
    list: &mut [u16],
) -> usize {
    let mut kept = 0;
    for link in 0..links {
        // SAFETY: the row is within the caller's bounds. At most as many rows are kept as were
        // read, so no row is overwritten before it is read.
        let nonzero =
            unsafe { copy_row::<V>(from.add(link * stride), width, panel.add(kept * width)) };
        list[kept] = link as u16;
        kept += usize::from(nonzero);
    }
    kept
}

/// Copies whole vectors, and returns whether any number is nonzero.
#[inline(always)]
unsafe fn copy_row<V: Vector>(from: *const f32, width: usize, to: *mut f32) -> bool {
    let mut nonzero = false;
    for at in (0..width).step_by(V::LANES) {
        // SAFETY: as the callers guarantee; `width` is a multiple of the lanes.
        unsafe {
            let vector = V::load(from.add(at));
            nonzero |= vector.has_nonzero();
            vector.store(to.add(at));
        }
    }
    nonzero
}

/// Writes the transpose of `rows` rows of `columns` numbers.
///
/// # Safety
///
/// The pointers cover the two matrices with these strides; the matrices do not overlap; the CPU has
/// the instruction set.
#[inline(always)]
pub(super) unsafe fn transpose<V: Vector>(
    from: *const f32,
    from_stride: usize,
    rows: usize,
    columns: usize,
    to: *mut f32,
    to_stride: usize,
) {
    let (whole_rows, whole_columns) = (rows / SQUARE * SQUARE, columns / SQUARE * SQUARE);
    // SAFETY: all indices are below the bounds that the caller guarantees.
    unsafe {
        for i in (0..whole_rows).step_by(SQUARE) {
            for j in (0..whole_columns).step_by(SQUARE) {
                let (from, to) = (from.add(i * from_stride + j), to.add(j * to_stride + i));
                V::transpose(from, from_stride, to, to_stride);
            }
        }
        for i in 0..rows {
            let first = if i < whole_rows { whole_columns } else { 0 };
            for j in first..columns {
                *to.add(j * to_stride + i) = *from.add(i * from_stride + j);
            }
        }
    }
}
