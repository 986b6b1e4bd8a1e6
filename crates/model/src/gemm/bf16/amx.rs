//! Products of bf16 by AMX: registers that hold tiles of 16 lines of 64 bytes.
//!
//! One instruction multiplies a tile of the left factor, 16 lines x 32 links, with a tile of the right factor, and adds
//! the products to a tile of results, 16 x 16. The right factor's tile holds pairs of links side by side: row p has
//! links 2p and 2p + 1 of every line. Tiles of the left factor are read where they are if they lie within the matrix
//! and its lines are adjacent; all other tiles are laid out first, padded with zeros.

#![allow(unsafe_code, reason = "instructions on tiles, which read and write by pointer")]
#![allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]

use std::{arch::asm, marker::PhantomData};

use super::{Chunk, FACTOR_BYTES, GROUP, Lines, SIDE, Unit};
use crate::{
    bf16::Bf16,
    gemm::vector::{Avx512, SQUARE, Vector},
};

/// Lines of a tile.
const TILE: usize = 16;

/// Numbers in a tile of a factor.
const TILE_LEN: usize = TILE * GROUP;

/// Bytes of a tile's row.
const ROW_BYTES: usize = 64;

/// Tiles of a side of a block.
const TILES_MAX: usize = SIDE / TILE;

/// Products by AMX.
pub(super) struct Tiles;

/// The registers of this thread hold tiles of the sizes above while this value lives. It stays on the thread.
pub(super) struct Configured(PhantomData<*const ()>);

impl Configured {
    pub(super) fn begin() -> Self {
        /// The operand of `ldtilecfg`: the palette, the bytes of each tile's rows, and the rows of each tile.
        #[repr(C, align(64))]
        struct Configuration {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }
        let mut of_all = Configuration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        of_all.row_bytes[..8].fill(ROW_BYTES as u16);
        of_all.rows[..8].fill(TILE as u8);
        // SAFETY: only code for AMX calls this function; the operand has 64 bytes.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const of_all, options(nostack, preserves_flags))
        };
        Self(PhantomData)
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: the registers were configured by `begin`. Nothing else uses them.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags)) };
    }
}

/// The tiles of a factor's lines and the groups of its links.
struct Factor {
    /// For each tile of lines its first number, and the distance from a line to the next in bytes.
    whole: [(*const Bf16, usize); TILES_MAX],
    /// The distance from a group to the next, in numbers.
    step: [usize; TILES_MAX],
    /// For each tile of lines its last group, if that was laid out apart.
    last: [Option<*const Bf16>; TILES_MAX],
}

impl Unit for Tiles {
    const LINKS: usize = FACTOR_BYTES / size_of::<Bf16>() / SIDE;
    type Vector = Avx512;

    #[inline(always)]
    unsafe fn add(chunk: &Chunk<'_>) {
        let groups = chunk.left.links.div_ceil(GROUP);
        // SAFETY: the factors' parts have room for all tiles of a chunk.
        let (left, right) = unsafe {
            let right: *mut Bf16 = chunk.right_space.cast();
            lay_out_right(chunk.right, groups, right);
            (lay_out_left(chunk.left, groups, chunk.left_space.cast()), right.cast_const())
        };
        let (rows, columns) = (chunk.left.count.div_ceil(TILE), chunk.right.count.div_ceil(TILE));
        for column in (0..columns).step_by(2) {
            for row in (0..rows).step_by(2) {
                let of = (&left, row, right, column, groups);
                // SAFETY: the tiles are within the block.
                unsafe {
                    match (rows - row, columns - column) {
                        (1, 1) => square::<false, false>(chunk, of),
                        (1, _) => square::<false, true>(chunk, of),
                        (_, 1) => square::<true, false>(chunk, of),
                        _ => square::<true, true>(chunk, of),
                    }
                }
            }
        }
    }
}

// The tile registers keep their content from one assembler block to the next, and no block declares that it changes them:
// the compiler uses none of them, because no function here is compiled with AMX as a feature.

/// Reads a tile with this distance between its rows, in bytes.
macro_rules! load {
    ($tile:literal, $at:expr, $stride:expr) => {
        asm!(
            concat!("tileloadd tmm", $tile, ", [{at} + {stride}]"),
            at = in(reg) $at,
            stride = in(reg) $stride,
            options(nostack, preserves_flags),
        )
    };
}

/// Writes a tile.
macro_rules! store {
    ($tile:literal, $at:expr, $stride:expr) => {
        asm!(
            concat!("tilestored [{at} + {stride}], tmm", $tile),
            at = in(reg) $at,
            stride = in(reg) $stride,
            options(nostack, preserves_flags),
        )
    };
}

