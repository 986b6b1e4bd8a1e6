//! Products in f32. Every element is computed by the same chain of operations, for any instruction set,
//! blocks and number of threads.
//!
//! The chain is cut into chunks of [`CHUNK`] links; ARITHMETIC.md defines it. A block of
//! the result is computed chunk by chunk: the chunk of the right factor is packed into panels
//! (`panels.rs`), and for a group of rows of the left factor at a time, a tile moves down each panel
//! (`tile.rs`). Either factor can be used as the right one; the choice depends on which is cheaper
//! to pack.

#![allow(unsafe_code, reason = "pointers into matrices, from here to the tiles")]

use std::ptr;

use super::{
    Matrix,
    panels::{self, Right},
    space::{COLUMNS_MAX, LINE, LINKS, ROWS_MAX, Space, ranges},
    tile::{self, Left, Panel, Results},
    vector::{Portable, Vector},
};
use crate::{Isa, isa::Level};

/// Links of a chunk. The number is part of the definition of a product: another number gives other bits.
const CHUNK: usize = LINKS;

/// Rows that pass all panels before the next rows do: a chunk of them takes 48 KiB.
const ROWS_NEAR: usize = 96;

/// Up to this many rows, the right factor is used without packing. Packing pays off with more rows.
const ROWS_UNPACKED_MAX: usize = 64;

/// Strides that are a multiple of this put the rows of a panel into few sets of the first-level cache.
const STRIDE_BAD: usize = 256;

/// A product, or a part of one: `out = left right`.
#[derive(Clone, Copy)]
struct Product {
    rows: usize,
    columns: usize,
    links: usize,
    left: Left,
    right: Right,
    out: *mut f32,
    out_stride: usize,
    /// Whether `out` is the transpose of the product.
    turned: bool,
}

/// Writes the rows of the product a b that begin at `first` to `out`, as many as it holds. Sides are
/// positive and fit; `gemm::multiply_rows` has checked this.
pub(super) fn multiply_rows(
    isa: Isa,
    a: Matrix<'_, f32>,
    first: usize,
    b: Matrix<'_, f32>,
    out: &mut [f32],
) {
    for block in Product::new(a, first, b, out).blocks() {
        // SAFETY: `new` took pointers and sizes from the matrices, and `blocks` cuts blocks of at most the
        // largest size.
        unsafe { multiply_block(isa, block) };
    }
    let scale = a.scale * b.scale;
    if scale != 1.0 {
        out.iter_mut().for_each(|x| *x *= scale);
    }
}

impl Product {
    fn new(a: Matrix<'_, f32>, first: usize, b: Matrix<'_, f32>, out: &mut [f32]) -> Self {
        let ((_, links), (_, n)) = (a.shape(), b.shape());
        let m = out.len() / n;
        // Either pack the transpose of `b`, or pack that of `a` and transpose the result.
        let turned = b.transposed && m * (links + n) < n * links;
        let (rows, columns) = if turned { (n, m) } else { (m, n) };
        let (left, right) = if turned { (b.t(), a.t()) } else { (a, b) };
        let left = Left {
            data: left.data.as_ptr(),
            row_stride: if left.transposed { 1 } else { left.columns },
            link_stride: if left.transposed { left.columns } else { 1 },
            transposed: left.transposed,
        };
        let right = Right {
            data: right.data.as_ptr(),
            stride: right.columns,
            transposed: right.transposed,
            sparse: right.sparse,
        };
        let product = Self {
            rows,
            columns,
            links,
            left,
            right,
            out: out.as_mut_ptr(),
            out_stride: n,
            turned,
        };
        product.without(first)
    }

    /// This product without the first `first` rows of `a`, which `out` does not hold.
    fn without(mut self, first: usize) -> Self {
        // SAFETY: `a` has at least `first` rows more than `out`.
        unsafe {
            if self.turned {
                self.right = self.right.from(0, first);
            } else {
                self.left.data = self.left.data.add(first * self.left.row_stride);
            }
        }
        self
    }

    /// The given rows and columns of the product.
    fn part(self, rows: (usize, usize), columns: (usize, usize)) -> Self {
        let (first, column) = (rows.0, columns.0);
        let (major, minor) = if self.turned { (column, first) } else { (first, column) };
        // SAFETY: the ranges are within the product's sides.
        unsafe {
            let left = Left { data: self.left.data.add(first * self.left.row_stride), ..self.left };
            let out = self.out.add(major * self.out_stride + minor);
            let right = self.right.from(0, column);
            Self { rows: rows.1 - first, columns: columns.1 - column, left, right, out, ..self }
        }
    }

