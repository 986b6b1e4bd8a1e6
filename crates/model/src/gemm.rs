//! Matrix multiplication on slices.
//!
//! A product has the same bits on every CPU, in f32 (`gemm/blocks.rs`) as in bf16 (`gemm/bf16.rs`).
//! Matrices are row-major.

mod bf16;
mod blocks;
#[cfg(test)]
mod definition;
mod panels;
mod space;
mod tile;
mod vector;

pub(crate) use space::prepare_thread;

use crate::{bf16::Bf16, isa::Isa};

/// A row-major matrix in a slice, or the transpose of one.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    transposed: bool,
    sparse: bool,
    scale: f32,
}

impl<'a, T> Matrix<'a, T> {
    /// A matrix of `rows` times `columns`.
    ///
    /// # Panics
    ///
    /// If the length of the slice is not `rows * columns`.
    #[must_use]
    pub fn new(data: &'a [T], rows: usize, columns: usize) -> Self {
        let size = rows.checked_mul(columns);
        assert_eq!(Some(data.len()), size, "a matrix of {rows} x {columns}");
        Self { data, rows, columns, transposed: false, sparse: false, scale: 1.0 }
    }

    /// The transpose; no element moves.
    #[must_use]
    pub const fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// Declares that most elements are zero, at the same places in many rows. The declaration does not change the bits
    /// if all elements of the other factor are finite.
    #[must_use]
    pub const fn sparse(self, sparse: bool) -> Self {
        Self { sparse, ..self }
    }

    /// The matrix with all elements multiplied by `scale`; in fact the product is multiplied by it.
    #[must_use]
    pub const fn scaled(self, scale: f32) -> Self {
        Self { scale: self.scale * scale, ..self }
    }

    /// The numbers of rows and columns in the product.
    const fn shape(&self) -> (usize, usize) {
        if self.transposed { (self.columns, self.rows) } else { (self.rows, self.columns) }
    }
}

/// The largest side of a matrix: the kernels for GPUs, and libtorch, count with 32-bit integers.
pub const SIDE_MAX: usize = i32::MAX as usize;

/// The element type of a factor: f32 or [`Bf16`]. Products are added in f32.
pub trait Factor: Copy + Send + Sync + sealed::Sealed {
    #[doc(hidden)]
    fn multiply_rows(
        isa: Isa,
        a: Matrix<'_, Self>,
        first: usize,
        b: Matrix<'_, Self>,
        out: &mut [f32],
    );
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for super::Bf16 {}
}

impl Factor for f32 {
    fn multiply_rows(
        isa: Isa,
        a: Matrix<'_, f32>,
        first: usize,
        b: Matrix<'_, f32>,
        out: &mut [f32],
    ) {
        blocks::multiply_rows(isa, a, first, b, out);
    }
}

impl Factor for Bf16 {
    fn multiply_rows(
        isa: Isa,
        a: Matrix<'_, Bf16>,
        first: usize,
        b: Matrix<'_, Bf16>,
        out: &mut [f32],
    ) {
        bf16::multiply_rows(isa, a, first, b, out);
    }
}

/// Writes (does not add) the product a b to `out`, row-major, on the calling thread alone.
///
/// # Panics
///
/// If shapes do not fit.
pub fn multiply<T: Factor>(isa: Isa, a: Matrix<'_, T>, b: Matrix<'_, T>, out: &mut [f32]) {
    let ((m, k), (inner, n)) = (a.shape(), b.shape());
    assert_eq!(k, inner, "a product of {m} x {k} and {inner} x {n}");
    assert_eq!(Some(out.len()), m.checked_mul(n), "a result of {m} x {n}");
    multiply_rows(isa, a, 0, b, out);
}

