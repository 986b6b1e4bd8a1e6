//! Vectors of f32 for each instruction set. All give the same results.

#![allow(unsafe_code, reason = "intrinsics, and loads and stores by pointer")]

/// A vector of f32.
///
/// # Safety
///
/// The methods may be called only if the CPU has the instruction set. `load`, `store` and
/// `transpose` need pointers to as many numbers as they access.
pub(super) trait Vector: Copy {
    /// Numbers in a vector.
    const LANES: usize;

    unsafe fn splat(value: f32) -> Self;

    /// Reads [`Vector::LANES`] numbers, aligned or not.
    unsafe fn load(from: *const f32) -> Self;

    unsafe fn store(self, to: *mut f32);

    unsafe fn add(self, other: Self) -> Self;

    /// self * factor + sum, rounded once.
    unsafe fn mul_add(self, factor: Self, sum: Self) -> Self;

    /// [`Vector::add`], and a result below the smallest normal number becomes zero with its sign. Vectors of x86 do this
    /// if the CPU is in the mode for it (`bf16/fma.rs`).
    #[inline(always)]
    unsafe fn add_flushed(self, other: Self) -> Self {
        // SAFETY: as the caller guarantees.
        unsafe { self.add(other) }
    }

    /// [`Vector::mul_add`], flushed like [`Vector::add_flushed`].
    #[inline(always)]
    unsafe fn mul_add_flushed(self, factor: Self, sum: Self) -> Self {
        // SAFETY: as the caller guarantees.
        unsafe { self.mul_add(factor, sum) }
    }

    /// Whether any number is nonzero; NaN counts as nonzero.
    unsafe fn has_nonzero(self) -> bool;

    /// Writes the transpose of a square with sides of [`SQUARE`] numbers.
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize);

    /// Prefetches the cache line of an address, which need not be valid.
    fn prefetch(at: *const f32);
}

/// Side of the squares that [`Vector::transpose`] handles.
pub(super) const SQUARE: usize = 8;

/// Eight numbers, in the registers that the compiler chooses, such as NEON's on AArch64.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; SQUARE]);

impl Vector for Portable {
    const LANES: usize = SQUARE;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; SQUARE])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller gives a pointer to enough numbers; it has the alignment of f32, which suffices.
        Self(unsafe { from.cast::<[f32; SQUARE]>().read() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { to.cast::<[f32; SQUARE]>().write(self.0) };
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, sum: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].mul_add(factor.0[i], sum.0[i])))
    }

    #[inline(always)]
    unsafe fn add_flushed(self, other: Self) -> Self {
        let flushed = |sum: f32| if sum.abs() < f32::MIN_POSITIVE { 0.0 * sum } else { sum };
        Self(std::array::from_fn(|i| flushed(self.0[i] + other.0[i])))
    }

    #[inline(always)]
    unsafe fn mul_add_flushed(self, factor: Self, sum: Self) -> Self {
        Self(std::array::from_fn(|i| mul_add_flushed(self.0[i], factor.0[i], sum.0[i])))
    }

    #[inline(always)]
    unsafe fn has_nonzero(self) -> bool {
        self.0.iter().any(|x| *x != 0.0)
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        for i in 0..SQUARE {
            for j in 0..SQUARE {
                // SAFETY: the caller gives pointers to squares with these strides.
                unsafe { *to.add(j * to_stride + i) = *from.add(i * from_stride + j) };
            }
        }
    }

    #[inline(always)]
    fn prefetch(_: *const f32) {}
}