    /// The product in blocks of the sizes above.
    fn blocks(self) -> impl Iterator<Item = Self> {
        let width = self.columns.div_ceil(self.columns.div_ceil(COLUMNS_MAX));
        let columns = move || ranges(self.columns, width.next_multiple_of(LINE));
        ranges(self.rows, ROWS_MAX)
            .flat_map(move |rows| columns().map(move |columns| self.part(rows, columns)))
    }
}

/// Computes a block.
///
/// # Safety
///
/// The block has at most [`ROWS_MAX`] rows and [`COLUMNS_MAX`] columns, its pointers cover it, and no
/// other thread uses its part of `out`.
unsafe fn multiply_block(isa: Isa, block: Product) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2(block: Product, space: &mut Space) {
        // SAFETY: as for the whole function; the CPU has the instruction set.
        unsafe { multiply_in::<super::vector::Avx2>(block, space) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    unsafe fn avx512(block: Product, space: &mut Space) {
        // SAFETY: as above.
        unsafe { multiply_in::<super::vector::Avx512>(block, space) }
    }
    Space::of_thread(|space| match isa.level() {
        // SAFETY, of all arms: as the caller guarantees; an `Isa` exists only if the CPU has it.
        Level::Portable => unsafe { multiply_in::<Portable>(block, space) },
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2(block, space) },
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Amx => unsafe { avx512(block, space) },
    });
}

/// # Safety
///
/// As [`multiply_block`], and the CPU has the vectors' instruction set.
#[inline(always)]
unsafe fn multiply_in<V: Vector>(block: Product, space: &mut Space) {
    let Product { rows, columns, links, left, right, out, out_stride, turned } = block;
    let padded = columns.next_multiple_of(V::LANES);
    // Tiles write whole vectors, so a partial vector needs other memory than `out`.
    let beside = turned || columns != padded;
    let (data, stride) =
        if beside { (space.results.as_mut_ptr().cast(), padded) } else { (out, out_stride) };
    let in_place = rows <= ROWS_UNPACKED_MAX
        && !right.transposed
        && !right.sparse
        && columns == padded
        && right.stride % STRIDE_BAD != 0;
    // SAFETY: links, rows and columns stay below the block's; panels and results have room for
    // the largest block.
    unsafe {
        for (first_link, end) in ranges(links, CHUNK) {
            let right = right.from(first_link, 0);
            if !in_place {
                lay_out::<V>(right, end - first_link, columns, space);
            }
            for (first_row, end_row) in ranges(rows, ROWS_NEAR) {
                let from = first_link * left.link_stride + first_row * left.row_stride;
                let left = Left { data: left.data.add(from), ..left };
                for (number, (column, vectors)) in panels_of::<V>(columns).enumerate() {
                    let mut panel = Panel {
                        data: right.data.wrapping_add(column),
                        stride: right.stride,
                        links: end - first_link,
                        list: ptr::null(),
                    };
                    if !in_place {
                        panel.data = space.panels.as_ptr().cast::<f32>().add(column * CHUNK);
                        panel.stride = vectors * V::LANES;
                    }
                    if right.sparse {
                        panel.list = space.lists[number].as_ptr();
                        panel.links = space.kept[number];
                    }
                    let data = data.add(first_row * stride + column);
                    let results = Results { data, stride, first: first_link == 0 };
                    let rows = end_row - first_row;
                    tile::strip::<V>(rows, vectors, left, panel, results, number == 0);
                }
            }
        }
        if turned {
            panels::transpose::<V>(data, stride, rows, columns, out, out_stride);
        } else if beside {
            for row in 0..rows {
                ptr::copy_nonoverlapping(
                    data.add(row * stride),
                    out.add(row * out_stride),
                    columns,
                );
            }
        }
    }
}

/// The first column of each panel, and the number of its vectors. Panels are as equal as possible.
#[inline(always)]
fn panels_of<V: Vector>(columns: usize) -> impl Iterator<Item = (usize, usize)> {
    let vectors = columns.div_ceil(V::LANES);
    let panels = vectors.div_ceil(tile::vectors_max::<V>());
    let start = move |panel: usize| panel * vectors / panels;
    (0..panels).map(move |i| (start(i) * V::LANES, start(i + 1) - start(i)))
}

