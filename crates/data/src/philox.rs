//! Counter-based random streams: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
//!
//! A number is a pure function of (seed, its purpose, where it is used), so it does not depend on which process
//! computes it, or in which order. This file makes uniform 32-bit words only; the caller turns them into other
//! distributions.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// The golden ratio and sqrt(3) - 1: the key is increased by these after each round.
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;
/// The domain takes the upper bits of the counter's last word, which `a` leaves free.
const DOMAIN_SHIFT: u32 = 24;

/// The purpose of a stream. Streams of different domains never share a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Domain {
    /// Initial parameters; `a` is the tensor's index.
    Initial = 1,
    /// The order of an epoch; `a` is the epoch.
    Order = 2,
    /// The reparameterization noise of training; `a` is the step, `b` the shard.
    Noise = 3,
    /// The noise of an evaluation.
    Evaluation = 4,
    /// Samples from the prior.
    Sample = 5,
    /// The draws for an example in a pass; `a` is the epoch, `b` the example.
    Pass = 6,
}

/// A stream of 2^32 blocks of four words each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    key: [u32; 2],
    counter: [u32; 4],
}

impl Stream {
    /// The stream for (`seed`, `domain`, `a`, `b`). Streams differ for all `a` below 2^56; higher bits are ignored.
    pub fn new(seed: u64, domain: Domain, a: u64, b: u32) -> Stream {
        let high = (a >> 32) as u32 & ((1 << DOMAIN_SHIFT) - 1);
        let high = high | (domain as u32) << DOMAIN_SHIFT;
        Stream { key: [seed as u32, (seed >> 32) as u32], counter: [0, b, a as u32, high] }
    }

    /// Block `index` of the stream: four uniform words. It has no branches, so that a loop over it vectorises.
    #[inline(always)]
    pub fn block(&self, index: u32) -> [u32; 4] {
        let [_, b, low, high] = self.counter;
        philox4x32([index, b, low, high], self.key)
    }

    /// The key: the seed, low word first.
    pub fn key(&self) -> [u32; 2] {
        self.key
    }

    /// The counter of block 0; the first word counts the blocks.
    pub fn counter(&self) -> [u32; 4] {
        self.counter
    }
}

#[inline(always)]
fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let even = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let odd = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (odd >> 32) as u32 ^ counter[1] ^ key[0],
            odd as u32,
            (even >> 32) as u32 ^ counter[3] ^ key[1],
            even as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// From `kat_vectors` of Random123: counter, key, result.
    const KNOWN: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
        ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
        ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        ),
    ];

    #[test]
    fn known_answers() {
        for (counter, key, expected) in KNOWN {
            assert_eq!(philox4x32(counter, key), expected);
        }
    }

    #[test]
    fn a_stream_reaches_the_known_answer_through_its_fields() {
        let (counter, key, expected) = KNOWN[2];
        // The domain byte of this vector is 3, noise.
        let a = u64::from(counter[3] & 0x00ff_ffff) << 32 | u64::from(counter[2]);
        let seed = u64::from(key[1]) << 32 | u64::from(key[0]);
        let stream = Stream::new(seed, Domain::Noise, a, counter[1]);
        assert_eq!(stream.key(), key);
        assert_eq!(stream.counter(), [0, counter[1], counter[2], counter[3]]);
        assert_eq!(stream.block(counter[0]), expected);
    }

    #[test]
    fn different_fields_give_different_streams() {
        let mut seen = HashSet::new();
        for seed in [0, 1, 1 << 32, u64::MAX] {
            for domain in [Domain::Initial, Domain::Order, Domain::Noise, Domain::Pass] {
                for a in [0, 1, 1 << 32, (1 << 56) - 1] {
                    for b in [0, 1, u32::MAX] {
                        for block in [0, 1, u32::MAX] {
                            let words = Stream::new(seed, domain, a, b).block(block);
                            assert!(seen.insert(words), "{seed} {domain:?} {a} {b} {block}");
                        }
                    }
                }
            }
        }
    }
}