/// [`multiply`] for the rows that begin at `first`, as many as `out` holds. A row's bits do not depend on
/// the other rows that are computed with it.
///
/// # Panics
///
/// As [`multiply`].
pub fn multiply_rows<T: Factor>(
    isa: Isa,
    a: Matrix<'_, T>,
    first: usize,
    b: Matrix<'_, T>,
    out: &mut [f32],
) {
    let ((m, k), (inner, n)) = (a.shape(), b.shape());
    assert_eq!(k, inner, "a product of {m} x {k} and {inner} x {n}");
    if out.is_empty() {
        return;
    }
    let rows = out.len() / n;
    assert!(first + rows <= m && rows * n == out.len(), "rows {first}..{} of {m}", first + rows);
    if k == 0 {
        out.fill(0.0);
        return;
    }
    T::multiply_rows(isa, a, first, b, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7 + seed * 13) % 31) as f32 - 15.0).collect()
    }

    #[test]
    fn it_multiplies_in_all_four_forms() {
        check_all_forms(|x| x);
        check_all_forms(Bf16::from_f32);
    }

    /// Small integers: every order of addition gives the same exact result.
    fn check_all_forms<T: Factor>(element: impl Fn(f32) -> T) {
        for isa in Isa::available() {
            check_forms(isa, &element);
        }
    }

    fn check_forms<T: Factor>(isa: Isa, element: &impl Fn(f32) -> T) {
        let sides = [(1, 1, 1), (2, 3, 4), (17, 5, 31), (65, 130, 140), (1, 30, 7), (9, 1, 2)];
        for (m, n, k) in sides {
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            let factor = |numbers: &[f32]| numbers.iter().map(|x| element(*x)).collect::<Vec<T>>();
            let (factor_a, factor_b) = (factor(&a), factor(&b));
            for (transpose_a, transpose_b) in
                [(false, false), (false, true), (true, false), (true, true)]
            {
                let view = |factor, transpose, rows, columns| {
                    if transpose {
                        Matrix::new(factor, columns, rows).t()
                    } else {
                        Matrix::new(factor, rows, columns)
                    }
                };
                let view_a = view(factor_a.as_slice(), transpose_a, m, k);
                let view_b = view(factor_b.as_slice(), transpose_b, k, n).scaled(0.5);
                let at_a =
                    |i: usize, l: usize| if transpose_a { a[l * m + i] } else { a[i * k + l] };
                let at_b =
                    |l: usize, j: usize| if transpose_b { b[j * k + l] } else { b[l * n + j] };
                let mut found = vec![f32::NAN; m * n];
                multiply(isa, view_a, view_b, &mut found);
                for i in 0..m {
                    for j in 0..n {
                        let expected: f32 = (0..k).map(|l| 0.5 * at_a(i, l) * at_b(l, j)).sum();
                        assert_eq!(found[i * n + j], expected, "{m} {n} {k} at {i} {j}");
                    }
                }
            }
        }
    }

    #[test]
    fn empty_sides() {
        let mut out = [f32::NAN; 6];
        multiply(Isa::best(), Matrix::new(&[0.0; 0], 2, 0), Matrix::new(&[], 0, 3), &mut out);
        assert_eq!(out, [0.0; 6]);
        multiply(Isa::best(), Matrix::new(&[0.0; 0], 0, 3), Matrix::new(&[0.0; 6], 3, 2), &mut []);
    }

    #[test]
    #[should_panic(expected = "a product of 2 x 3 and 2 x 3")]
    fn sides_that_do_not_meet_are_refused() {
        let (a, b) = (Matrix::new(&[0.0; 6], 2, 3), Matrix::new(&[0.0; 6], 2, 3));
        multiply(Isa::best(), a, b, &mut [0.0; 4]);
    }

    #[test]
    #[should_panic(expected = "a result of 2 x 2")]
    fn a_result_of_another_size_is_refused() {
        let (a, b) = (Matrix::new(&[0.0; 6], 2, 3), Matrix::new(&[0.0; 6], 3, 2));
        multiply(Isa::best(), a, b, &mut [0.0; 5]);
    }

    #[test]
    #[should_panic(expected = "a matrix of 2 x 3")]
    fn a_slice_of_another_size_is_refused() {
        let _ = Matrix::new(&[0.0; 5], 2, 3);
    }
}