/// Packs a chunk of the right factor into panels of [`CHUNK`] links each.
///
/// # Safety
///
/// The block has these links and columns, and the CPU has the instruction set.
#[inline(always)]
unsafe fn lay_out<V: Vector>(right: Right, links: usize, columns: usize, space: &mut Space) {
    for (number, (column, vectors)) in panels_of::<V>(columns).enumerate() {
        let width = vectors * V::LANES;
        let present = width.min(columns - column);
        // SAFETY: the columns are within the matrix; the panels of all columns fit side by side.
        unsafe {
            let panel = space.panels.as_mut_ptr().cast::<f32>().add(column * CHUNK);
            let right = right.from(0, column);
            let (mut from, mut stride) = (right.data, right.stride);
            if right.transposed || present < width || !right.sparse {
                panels::pack::<V>(right, links, present, width, panel);
                (from, stride) = (panel.cast_const(), width);
            }
            if right.sparse {
                let list = &mut space.lists[number];
                space.kept[number] =
                    panels::pack_nonzero::<V>(from, stride, links, width, panel, list);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::definition::{self, words};

    /// Numbers of all sizes and signs; with `zeros`, whole columns and most other elements are zero.
    fn numbers(len: usize, columns: usize, zeros: bool, seed: u32) -> Vec<f32> {
        let mut next = words(seed);
        (0..len)
            .map(|i| {
                let (value, chance) = (next() as i32 as f32 / 2e9, next());
                let is_zero = zeros && ((i % columns).is_multiple_of(3) || chance % 4 != 0);
                if is_zero { 0.0 } else { value }
            })
            .collect()
    }

    /// The definition, for one element.
    fn chain(links: usize, a: &dyn Fn(usize) -> f32, b: &dyn Fn(usize) -> f32) -> f32 {
        let mut total = 0.0_f32;
        for (first, end) in ranges(links, CHUNK) {
            total += (first..end).fold(0.0_f32, |sum, l| a(l).mul_add(b(l), sum));
        }
        total
    }

    fn check(isa: Isa, (m, n, k): (usize, usize, usize), transposed: (bool, bool)) {
        for zeros in [false, true] {
            let (a, b) = (numbers(m * k, k, zeros, 1), numbers(k * n, n, zeros, 2));
            let about = format!("zeros {zeros}");
            definition::check(isa, (m, n, k), transposed, zeros, (&a, &b), chain, &about);
        }
    }

    #[test]
    fn every_instruction_set_gives_the_bits_of_the_definition() {
        let sides = [
            (1, 1, 1),
            (2, 3, 4),
            (17, 5, 31),
            (64, 20, 400),
            (65, 130, 140),
            (1, 30, 129),
            (30, 1, 257),
            (7, 300, 128),
            (520, 9, 3),
            (33, 256, 384),
        ];
        for isa in Isa::available() {
            for sides in sides {
                for transposed in [(false, false), (false, true), (true, false), (true, true)] {
                    check(isa, sides, transposed);
                }
            }
        }
    }

    #[test]
    fn blocks_cover_a_product_once() {
        for (rows, columns) in [(400, 784), (784, 64), (1000, 1), (3, 700), (64, 400)] {
            let (a, b) = (vec![1.0; rows], vec![1.0; columns]);
            let mut out = vec![0.0; rows * columns];
            let (a, b) = (Matrix::new(&a, rows, 1), Matrix::new(&b, 1, columns));
            let blocks = Product::new(a, 0, b, &mut out).blocks();
            let elements: usize = blocks
                .inspect(|block| {
                    assert!(block.rows <= ROWS_MAX && block.columns <= COLUMNS_MAX);
                })
                .map(|block| block.rows * block.columns)
                .sum();
            assert_eq!(elements, rows * columns);
        }
    }

    /// A product below the smallest float rounds to -0. A chain that skips the later zero keeps the sum -0; the other
    /// chain makes it +0. The result must be +0 in both cases.
    #[test]
    fn no_result_is_minus_zero() {
        let tiny = f32::MIN_POSITIVE;
        let (a, b) = ([-tiny, 1.0], [tiny, 0.0]);
        for isa in Isa::available() {
            for sparse in [false, true] {
                let mut out = [f32::NAN];
                let a = Matrix::new(&a[..], 1, 2);
                let b = Matrix::new(&b[..], 2, 1).sparse(sparse);
                multiply_rows(isa, a, 0, b, &mut out);
                assert_eq!(out[0].to_bits(), 0);
            }
        }
    }
}
