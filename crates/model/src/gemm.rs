//! Matrix multiplication on slices: a checked wrapper over `sgemm_` and, with factors in
//! bf16, MKL's `gemm_bf16bf16f32_`, BLAS in its Fortran form, which libtorch_cpu exports.
//! This file alone knows them.
//!
//! Matrices here are row-major. To BLAS, which is column-major, a row-major matrix is its own
//! transpose, so C = A B is asked for as C' = B' A'.

#![allow(unsafe_code, reason = "a foreign function on raw pointers")]

use std::{
    ffi::{c_char, c_int, c_void},
    mem,
    sync::OnceLock,
};

use crate::{bf16::Bf16, blas, team::Team};

// tch links the library; naming it here would only repeat that.
use torch_sys as _;

/// A row-major matrix in a slice, or the transpose of one.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    transposed: bool,
    scale: f32,
}

impl<'a, T> Matrix<'a, T> {
    /// A matrix of `rows` times `columns`.
    ///
    /// # Panics
    ///
    /// Where the slice's length is not their product.
    #[must_use]
    pub fn new(data: &'a [T], rows: usize, columns: usize) -> Self {
        let size = rows.checked_mul(columns);
        assert_eq!(Some(data.len()), size, "a matrix of {rows} x {columns}");
        Self { data, rows, columns, transposed: false, scale: 1.0 }
    }

    /// Its transpose; nothing moves.
    #[must_use]
    pub const fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// All its elements times `scale`; the product is multiplied with it instead.
    #[must_use]
    pub const fn scaled(self, scale: f32) -> Self {
        Self { scale: self.scale * scale, ..self }
    }

    /// Rows and columns as seen by the product.
    const fn shape(&self) -> (usize, usize) {
        if self.transposed { (self.columns, self.rows) } else { (self.rows, self.columns) }
    }
}

/// The largest side of a matrix: BLAS counts in 32 bits.
pub const SIDE_MAX: usize = c_int::MAX as usize;

/// A number that factors can be made of: f32 or [`Bf16`]. Products are added in f32.
pub trait Factor: Copy + Send + Sync + sealed::Sealed {
    /// The BLAS function, unless this libtorch's BLAS lacks it.
    #[doc(hidden)]
    fn routine() -> Option<Routine<Self>>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for super::Bf16 {}
}

impl Factor for f32 {
    fn routine() -> Option<Routine<Self>> {
        Some(sgemm_)
    }
}

impl Factor for Bf16 {
    /// MKL has it, on every CPU; other BLAS do not.
    fn routine() -> Option<Routine<Self>> {
        static ROUTINE: OnceLock<Option<Routine<Bf16>>> = OnceLock::new();
        *ROUTINE.get_or_init(|| {
            let address = blas::symbol(c"gemm_bf16bf16f32_")?;
            // SAFETY: the symbol is a function of this type in every MKL that has it.
            Some(unsafe { mem::transmute::<*mut c_void, Routine<Bf16>>(address) })
        })
    }
}

/// A thread's part of a product has at least so many multiplications, about 3 microseconds;
/// with fewer, handing it out costs more than it saves.
const PART_MULTIPLICATIONS_MIN: usize = 1 << 18;

/// .. and so many rows: each part packs the whole of the second matrix anew, and few rows, one
/// above all, may be computed in another way, with other bits.
const PART_ROWS_MIN: usize = 16;

/// Writes (does not add) the product a b to `out`, row-major. The team's threads each compute
/// some of the rows; a row's bits do not depend on which others are computed with it.
///
/// # Panics
///
/// Where shapes do not fit, a side is above [`SIDE_MAX`], or the BLAS has no such product
/// ([`Factor::routine`]).
pub fn multiply<T: Factor>(team: &Team, a: Matrix<'_, T>, b: Matrix<'_, T>, out: &mut [f32]) {
    let ((m, k), (inner, n)) = (a.shape(), b.shape());
    assert_eq!(k, inner, "a product of {m} x {k} and {inner} x {n}");
    assert_eq!(Some(out.len()), m.checked_mul(n), "a result of {m} x {n}");
    if out.is_empty() {
        return;
    }
    if k == 0 {
        out.fill(0.0);
        return;
    }
    let parts = team.threads().min(m / PART_ROWS_MIN);
    let parts = parts.min(m.saturating_mul(n).saturating_mul(k) / PART_MULTIPLICATIONS_MIN);
    let parts = parts.max(1);
    let mut rest = out;
    let rows = (0..parts).map(|part| m * part / parts..m * (part + 1) / parts);
    let parts = rows.map(|rows| {
        let (out, later) = mem::take(&mut rest).split_at_mut(rows.len() * n);
        rest = later;
        (rows.start, out)
    });
    team.each(parts, |(first, out)| multiply_rows(a, first, b, out));
}

