//! Elementary functions of f32, written so that a loop over a slice vectorises.
//!
//! The functions are own polynomials, because the C library's functions do not vectorise and
//! differ between hosts. Arguments are reduced with the method of Cody and Waite; the coefficients are
//! minimax fits (Lawson's iteration) on the reduced range. There are no branches and no tables, and NaN
//! gives NaN. The stated errors are the largest found in a comparison with f64.

use std::f32::consts::{FRAC_PI_4, LOG2_E};

/// ln 2 in two parts. The first has so few bits that its small multiples are exact.
const LN_2_HIGH: f32 = 355.0 / 512.0;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// 1.5 * 2^23. Adding it rounds to an integer, which is then in the low bits.
const ROUND: f32 = 12_582_912.0;

/// e^x within 1 ulp; 0 below the smallest subnormal, infinity above the largest float.
#[inline(always)]
#[must_use]
pub fn exp(x: f32) -> f32 {
    let x = x.clamp(-110.0, 100.0);
    let shifted = x.mul_add(LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    let p = 1.381_459_6e-3_f32;
    let p = p.mul_add(r, 8.368_718e-3);
    let p = p.mul_add(r, 4.166_839e-2);
    let p = p.mul_add(r, 1.666_652_1e-1);
    let p = p.mul_add(r, 4.999_999_4e-1);
    let e = p.mul_add(r * r, r) + 1.0;
    // 2^n as two factors, both normal numbers, so that the result may be subnormal.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()).cast_signed();
    let half = n >> 1;
    e * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// 2^n for -126 <= n <= 127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits(n.wrapping_add(127).cast_unsigned() << 23)
}

/// ln x within 2 ulp, for normal x > 0. Undefined for subnormal, zero, negative and infinite x.
#[inline(always)]
#[must_use]
pub fn ln(x: f32) -> f32 {
    // x = m * 2^n with m between sqrt(1/2) and sqrt(2).
    const ROOT_HALF: u32 = 0x3f35_04f3;
    let offset = x.to_bits().wrapping_sub(ROOT_HALF);
    let n = (offset.cast_signed() >> 23) as f32;
    let m = f32::from_bits((offset & 0x007f_ffff).wrapping_add(ROOT_HALF));
    // ln m = 2 atanh(s)
    let s = (m - 1.0) / (m + 1.0);
    let t = s * s;
    let p = 2.987_173_2e-1_f32;
    let p = p.mul_add(t, 3.997_754e-1);
    let p = p.mul_add(t, 6.666_677_6e-1);
    let tail = n.mul_add(LN_2_LOW, p * t * s);
    let ln = n.mul_add(LN_2_HIGH, 2.0_f32.mul_add(s, tail));
    if x.is_nan() { x } else { ln }
}

/// ln(1 + e) within 2 ulp, for 0 <= e <= 1.
#[inline(always)]
#[must_use]
pub fn ln_1p_unit(e: f32) -> f32 {
    let p = -3.243_981e-3_f32;
    let p = p.mul_add(e, 1.985_126_4e-2);
    let p = p.mul_add(e, -5.695_916e-2);
    let p = p.mul_add(e, 1.060_361_7e-1);
    let p = p.mul_add(e, -1.530_557e-1);
    let p = p.mul_add(e, 1.967_593_1e-1);
    let p = p.mul_add(e, -2.495_413_3e-1);
    let p = p.mul_add(e, 3.332_996_4e-1);
    let p = p.mul_add(e, -4.999_990_2e-1);
    let p = p.mul_add(e, 1.0);
    p * e
}

/// 1 / (1 + e^-x) within 3 ulp, and ln(1 + e^x) within 3 ulp. The two share intermediate results.
#[inline(always)]
#[must_use]
pub fn sigmoid_and_softplus(x: f32) -> (f32, f32) {
    let e = exp(-x.abs());
    let t = 1.0 / (1.0 + e);
    let sigmoid = if x < 0.0 { e * t } else { t };
    let positive = if x < 0.0 { 0.0 } else { x };
    (sigmoid, positive + ln_1p_unit(e))
}

/// 1 / (1 + e^-x) within 3 ulp.
#[inline(always)]
#[must_use]
pub fn sigmoid(x: f32) -> f32 {
    sigmoid_and_softplus(x).0
}

/// Sine and cosine of `turn / 2^32` of a full turn, within 1.2e-7.
#[inline(always)]
#[must_use]
pub fn sin_cos_turn(turn: u32) -> (f32, f32) {
    // The nearest quarter, and an angle from -pi/4 to pi/4 around it.
    let quarter = turn.wrapping_add(1 << 29) >> 30;
    let a = (turn << 2).cast_signed() as f32 * (FRAC_PI_4 / 2_147_483_648.0);
    let t = a * a;
    let p = -1.951_726_6e-4_f32;
    let p = p.mul_add(t, 8.332_178e-3);
    let p = p.mul_add(t, -1.666_665_5e-1);
    let sin = (p * t).mul_add(a, a);
    let p = 2.443_841_4e-5_f32;
    let p = p.mul_add(t, -1.388_736_8e-3);
    let p = p.mul_add(t, 4.166_664_6e-2);
    let cos = (p * t).mul_add(t, t.mul_add(-0.5, 1.0));
    let (s, c) = if quarter & 1 == 0 { (sin, cos) } else { (cos, sin) };
    let sin_sign = (quarter & 2) << 30;
    let cos_sign = (quarter.wrapping_add(1) & 2) << 30;
    (f32::from_bits(s.to_bits() ^ sin_sign), f32::from_bits(c.to_bits() ^ cos_sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error in units in the last place of the exact result.
    fn ulps(found: f32, exact: f64) -> f64 {
        let exponent = (exact.abs().max(f64::from(f32::MIN_POSITIVE))).log2().floor() as i32;
        (f64::from(found) - exact).abs() / 2.0_f64.powi(exponent - 23)
    }

    fn sweep(from: f32, to: f32) -> impl Iterator<Item = f32> {
        const POINTS: u32 = 1_000_003;
        (0..=POINTS).map(move |i| from + (to - from) * (i as f32 / POINTS as f32))
    }

    #[track_caller]
    fn within(
        bound: f64,
        points: impl Iterator<Item = f32>,
        found: impl Fn(f32) -> f32,
        exact: impl Fn(f64) -> f64,
    ) {
        let (mut worst, mut at) = (0.0, 0.0);
        for x in points {
            let error = ulps(found(x), exact(f64::from(x)));
            assert!(!error.is_nan(), "{x}");
            if error > worst {
                (worst, at) = (error, x);
            }
        }
        assert!(worst <= bound, "{worst} ulp at {at}");
    }

    #[test]
    fn exponential() {
        within(1.0, sweep(-103.9, 88.7), exp, f64::exp);
        within(1.0, sweep(-1.0, 1.0), exp, f64::exp);
        assert_eq!(exp(0.0).to_bits(), 1.0_f32.to_bits());
        assert_eq!(exp(-0.0).to_bits(), 1.0_f32.to_bits());
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(89.0), f32::INFINITY);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn logarithm() {
        within(2.0, sweep(1e-9, 4.0), ln, f64::ln);
        within(2.0, sweep(0.99, 1.01), ln, f64::ln);
        within(2.0, sweep(-126.0, 127.9).map(f32::exp2), ln, f64::ln);
        assert_eq!(ln(1.0), 0.0);
        assert!(ln(f32::NAN).is_nan());
    }

    #[test]
    fn logarithm_of_one_plus() {
        within(2.0, sweep(0.0, 1.0), ln_1p_unit, f64::ln_1p);
        within(2.0, sweep(-40.0, 0.0).map(f32::exp2), ln_1p_unit, f64::ln_1p);
    }

    #[test]
    fn logistic_and_softplus() {
        within(3.0, sweep(-87.0, 87.0), sigmoid, |x| 1.0 / (1.0 + (-x).exp()));
        let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
        within(3.0, sweep(-87.0, 87.0), |x| sigmoid_and_softplus(x).1, softplus);
        assert_eq!(sigmoid_and_softplus(-1e30), (0.0, 0.0));
        assert_eq!(sigmoid_and_softplus(1e30), (1.0, 1e30));
        let (sigmoid, softplus) = sigmoid_and_softplus(f32::NAN);
        assert!(sigmoid.is_nan() && softplus.is_nan());
    }

    #[test]
    fn sine_and_cosine() {
        let turns =
            (0..1_000_003_u32).map(|i| i.wrapping_mul(4295)).chain((0..8_u32).flat_map(|eighth| {
                (0..3).map(move |i| (eighth << 29).wrapping_add(i).wrapping_sub(1))
            }));
        for turn in turns {
            let (sin, cos) = sin_cos_turn(turn);
            let angle = f64::from(turn) / 2.0_f64.powi(32) * std::f64::consts::TAU;
            assert!((f64::from(sin) - angle.sin()).abs() < 1.2e-7, "sine of {turn}");
            assert!((f64::from(cos) - angle.cos()).abs() < 1.2e-7, "cosine of {turn}");
        }
    }
}