/// Adds the products of two tiles to a third one.
macro_rules! multiply {
    ($out:literal, $left:literal, $right:literal) => {
        asm!(
            concat!("tdpbf16ps tmm", $out, ", tmm", $left, ", tmm", $right),
            options(nostack, preserves_flags),
        )
    };
}

/// Clears the results in registers.
#[inline(always)]
unsafe fn clear() {
    // SAFETY: the caller has configured the registers.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            options(nostack, preserves_flags)
        );
    }
}

/// Adds the products of one or two tiles of lines from `row` on with one or two from `column` on.
///
/// # Safety
///
/// The tiles exist, and the registers are configured.
#[inline(always)]
unsafe fn square<const TWO_ROWS: bool, const TWO_COLUMNS: bool>(
    chunk: &Chunk<'_>,
    (left, row, right, column, groups): (&Factor, usize, *const Bf16, usize, usize),
) {
    let bytes = chunk.stride * size_of::<f32>();
    let results = |down: usize, right: usize| {
        let (row, column) = ((row + down) * TILE, (column + right) * TILE);
        chunk.results.wrapping_add(row * chunk.stride + column)
    };
    /// Applies a macro to the results in each register.
    macro_rules! each_result {
        ($access:ident) => {
            $access!("0", results(0, 0), bytes);
            if TWO_COLUMNS {
                $access!("1", results(0, 1), bytes);
            }
            if TWO_ROWS {
                $access!("2", results(1, 0), bytes);
            }
            if TWO_ROWS && TWO_COLUMNS {
                $access!("3", results(1, 1), bytes);
            }
        };
    }
    // Registers 0 to 3 hold results, 4 and 5 the left factor, 6 and 7 the right one.
    // SAFETY: as the caller guarantees.
    unsafe {
        if chunk.is_first {
            clear();
        } else {
            each_result!(load);
        }
        for group in 0..groups {
            let (at, bytes) = left.tile(row, group, groups);
            load!("4", at, bytes);
            if TWO_ROWS {
                let (at, bytes) = left.tile(row + 1, group, groups);
                load!("5", at, bytes);
            }
            let at = right.add((column * groups + group) * TILE_LEN);
            load!("6", at, ROW_BYTES);
            multiply!("0", "4", "6");
            if TWO_ROWS {
                multiply!("2", "5", "6");
            }
            if TWO_COLUMNS {
                load!("7", at.add(groups * TILE_LEN), ROW_BYTES);
                multiply!("1", "4", "7");
                if TWO_ROWS {
                    multiply!("3", "5", "7");
                }
            }
        }
        each_result!(store);
    }
}

impl Factor {
    /// The first number of a tile, and the distance from a line to the next in bytes.
    #[inline(always)]
    fn tile(&self, row: usize, group: usize, groups: usize) -> (*const Bf16, usize) {
        match self.last[row] {
            Some(last) if group + 1 == groups => (last, ROW_BYTES),
            _ => {
                let (first, bytes) = self.whole[row];
                (first.wrapping_add(group * self.step[row]), bytes)
            }
        }
    }
}

/// Lays out the tiles of the left factor that cannot be used where they are.
///
/// # Safety
///
/// `space` has room for all tiles, and the CPU has the instruction set.
#[inline(always)]
unsafe fn lay_out_left(lines: Lines<'_>, groups: usize, space: *mut Bf16) -> Factor {
    let mut factor = Factor {
        whole: [(space.cast_const(), ROW_BYTES); TILES_MAX],
        step: [TILE_LEN; TILES_MAX],
        last: [None; TILES_MAX],
    };
    let whole_groups = lines.links / GROUP;
    let mut copy = Tile::default();
    for row in 0..lines.count.div_ceil(TILE) {
        // SAFETY: the tile is within the room for all.
        let tiles = unsafe { space.add(row * groups * TILE_LEN) };
        // Also lines of the matrix that are not part of the product may be read.
        let end = lines.place((row + 1) * TILE - 1, lines.links - 1);
        let is_usable = lines.adjacent && end < lines.data.len();
        factor.whole[row] = (tiles, ROW_BYTES);
        if is_usable {
            let first = lines.data.as_ptr().wrapping_add(lines.place(row * TILE, 0));
            factor.whole[row] = (first, lines.stride * size_of::<Bf16>());
            factor.step[row] = GROUP;
        }
        for group in if is_usable { whole_groups } else { 0 }..groups {
            // SAFETY: as above.
            let to = unsafe { tiles.add(group * TILE_LEN) };
            let (from, stride) = copy.of(lines, row, group);
            // SAFETY: `of` returns a whole tile.
            unsafe {
                if lines.adjacent {
                    for line in 0..TILE {
                        from.add(line * stride).copy_to_nonoverlapping(to.add(line * GROUP), GROUP);
                    }
                } else {
                    let mut pairs = Tile::default();
                    interleave(from, stride, pairs.0.as_mut_ptr().cast());
                    transpose(pairs.0.as_ptr().cast(), TILE, to.cast());
                }
            }
            factor.last[row] = is_usable.then_some(to.cast_const());
        }
    }
    factor
}

