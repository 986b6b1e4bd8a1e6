//! The number format bf16: the upper half of an f32, 8 significant bits.

use crate::kernel;

/// A number in bf16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16(u16);

impl Bf16 {
    /// The nearest number, ties to even; subnormal numbers are kept, NaN stays NaN.
    ///
    /// The CPU's own instruction flushes subnormal numbers to zero, so CPUs with and
    /// without it would differ. This integer code gives the same bits on all, and vectorises.
    #[inline(always)]
    #[must_use]
    pub const fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        let upper = bits >> 16;
        // Adds half of a unit of the upper half, or slightly less if a tie would be rounded to odd.
        let rounded = bits.wrapping_add(0x7fff + (upper & 1)) >> 16;
        // Rounding could turn a NaN into infinity: set its highest fraction bit instead.
        let quiet = upper | 0x40;
        Self(if value.is_nan() { quiet } else { rounded } as u16)
    }

    /// The same number as f32.
    #[inline(always)]
    #[must_use]
    pub const fn to_f32(self) -> f32 {
        f32::from_bits((self.0 as u32) << 16)
    }
}

kernel! {
    /// Rounds every number as [`Bf16::from_f32`] does, as many as the shorter slice has. The bits are the same for all
    /// instruction sets.
    pub fn round(from: &[f32], to: &mut [Bf16]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = Bf16::from_f32(*from);
        }
    }
}

kernel! {
    /// Converts bytes, which bf16 holds exactly.
    pub fn from_bytes(from: &[u8], to: &mut [Bf16]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = Bf16::from_f32(f32::from(*from));
        }
    }
}

kernel! {
    /// Multiplies every number by `by` and rounds it.
    pub fn round_scaled(from: &[f32], by: f32, to: &mut [Bf16]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = Bf16::from_f32(*from * by);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::Isa;

    use super::*;

    /// The nearest value in bf16; of two equally near values the even one.
    fn nearest(value: f32) -> u16 {
        let below = (value.to_bits() >> 16) as u16;
        let distance = |upper: u16| {
            // The next value after the largest finite one would be 2^128, which f64 holds.
            let magnitude = match upper & 0x7fff {
                0x7f80 => 2.0_f64.powi(128),
                upper => f64::from(f32::from_bits(u32::from(upper) << 16)),
            };
            (f64::from(value.abs()) - magnitude).abs()
        };
        let above = below + 1;
        match distance(below).total_cmp(&distance(above)) {
            std::cmp::Ordering::Less => below,
            std::cmp::Ordering::Greater => above,
            std::cmp::Ordering::Equal => below + (below & 1),
        }
    }

    /// All upper halves, each with lower halves around its ties and some others.
    fn patterns() -> Vec<f32> {
        let lower = [0, 1, 0x1234, 0x7fff, 0x8000, 0x8001, 0xfedc, 0xffff];
        let upper = 0..=u16::MAX;
        upper
            .flat_map(|upper| lower.map(|lower| f32::from_bits(u32::from(upper) << 16 | lower)))
            .collect()
    }

    #[test]
    fn it_rounds_to_the_nearest() {
        for value in patterns() {
            let found = Bf16::from_f32(value);
            if value.is_nan() {
                assert!(found.to_f32().is_nan(), "{:x}", value.to_bits());
            } else if value.is_infinite() {
                assert_eq!(found.to_f32(), value);
            } else {
                assert_eq!(found.0, nearest(value), "{:x}", value.to_bits());
            }
        }
    }

    #[test]
    fn what_fits_is_kept() {
        for upper in 0..=u16::MAX {
            let value = Bf16(upper).to_f32();
            if !value.is_nan() {
                assert_eq!(Bf16::from_f32(value).0, upper);
            }
        }
        for byte in 0..=u8::MAX {
            assert_eq!(Bf16::from_f32(f32::from(byte)).to_f32(), f32::from(byte));
        }
    }

    #[test]
    fn all_instruction_sets_give_the_same_bits() {
        let values = patterns();
        let expected: Vec<Bf16> = values.iter().map(|value| Bf16::from_f32(*value)).collect();
        let bytes: Vec<u8> = (0..=u8::MAX).chain(3..200).collect();
        let whole: Vec<Bf16> = bytes.iter().map(|&b| Bf16::from_f32(b.into())).collect();
        for isa in Isa::available() {
            for from in [0, 1, 7] {
                let mut found = vec![Bf16::default(); values.len() - from];
                round(isa, &values[from..], &mut found);
                assert!(found == expected[from..], "{}", isa.name());
            }
            let mut found = vec![Bf16::default(); bytes.len()];
            from_bytes(isa, &bytes, &mut found);
            assert_eq!(found, whole, "{}", isa.name());
            // The quotient of a pixel times 255 rounds to the pixel.
            let quotients: Vec<f32> = bytes.iter().map(|&b| f32::from(b) / 255.0).collect();
            round_scaled(isa, &quotients, 255.0, &mut found);
            assert_eq!(found, whole, "{}", isa.name());
        }
    }
}
