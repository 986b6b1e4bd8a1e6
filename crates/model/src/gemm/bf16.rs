//! Products of bf16. Every element is computed by the same operations on every CPU; ARITHMETIC.md defines
//! them. They are what AMX computes (`amx.rs`); other CPUs compute the same with instructions for f32 (`fma.rs`).
//!
//! A block of the result is computed chunk by chunk of the links: both factors are laid out in the form that
//! the unit reads, and the unit adds the chunk's groups to the results.

#![allow(unsafe_code, reason = "pointers into matrices, from here to the units")]

#[cfg(target_arch = "x86_64")]
mod amx;
mod fma;

use super::{
    Matrix, panels,
    space::{LINE, Space, ranges},
    vector::{Portable, Vector},
};
use crate::{Isa, bf16::Bf16, isa::Level};

/// Links of a group: their products are added up before the element takes them. The number is part of the
/// definition of a product.
const GROUP: usize = 32;

/// Rows and columns of a block.
const SIDE: usize = 256;

/// Bytes of a factor's part of a block, laid out.
const FACTOR_BYTES: usize = 128 << 10;

/// What multiplies: AMX's tiles, or vectors of f32.
trait Unit {
    /// Links of a chunk; a multiple of [`GROUP`].
    const LINKS: usize;

    /// The vectors that move results.
    type Vector: Vector;

    /// Adds the products of a chunk, at most [`Unit::LINKS`] links, to the results.
    ///
    /// # Safety
    ///
    /// Each factor has at most [`SIDE`] lines, the memory has the sizes that [`Chunk`] says, and the CPU has the unit.
    unsafe fn add(chunk: &Chunk<'_>);
}

/// A factor as lines with one element for each link: the rows of the left factor, the columns of the right one.
#[derive(Clone, Copy)]
struct Lines<'a> {
    data: &'a [Bf16],
    /// The distance from a line to the next, or from a link to the next.
    stride: usize,
    /// Whether the elements of a line are adjacent, or else those of a link.
    adjacent: bool,
    /// The first line, and the number of lines.
    first: usize,
    count: usize,
    /// The first link, and the number of links.
    link: usize,
    links: usize,
}

impl Lines<'_> {
    /// The place of an element.
    #[inline(always)]
    const fn place(&self, line: usize, link: usize) -> usize {
        let (line, link) = (self.first + line, self.link + link);
        if self.adjacent { line * self.stride + link } else { link * self.stride + line }
    }

    /// Some of the lines.
    const fn with_lines(self, range: (usize, usize)) -> Self {
        Self { first: self.first + range.0, count: range.1 - range.0, ..self }
    }

    /// Some of the links.
    const fn with_links(self, range: (usize, usize)) -> Self {
        Self { link: self.link + range.0, links: range.1 - range.0, ..self }
    }
}

/// A chunk of a block, and memory: [`FACTOR_BYTES`] for each factor, results for all lines.
struct Chunk<'a> {
    left: Lines<'a>,
    right: Lines<'a>,
    left_space: *mut u8,
    right_space: *mut u8,
    results: *mut f32,
    /// The distance from a row of results to the next: the right lines, up to whole cache lines.
    stride: usize,
    /// Whether the results are zero before.
    is_first: bool,
}

/// A product, or a part of one: `out = left right`.
struct Product<'a> {
    left: Lines<'a>,
    right: Lines<'a>,
    out: &'a mut [f32],
    out_stride: usize,
    /// Whether `out` is the transpose of the product.
    turned: bool,
    scale: f32,
}

/// Writes the rows of the product a b that begin at `first` to `out`, as many as it holds. Sides are
/// positive and fit; `gemm::multiply_rows` has checked this.
pub(super) fn multiply_rows(
    isa: Isa,
    a: Matrix<'_, Bf16>,
    first: usize,
    b: Matrix<'_, Bf16>,
    out: &mut [f32],
) {
    let product = Product::new(a, first, b, out);
    Space::of_thread(|space| multiply(isa, product, space));
}

impl<'a> Product<'a> {
    fn new(a: Matrix<'a, Bf16>, first: usize, b: Matrix<'a, Bf16>, out: &'a mut [f32]) -> Self {
        let ((_, links), (_, n)) = (a.shape(), b.shape());
        let m = out.len() / n;
        let lines = |matrix: Matrix<'a, Bf16>, adjacent, first, count| Lines {
            data: matrix.data,
            stride: matrix.columns,
            adjacent,
            first,
            count,
            link: 0,
            links,
        };
        let (rows, columns) = (lines(a, !a.transposed, first, m), lines(b, b.transposed, 0, n));
        // A left factor whose lines are adjacent is used where it is; a right factor is always laid out. So it can be
        // cheaper to lay out `a` and to transpose the result.
        let turned = b.transposed && m * (links + n) < n * links;
        let (left, right) = if turned { (columns, rows) } else { (rows, columns) };
        Self { left, right, out, out_stride: n, turned, scale: a.scale * b.scale }
    }
}

