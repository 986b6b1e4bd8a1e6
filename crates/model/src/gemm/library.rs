//! Products of factors in bf16 by MKL's `gemm_bf16bf16f32_`, the Fortran form of a BLAS function, which
//! libtorch_cpu exports. Only this file uses it.
//!
//! Matrices here are row-major. BLAS is column-major, so it sees a row-major matrix as its
//! transpose. To get C = A B, it is asked for C' = B' A'.

#![allow(unsafe_code, reason = "a foreign function on raw pointers")]

use std::{
    ffi::{c_char, c_int, c_void},
    mem,
    sync::OnceLock,
};

use super::{Matrix, SIDE_MAX};
use crate::{bf16::Bf16, blas};

// tch links the library, so no link attribute is needed here.
use torch_sys as _;

/// The function; `None` if this libtorch's BLAS lacks it. MKL has it on every CPU.
pub(super) fn routine() -> Option<Routine> {
    static ROUTINE: OnceLock<Option<Routine>> = OnceLock::new();
    *ROUTINE.get_or_init(|| {
        let address = blas::symbol(c"gemm_bf16bf16f32_")?;
        // SAFETY: the symbol is a function of this type in every MKL that has it.
        Some(unsafe { mem::transmute::<*mut c_void, Routine>(address) })
    })
}

/// Writes the rows of the product a b that begin at `first` to `out`, as many as it holds, at least
/// one.
pub(super) fn multiply_rows(
    a: Matrix<'_, Bf16>,
    first: usize,
    b: Matrix<'_, Bf16>,
    out: &mut [f32],
) {
    let Some(routine) = routine() else { panic!("this libtorch's BLAS lacks products in bf16") };
    let ((m, k), (_, n)) = (a.shape(), b.shape());
    let rows = out.len() / n;
    assert!(first + rows <= m, "rows {first}..{} of {m}", first + rows);
    let data = &a.data[if a.transposed { first } else { first * a.columns }..];
    let [rows, columns, depth] = [rows, n, k].map(blas_side);
    let [stride_a, stride_b] = [a.columns, b.columns].map(blas_side);
    let flag = |matrix: Matrix<'_, Bf16>| if matrix.transposed { b'T' } else { b'N' } as c_char;
    // SAFETY: every side is positive and fits c_int; the slices have the lengths that sides
    // and strides imply (checked here, in `gemm::multiply_rows` and in `Matrix::new`); `out` is borrowed
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
pub(super) type Routine = unsafe extern "C" fn(
    *const c_char,
    *const c_char,
    *const c_int,
    *const c_int,
    *const c_int,
    *const f32,
    *const Bf16,
    *const c_int,
    *const Bf16,
    *const c_int,
    *const f32,
    *mut f32,
    *const c_int,
);
