//! Products in f32: every element is the same chain of operations, whatever the instruction set,
//! the blocks and the number of threads.
//!
//! The chain is cut into chunks of [`CHUNK`] links; ARITHMETIC.md has its definition. A block of
//! the result is computed chunk by chunk: the right factor's chunk is laid out in panels
//! (`panels.rs`), and for some rows of the left factor at a time a tile passes down each panel
//! (`tile.rs`). Of the two factors either can be the right one; which, depends on what is cheaper
//! to lay out.

#![allow(unsafe_code, reason = "pointers into matrices, from here to the tiles")]

use std::{cell::RefCell, ptr};

use super::{
    Matrix,
    panels::{self, Right},
    tile::{self, Left, Panel, Results},
    vector::{Portable, Vector},
};
use crate::{Isa, isa::Level};

/// Links of a chunk. It is part of the definition of a product: another number gives other bits.
const CHUNK: usize = 128;

/// Columns of a block: a chunk of them takes 128 KiB, which stays in the second cache.
const COLUMNS_MAX: usize = 256;

/// Rows of a block.
const ROWS_MAX: usize = 512;

/// Rows that pass all panels before the next ones do: a chunk of them takes 48 KiB.
const ROWS_NEAR: usize = 96;

/// Rows up to which the right factor is used where it lies: laying it out pays with more.
const ROWS_UNPACKED_MAX: usize = 64;

/// Strides that are a multiple of it put the rows of a panel into few sets of the first cache.
const STRIDE_BAD: usize = 256;

/// Columns of a panel are a multiple of it on every instruction set.
const LINE: usize = 16;

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
    /// Whether `out` is the transpose, a row a column.
    turned: bool,
}

/// Writes the rows of the product a b from `first` on to `out`, as many as it holds; sides are
/// positive and fit, as `gemm::multiply_rows` has checked.
pub(super) fn multiply_rows(
    isa: Isa,
    a: Matrix<'_, f32>,
    first: usize,
    b: Matrix<'_, f32>,
    out: &mut [f32],
) {
    for block in Product::new(a, first, b, out).blocks() {
        // SAFETY: `new` took pointers and sizes from the matrices, and the blocks' sizes are at
        // most the largest.
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
        // To lay out the transpose of `b`, or that of `a` and then the result.
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

    /// This product without the first rows of `a`, which do not occur in `out`.
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

    /// These rows and columns of it.
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

    /// This product in blocks of the sizes above.
    fn blocks(self) -> impl Iterator<Item = Self> {
        let width = self.columns.div_ceil(self.columns.div_ceil(COLUMNS_MAX));
        let columns = move || ranges(self.columns, width.next_multiple_of(LINE));
        ranges(self.rows, ROWS_MAX)
            .flat_map(move |rows| columns().map(move |columns| self.part(rows, columns)))
    }
}

/// `0..len` in ranges of `most`, the last one shorter.
fn ranges(len: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..len).step_by(most).map(move |start| (start, (start + most).min(len)))
}

/// What a thread computes a block in.
struct Space {
    panels: Vec<Line>,
    results: Vec<Line>,
    lists: Vec<[u16; CHUNK]>,
    kept: Vec<usize>,
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code, reason = "used by address")] [f32; LINE]);

impl Space {
    fn new() -> Self {
        let lines = |floats: usize| vec![Line([0.0; LINE]); floats / LINE];
        // A panel has at least a vector of eight.
        let panels_max = COLUMNS_MAX / 8;
        Self {
            panels: lines(CHUNK * COLUMNS_MAX),
            results: lines(ROWS_MAX * COLUMNS_MAX),
            lists: vec![[0; CHUNK]; panels_max],
            kept: vec![0; panels_max],
        }
    }
}

thread_local! {
    static SPACE: RefCell<Space> = RefCell::new(Space::new());
}