/// a b + c, rounded once; zero if it would be below the smallest normal number also with an unbounded exponent. A and b
/// have the 8 bits of bf16, or c is zero.
#[inline(always)]
fn mul_add_flushed(a: f32, b: f32, c: f32) -> f32 {
    /// Halfway between the smallest normal number and its lower neighbour with the same number of bits.
    const LEAST: f64 = f32::MIN_POSITIVE as f64 * (1.0 - f32::EPSILON as f64 / 4.0);
    let sum = a.mul_add(b, c);
    if sum.abs() > f32::MIN_POSITIVE || sum.is_nan() {
        return sum;
    }
    // Near the smallest normal number this is exact.
    let exact = f64::from(a).mul_add(f64::from(b), f64::from(c));
    if exact.abs() < LEAST { 0.0 * sum } else { sum }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::{arch::x86_64::*, array};

    use super::{SQUARE, Vector};

    /// Writes the methods that are one intrinsic each, and the shared ones.
    macro_rules! vector {
        (
            $name:ident, $register:ty, $lanes:literal,
            $set1:ident, $loadu:ident, $storeu:ident, $add:ident, $fmadd:ident, $has_nonzero:expr
        ) => {
            #[derive(Clone, Copy)]
            pub(in crate::gemm) struct $name($register);

            // SAFETY, of all blocks: the caller guarantees the instruction set and the pointers.
            impl Vector for $name {
                const LANES: usize = $lanes;

                #[inline(always)]
                unsafe fn splat(value: f32) -> Self {
                    Self(unsafe { $set1(value) })
                }

                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    Self(unsafe { $loadu(from) })
                }

                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    unsafe { $storeu(to, self.0) };
                }

                #[inline(always)]
                unsafe fn add(self, other: Self) -> Self {
                    Self(unsafe { $add(self.0, other.0) })
                }

                #[inline(always)]
                unsafe fn mul_add(self, factor: Self, sum: Self) -> Self {
                    Self(unsafe { $fmadd(self.0, factor.0, sum.0) })
                }

                #[inline(always)]
                unsafe fn has_nonzero(self) -> bool {
                    unsafe { $has_nonzero(self.0) }
                }

                #[inline(always)]
                unsafe fn transpose(
                    from: *const f32,
                    from_stride: usize,
                    to: *mut f32,
                    to_stride: usize,
                ) {
                    unsafe { transpose(from, from_stride, to, to_stride) };
                }

                #[inline(always)]
                fn prefetch(at: *const f32) {
                    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
                }
            }
        };
    }

    vector! {
        Avx2, __m256, 8,
        _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_add_ps, _mm256_fmadd_ps,
        |x| _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_NEQ_UQ>(x, _mm256_setzero_ps())) != 0
    }

    vector! {
        Avx512, __m512, 16,
        _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_add_ps, _mm512_fmadd_ps,
        |x| _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(x, _mm512_setzero_ps()) != 0
    }

    /// First neighbours are exchanged within pairs of rows, then pairs within fours, then halves.
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: the caller gives pointers to squares with these strides, and has AVX2.
        unsafe {
            let rows: [__m256; SQUARE] =
                array::from_fn(|i| _mm256_loadu_ps(from.add(i * from_stride)));
            let pairs: [__m256; SQUARE] = array::from_fn(|i| {
                let (a, b) = (rows[i & 6], rows[(i & 6) + 1]);
                if i & 1 == 0 { _mm256_unpacklo_ps(a, b) } else { _mm256_unpackhi_ps(a, b) }
            });
            // Element 4 h + q has columns q and q + 4 of the rows from 4 h on.
            let fours: [__m256; SQUARE] = array::from_fn(|i| {
                let (half, q) = (i & 4, i & 3);
                let (a, b) = (pairs[half + (q >> 1)], pairs[half + 2 + (q >> 1)]);
                if q & 1 == 0 {
                    _mm256_shuffle_ps::<0x44>(a, b)
                } else {
                    _mm256_shuffle_ps::<0xee>(a, b)
                }
            });
            for q in 0..4 {
                let (a, b) = (fours[q], fours[4 + q]);
                let (low, high) =
                    (_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b));
                _mm256_storeu_ps(to.add(q * to_stride), low);
                _mm256_storeu_ps(to.add((q + 4) * to_stride), high);
            }
        }
    }
}
