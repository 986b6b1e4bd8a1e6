//! Compares products with their definition, to the bit; for tests.

use super::{Factor, Matrix, multiply_rows};
use crate::Isa;

/// Random words, by xorshift.
pub(super) fn words(seed: u32) -> impl FnMut() -> u32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    }
}

/// Multiplies m x k and k x n numbers, given as they are or as the transposed matrices, in two parts. `element` is
/// the definition of an element, for the number of links and the factors by link.
#[track_caller]
pub(super) fn check<T: Factor>(
    isa: Isa,
    (m, n, k): (usize, usize, usize),
    transposed: (bool, bool),
    sparse: bool,
    (a, b): (&[T], &[T]),
    element: impl Fn(usize, &dyn Fn(usize) -> T, &dyn Fn(usize) -> T) -> f32,
    about: &str,
) {
    let view = |data, transposed, rows, columns| {
        let matrix = if transposed {
            Matrix::new(data, columns, rows).t()
        } else {
            Matrix::new(data, rows, columns)
        };
        matrix.sparse(sparse)
    };
    let (view_a, view_b) = (view(a, transposed.0, m, k), view(b, transposed.1, k, n));
    let at_a = |i: usize, l: usize| if transposed.0 { a[l * m + i] } else { a[i * k + l] };
    let at_b = |l: usize, j: usize| if transposed.1 { b[j * k + l] } else { b[l * n + j] };
    let mut out = vec![f32::NAN; m * n];
    let (front, back) = out.split_at_mut(m / 3 * n);
    multiply_rows(isa, view_a, m / 3, view_b, back);
    multiply_rows(isa, view_a, 0, view_b, front);
    for i in 0..m {
        for j in 0..n {
            let expected = element(k, &|l| at_a(i, l), &|l| at_b(l, j));
            assert_eq!(
                out[i * n + j].to_bits(),
                expected.to_bits(),
                "{} {m} x {n} x {k} {transposed:?} {about} at {i} {j}",
                isa.name()
            );
        }
    }
}