/// Lays out all tiles of the right factor.
///
/// # Safety
///
/// `space` has room for them, and the CPU has the instruction set.
#[inline(always)]
unsafe fn lay_out_right(lines: Lines<'_>, groups: usize, space: *mut Bf16) {
    let mut copy = Tile::default();
    for column in 0..lines.count.div_ceil(TILE) {
        for group in 0..groups {
            let (from, stride) = copy.of(lines, column, group);
            // SAFETY: the tile is within the room for all, and `of` returns a whole tile.
            unsafe {
                let to = space.add((column * groups + group) * TILE_LEN);
                if lines.adjacent {
                    transpose_pairs(from, stride, to.cast());
                } else {
                    interleave(from, stride, to.cast());
                }
            }
        }
    }
}

/// A copy of a tile.
#[repr(align(64))]
struct Tile([Bf16; TILE_LEN]);

impl Default for Tile {
    #[inline(always)]
    fn default() -> Self {
        Self([Bf16::default(); TILE_LEN])
    }
}

impl Tile {
    /// A tile of a factor as the factor has it, and the distance from a line to the next, or from a link to the next.
    /// A tile that is not whole is copied to `self`, between zeros.
    #[inline(always)]
    fn of(&mut self, lines: Lines<'_>, tile: usize, group: usize) -> (*const Bf16, usize) {
        let (line, link) = (tile * TILE, group * GROUP);
        let (count, links) = ((lines.count - line).min(TILE), (lines.links - link).min(GROUP));
        if count == TILE && links == GROUP {
            return (lines.data[lines.place(line, link)..].as_ptr(), lines.stride);
        }
        self.0.fill(Bf16::default());
        let (rows, width, side) =
            if lines.adjacent { (count, links, GROUP) } else { (links, count, TILE) };
        for row in 0..rows {
            let (line, link) = if lines.adjacent { (line + row, link) } else { (line, link + row) };
            let from = &lines.data[lines.place(line, link)..][..width];
            self.0[row * side..][..width].copy_from_slice(from);
        }
        (self.0.as_ptr(), side)
    }
}

/// Puts pairs of links side by side: from 32 links of 16 lines to 16 pairs of links.
///
/// # Safety
///
/// The pointers cover a tile.
#[inline(always)]
unsafe fn interleave(from: *const Bf16, stride: usize, to: *mut u32) {
    for pair in 0..TILE {
        // SAFETY: as the caller guarantees.
        unsafe {
            let even = from.add(2 * pair * stride).cast::<[u16; TILE]>().read_unaligned();
            let odd = from.add((2 * pair + 1) * stride).cast::<[u16; TILE]>().read_unaligned();
            let pairs: [u32; TILE] =
                std::array::from_fn(|i| u32::from(even[i]) | u32::from(odd[i]) << 16);
            to.add(pair * TILE).cast::<[u32; TILE]>().write(pairs);
        }
    }
}

/// Puts pairs of links side by side: from 16 lines of 32 links to 16 pairs of links.
///
/// # Safety
///
/// The pointers cover a tile, and the CPU has the instruction set.
#[inline(always)]
unsafe fn transpose_pairs(from: *const Bf16, stride: usize, to: *mut u32) {
    if stride.is_multiple_of(2) {
        // SAFETY: as the caller guarantees.
        unsafe { transpose(from.cast(), stride / 2, to) };
        return;
    }
    let mut whole = Tile::default();
    // SAFETY: as the caller guarantees.
    unsafe {
        for line in 0..TILE {
            let to = whole.0.as_mut_ptr().add(line * GROUP);
            from.add(line * stride).copy_to_nonoverlapping(to, GROUP);
        }
        transpose(whole.0.as_ptr().cast(), TILE, to);
    }
}

/// Transposes 16 x 16 pairs; to a vector they are numbers like others. `from` need not be aligned.
///
/// # Safety
///
/// The pointers cover a tile, and the CPU has the instruction set.
#[inline(always)]
unsafe fn transpose(from: *const f32, stride: usize, to: *mut u32) {
    for i in (0..TILE).step_by(SQUARE) {
        for j in (0..TILE).step_by(SQUARE) {
            // SAFETY: as the caller guarantees.
            unsafe {
                let to: *mut f32 = to.add(j * TILE + i).cast();
                Avx512::transpose(from.wrapping_add(i * stride + j), stride, to, TILE);
            }
        }
    }
}
