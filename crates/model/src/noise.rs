//! Standard normal noise from a counter-based stream.
//!
//! Philox gives four words per block; two words give two normal numbers (Box and Muller 1958). The
//! k-th number of a stream depends on the stream and k alone, so a shorter vector is a
//! prefix of a longer one. The stream is chosen by the caller.

use data::Stream;

use crate::{
    kernel,
    math::{ln, sin_cos_turn},
};

/// Blocks that are computed together: one vector register for each of the four words.
const BLOCKS: usize = 16;
const NORMALS: usize = 4 * BLOCKS;

kernel! {
    /// Fills `out` with standard normal numbers; the bits are the same for all instruction sets.
    pub fn normals(stream: Stream, out: &mut [f32]) {
        let mut first = 0_u32;
        let mut groups = out.chunks_exact_mut(NORMALS);
        for group in &mut groups {
            fill(stream, first, group);
            first = first.wrapping_add(BLOCKS as u32);
        }
        let rest = groups.into_remainder();
        if !rest.is_empty() {
            let mut group = [0.0; NORMALS];
            fill(stream, first, &mut group);
            rest.copy_from_slice(&group[..rest.len()]);
        }
    }
}

/// The 64 normal numbers of blocks `first..first + 16`.
#[inline(always)]
fn fill(stream: Stream, first: u32, out: &mut [f32]) {
    let mut words = [[0_u32; BLOCKS]; 4];
    for i in 0..BLOCKS {
        let block = stream.block(first.wrapping_add(i as u32));
        for (word, value) in words.iter_mut().zip(block) {
            word[i] = value;
        }
    }
    let (front, back) = out.split_at_mut(2 * BLOCKS);
    box_muller(&words[0], &words[1], front);
    box_muller(&words[2], &words[3], back);
}

/// Computes the radius from one word and the angle from the other.
#[inline(always)]
fn box_muller(radius: &[u32; BLOCKS], angle: &[u32; BLOCKS], out: &mut [f32]) {
    let (cosines, sines) = out.split_at_mut(BLOCKS);
    for (((cosine, sine), &radius), &angle) in cosines.iter_mut().zip(sines).zip(radius).zip(angle)
    {
        // In (0, 1] and never zero, so the radius is at most 6.8.
        let u = (radius as f32 + 0.5) * (1.0 / 4_294_967_296.0);
        let r = (-2.0 * ln(u)).sqrt();
        let (s, c) = sin_cos_turn(angle);
        *cosine = r * c;
        *sine = r * s;
    }
}

#[cfg(test)]
mod tests {
    use data::Domain;

    use crate::Isa;

    use super::*;

    fn stream(step: u64) -> Stream {
        Stream::new(3, Domain::Noise, step, 1)
    }

    #[test]
    fn moments_and_tails_are_those_of_a_normal() {
        const N: usize = 1 << 20;
        let mut out = vec![0.0; N];
        normals(Isa::best(), stream(0), &mut out);
        let moment =
            |power: i32| out.iter().map(|&x| f64::from(x).powi(power)).sum::<f64>() / N as f64;
        // Five standard errors of each sample moment.
        let n = N as f64;
        assert!(moment(1).abs() < 5.0 * (1.0 / n).sqrt());
        assert!((moment(2) - 1.0).abs() < 5.0 * (2.0 / n).sqrt());
        assert!(moment(3).abs() < 5.0 * (15.0 / n).sqrt());
        assert!((moment(4) - 3.0).abs() < 5.0 * (96.0 / n).sqrt());
        let beyond = |limit: f32| out.iter().filter(|x| x.abs() > limit).count() as f64 / n;
        for (limit, share) in [(1.0, 0.317_311), (2.0, 0.045_500), (3.0, 0.002_700)] {
            let error: f64 = share * (1.0 - share) / n;
            assert!((beyond(limit) - share).abs() < 5.0 * error.sqrt(), "beyond {limit}");
        }
        let neighbours = out.windows(2).map(|w| f64::from(w[0] * w[1])).sum::<f64>() / (n - 1.0);
        assert!(neighbours.abs() < 5.0 / n.sqrt());
    }

    #[test]
    fn a_shorter_vector_is_a_prefix_and_streams_differ() {
        let mut long = vec![0.0; 500];
        normals(Isa::best(), stream(7), &mut long);
        for len in [0, 1, 63, 64, 65, 499] {
            let mut short = vec![0.0; len];
            normals(Isa::best(), stream(7), &mut short);
            assert_eq!(short, long[..len]);
        }
        let mut other = vec![0.0; 500];
        normals(Isa::best(), stream(8), &mut other);
        assert!(long.iter().zip(&other).all(|(a, b)| a != b));
    }

    #[test]
    fn all_instruction_sets_give_the_same_bits() {
        let draw = |isa| {
            let mut out = vec![0.0; 100_003];
            normals(isa, stream(1), &mut out);
            out.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
        };
        let expected = draw(Isa::available()[0]);
        for isa in Isa::available() {
            assert!(draw(isa) == expected, "{}", isa.name());
        }
    }

    #[test]
    fn a_radius_word_of_zero_is_finite() {
        let mut out = [0.0; 2 * BLOCKS];
        box_muller(&[0; BLOCKS], &[0; BLOCKS], &mut out);
        assert!(out[0] > 6.7 && out[0] < 6.9);
        box_muller(&[u32::MAX; BLOCKS], &[1 << 30; BLOCKS], &mut out);
        assert!(out.iter().all(|x| x.abs() == 0.0));
    }
}