fn multiply(isa: Isa, product: Product<'_>, space: &mut Space) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2(product: Product<'_>, space: &mut Space) {
        let _flushing = fma::Flushing::begin();
        // SAFETY: as for the whole function; the CPU has the instruction set.
        unsafe { multiply_in::<fma::Vectors<super::vector::Avx2>>(product, space) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    unsafe fn avx512(product: Product<'_>, space: &mut Space) {
        let _flushing = fma::Flushing::begin();
        // SAFETY: as above.
        unsafe { multiply_in::<fma::Vectors<super::vector::Avx512>>(product, space) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    unsafe fn amx(product: Product<'_>, space: &mut Space) {
        let (_flushing, _configured) = (fma::Flushing::begin(), amx::Configured::begin());
        // SAFETY: as above.
        unsafe { multiply_in::<amx::Tiles>(product, space) }
    }
    match isa.level() {
        // SAFETY, of all arms: an `Isa` exists only if the CPU has it.
        Level::Portable => unsafe { multiply_in::<fma::Vectors<Portable>>(product, space) },
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2(product, space) },
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512(product, space) },
        #[cfg(target_arch = "x86_64")]
        Level::Amx => unsafe { amx(product, space) },
    }
}

/// # Safety
///
/// The CPU has the unit.
#[inline(always)]
unsafe fn multiply_in<U: Unit>(product: Product<'_>, space: &mut Space) {
    let Product { left, right, out, out_stride, turned, scale } = product;
    let results: *mut f32 = space.results.as_mut_ptr().cast();
    for rows in ranges(left.count, SIDE) {
        for columns in ranges(right.count, SIDE) {
            let (left, right) = (left.with_lines(rows), right.with_lines(columns));
            let stride = right.count.next_multiple_of(LINE);
            for links in ranges(left.links, U::LINKS) {
                // SAFETY: the results of a block take the first half of their memory, the left factor's part the
                // next quarter, and the right factor's part all panels.
                unsafe {
                    U::add(&Chunk {
                        left: left.with_links(links),
                        right: right.with_links(links),
                        left_space: results.add(SIDE * SIDE).cast(),
                        right_space: space.panels.as_mut_ptr().cast(),
                        results,
                        stride,
                        is_first: links.0 == 0,
                    });
                }
            }
            // SAFETY: the block has these results, and `out` has a place for each.
            unsafe {
                let (major, minor) = if turned { (columns, rows) } else { (rows, columns) };
                let out = &mut out[major.0 * out_stride + minor.0..];
                let shape = (left.count, right.count);
                write_out::<U::Vector>(results, stride, shape, turned, scale, out, out_stride);
            }
        }
    }
}

/// Copies a block's results or their transpose to `out`, multiplied by `scale`; -0 becomes +0.
///
/// # Safety
///
/// The block has these rows and columns, and the CPU has the vectors.
#[inline(always)]
unsafe fn write_out<V: Vector>(
    results: *mut f32,
    stride: usize,
    (rows, columns): (usize, usize),
    turned: bool,
    scale: f32,
    out: &mut [f32],
    out_stride: usize,
) {
    let (lines, width) = if turned { (columns, rows) } else { (rows, columns) };
    assert!((lines - 1) * out_stride + width <= out.len(), "a block within the result");
    let out = out.as_mut_ptr();
    // SAFETY: the rows are within the block, and the block is within `out`.
    unsafe {
        for row in 0..rows {
            let row_of_results = results.add(row * stride);
            if turned {
                finish::<V>(row_of_results, stride, scale, row_of_results);
            } else {
                finish::<V>(row_of_results, columns, scale, out.add(row * out_stride));
            }
        }
        if turned {
            panels::transpose::<V>(results, stride, rows, columns, out, out_stride);
        }
    }
}

/// Writes a row of results, multiplied by `scale`; -0 becomes +0.
///
/// # Safety
///
/// `from` has whole vectors, up to the first `len` numbers, `to` has `len` numbers, and the CPU has the vectors.
#[inline(always)]
unsafe fn finish<V: Vector>(from: *const f32, len: usize, scale: f32, to: *mut f32) {
    // SAFETY: as the caller guarantees.
    unsafe {
        let (scale, zero) = (V::splat(scale), V::splat(0.0));
        let whole = len / V::LANES * V::LANES;
        for at in (0..whole).step_by(V::LANES) {
            V::load(from.add(at)).mul_add_flushed(scale, zero).store(to.add(at));
        }
        if whole < len {
            let mut last = [0.0; LINE];
            V::load(from.add(whole)).mul_add_flushed(scale, zero).store(last.as_mut_ptr());
            last.as_ptr().copy_to_nonoverlapping(to.add(whole), len - whole);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::definition::{self, words};

    /// Numbers whose exponents are `exponents`, some of them zero.
    fn numbers(len: usize, exponents: std::ops::Range<u32>, seed: u32) -> Vec<Bf16> {
        let mut next = words(seed);
        let mut number = || {
            let (bits, exponent, chance) =
                (next(), exponents.start + next() % exponents.len() as u32, next() % 8);
            let bits = (bits & 0x8000) << 16 | exponent << 23 | (bits & 0x7f) << 16;
            Bf16::from_f32(if chance == 0 { 0.0 } else { f32::from_bits(bits) })
        };
        (0..len).map(|_| number()).collect()
    }

    /// a b + c in f64 where f32 would round twice or not flush; the definition's operation.
    fn link(a: Bf16, b: Bf16, c: f32) -> f32 {
        let zeroed = |x: Bf16| if x.to_f32().abs() < f32::MIN_POSITIVE { 0.0 } else { x.to_f32() };
        let (a, b) = (zeroed(a), zeroed(b));
        // Scaled, the result is far from the smallest number: a result below it is seen with all its bits.
        let scale = 2.0_f32.powi(96);
        let scaled = (a * scale).mul_add(b, c * scale);
        if scaled.abs() < f32::MIN_POSITIVE * scale { 0.0 } else { a.mul_add(b, c) }
    }

    fn flushed(x: f32) -> f32 {
        if x.abs() < f32::MIN_POSITIVE { 0.0 } else { x }
    }

    /// The definition, for one element.
    fn element(links: usize, a: &dyn Fn(usize) -> Bf16, b: &dyn Fn(usize) -> Bf16) -> f32 {
        let mut total = 0.0_f32;
        for (first, end) in ranges(links, GROUP) {
            let sum = |parity| {
                let links = (first..end).filter(|l| l % 2 == parity);
                links.fold(0.0_f32, |sum, l| link(a(l), b(l), sum))
            };
            total = flushed(total + flushed(sum(0) + sum(1)));
        }
        total + 0.0
    }

    fn check(
        isa: Isa,
        (m, n, k): (usize, usize, usize),
        transposed: (bool, bool),
        exponents: std::ops::Range<u32>,
    ) {
        let (a, b) = (numbers(m * k, exponents.clone(), 1), numbers(k * n, exponents.clone(), 2));
        let about = format!("exponents {exponents:?}");
        definition::check(isa, (m, n, k), transposed, false, (&a, &b), element, &about);
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
            (270, 9, 33),
            (33, 256, 520),
        ];
        for isa in Isa::available() {
            for sides in sides {
                for transposed in [(false, false), (false, true), (true, false), (true, true)] {
                    check(isa, sides, transposed, 120..134);
                }
            }
        }
    }

    /// Around exponent 64 products lie at the smallest normal number; exponent 0 has numbers below it.
    #[test]
    fn numbers_below_the_smallest_normal_one_are_zero_everywhere() {
        for isa in Isa::available() {
            for exponents in [58..66, 51..70, 0..3, 0..140] {
                check(isa, (40, 36, 70), (false, true), exponents);
            }
        }
    }

    /// Sums halfway between the smallest normal number and the number below it with as many bits.
    #[test]
    fn what_rounds_to_the_smallest_normal_number_is_kept() {
        let power = |exponent: i32| Bf16::from_f32(2.0_f32.powi(exponent));
        for isa in Isa::available() {
            for (less, expected) in
                [(-150, 0.0), (-151, f32::MIN_POSITIVE), (-152, f32::MIN_POSITIVE)]
            {
                // Even links: 2^-126 - 2^less.
                let a = [power(-63), power(0), power(-100), power(0)];
                let minus = Bf16::from_f32(-2.0_f32.powi(less + 100));
                let b = [power(-63), power(-140), minus, power(-140)];
                let mut out = [f32::NAN];
                multiply_rows(
                    isa,
                    Matrix::new(&a[..], 1, 4),
                    0,
                    Matrix::new(&b[..], 4, 1),
                    &mut out,
                );
                assert_eq!(out[0], expected, "{} 2^-126 - 2^{less}", isa.name());
            }
        }
    }
}