/// Writes the rows from `first` on of the product a b to `out`, as many as it holds; at least
/// one.
fn multiply_rows<T: Factor>(a: Matrix<'_, T>, first: usize, b: Matrix<'_, T>, out: &mut [f32]) {
    let Some(routine) = T::routine() else { panic!("this libtorch's BLAS lacks the product") };
    let ((m, k), (_, n)) = (a.shape(), b.shape());
    let rows = out.len() / n;
    assert!(first + rows <= m, "rows {first}..{} of {m}", first + rows);
    let data = &a.data[if a.transposed { first } else { first * a.columns }..];
    let [rows, columns, depth] = [rows, n, k].map(blas_side);
    let [stride_a, stride_b] = [a.columns, b.columns].map(blas_side);
    let flag = |matrix: Matrix<'_, T>| if matrix.transposed { b'T' } else { b'N' } as c_char;
    // SAFETY: every side is positive and fits c_int; the slices have the lengths that sides
    // and strides imply (checked here, in `multiply` and in `Matrix::new`); `out` is borrowed
    // mutably, so it overlaps neither input; the pointers to scalars outlive the call, which
    // keeps none.
    unsafe {
        routine(
            &flag(b),
            &flag(a),
            &columns,
            &rows,
            &depth,
            &(a.scale * b.scale),
            b.data.as_ptr(),
            &stride_b,
            data.as_ptr(),
            &stride_a,
            &0.0,
            out.as_mut_ptr(),
            &columns,
        );
    }
}

fn blas_side(side: usize) -> c_int {
    c_int::try_from(side).unwrap_or_else(|_| panic!("a side of {side} is above {SIDE_MAX}"))
}

/// C = alpha A B + beta C on column-major matrices: the transpositions of A and B, then the
/// sides m, n and k, alpha, A and its stride, B and its stride, beta, C and its stride.
pub type Routine<T> = unsafe extern "C" fn(
    *const c_char,
    *const c_char,
    *const c_int,
    *const c_int,
    *const c_int,
    *const f32,
    *const T,
    *const c_int,
    *const T,
    *const c_int,
    *const f32,
    *mut f32,
    *const c_int,
);

unsafe extern "C" {
    fn sgemm_(
        transpose_a: *const c_char,
        transpose_b: *const c_char,
        m: *const c_int,
        n: *const c_int,
        k: *const c_int,
        alpha: *const f32,
        a: *const f32,
        stride_a: *const c_int,
        b: *const f32,
        stride_b: *const c_int,
        beta: *const f32,
        c: *mut f32,
        stride_c: *const c_int,
    );
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

    /// Small integers: every order of addition gives the same, exact result.
    fn check_all_forms<T: Factor>(element: impl Fn(f32) -> T) {
        let team = Team::new(3);
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
                multiply(&team, view_a, view_b, &mut found);
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
        let team = Team::default();
        let mut out = [f32::NAN; 6];
        multiply(&team, Matrix::new(&[0.0; 0], 2, 0), Matrix::new(&[], 0, 3), &mut out);
        assert_eq!(out, [0.0; 6]);
        multiply(&team, Matrix::new(&[0.0; 0], 0, 3), Matrix::new(&[0.0; 6], 3, 2), &mut []);
    }

    #[test]
    #[should_panic(expected = "a product of 2 x 3 and 2 x 3")]
    fn sides_that_do_not_meet_are_refused() {
        let (a, b) = (Matrix::new(&[0.0; 6], 2, 3), Matrix::new(&[0.0; 6], 2, 3));
        multiply(&Team::default(), a, b, &mut [0.0; 4]);
    }

    #[test]
    #[should_panic(expected = "a result of 2 x 2")]
    fn a_result_of_another_size_is_refused() {
        let (a, b) = (Matrix::new(&[0.0; 6], 2, 3), Matrix::new(&[0.0; 6], 3, 2));
        multiply(&Team::default(), a, b, &mut [0.0; 5]);
    }

    #[test]
    #[should_panic(expected = "a matrix of 2 x 3")]
    fn a_slice_of_another_size_is_refused() {
        let _ = Matrix::new(&[0.0; 5], 2, 3);
    }
}