/// Allocates what this thread computes in, if that has not been done yet.
pub(crate) fn prepare_thread() {
    SPACE.with(|_| ());
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
        // SAFETY: as for the whole function; the instruction set is there.
        unsafe { multiply_in::<super::vector::Avx2>(block, space) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    unsafe fn avx512(block: Product, space: &mut Space) {
        // SAFETY: as above.
        unsafe { multiply_in::<super::vector::Avx512>(block, space) }
    }
    SPACE.with_borrow_mut(|space| match isa.0 {
        // SAFETY, of all arms: as the caller says; an `Isa` exists only where the CPU has it.
        Level::Portable => unsafe { multiply_in::<Portable>(block, space) },
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2(block, space) },
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512(block, space) },
    });
}

/// # Safety
///
/// As [`multiply_block`], and the CPU has the vectors' instruction set.
#[inline(always)]
unsafe fn multiply_in<V: Vector>(block: Product, space: &mut Space) {
    let Product { rows, columns, links, left, right, out, out_stride, turned } = block;
    let padded = columns.next_multiple_of(V::LANES);
    // Tiles write whole vectors.
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

/// Where the panels of so many columns begin, and how many vectors each has: as even as can be.
#[inline(always)]
fn panels_of<V: Vector>(columns: usize) -> impl Iterator<Item = (usize, usize)> {
    let vectors = columns.div_ceil(V::LANES);
    let panels = vectors.div_ceil(tile::vectors_max::<V>());
    let start = move |panel: usize| panel * vectors / panels;
    (0..panels).map(move |i| (start(i) * V::LANES, start(i + 1) - start(i)))
}

/// Lays out a chunk of the right factor, in panels of [`CHUNK`] links each.
///
/// # Safety
///
/// The block has the links and columns, and the CPU has the instruction set.
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

    /// Numbers of all sizes and signs; with `zeros`, whole columns and most of the rest are zero.
    fn numbers(len: usize, columns: usize, zeros: bool, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state
        };
        (0..len)
            .map(|i| {
                let (value, chance) = (next() as i32 as f32 / 2e9, next());
                let is_zero = zeros && ((i % columns).is_multiple_of(3) || chance % 4 != 0);
                if is_zero { 0.0 } else { value }
            })
            .collect()
    }

    /// The definition, an element at a time.
    fn chain(links: usize, a: impl Fn(usize) -> f32, b: impl Fn(usize) -> f32) -> f32 {
        let mut total = 0.0_f32;
        for (first, end) in ranges(links, CHUNK) {
            total += (first..end).fold(0.0_f32, |sum, l| a(l).mul_add(b(l), sum));
        }
        total
    }

    fn check(isa: Isa, (m, n, k): (usize, usize, usize), transposed: (bool, bool)) {
        for zeros in [false, true] {
            let (a, b) = (numbers(m * k, k, zeros, 1), numbers(k * n, n, zeros, 2));
            let view = |data, transposed, rows, columns| {
                let matrix = if transposed {
                    Matrix::new(data, columns, rows).t()
                } else {
                    Matrix::new(data, rows, columns)
                };
                matrix.sparse(zeros)
            };
            let (view_a, view_b) =
                (view(&a[..], transposed.0, m, k), view(&b[..], transposed.1, k, n));
            let at_a = |i: usize, l: usize| if transposed.0 { a[l * m + i] } else { a[i * k + l] };
            let at_b = |l: usize, j: usize| if transposed.1 { b[j * k + l] } else { b[l * n + j] };
            let mut out = vec![f32::NAN; m * n];
            let (front, back) = out.split_at_mut(m / 3 * n);
            multiply_rows(isa, view_a, m / 3, view_b, back);
            if !front.is_empty() {
                multiply_rows(isa, view_a, 0, view_b, front);
            }
            for i in 0..m {
                for j in 0..n {
                    let expected = chain(k, |l| at_a(i, l), |l| at_b(l, j));
                    assert_eq!(
                        out[i * n + j].to_bits(),
                        expected.to_bits(),
                        "{} {m} x {n} x {k} {transposed:?} zeros {zeros} at {i} {j}",
                        isa.name()
                    );
                }
            }
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

    /// What is smaller than the smallest float becomes -0 in a chain that skips nothing after it.
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
