//! Everything that a run's future depends on. It does not know how it is saved or sent.

use collective::Digest;
use xxhash_rust::xxh3::Xxh3;

use crate::Model;

/// Parameters and optimizer after `step` updates; each vector as long as the layout.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Updates applied so far.
    pub step: u64,
    /// The parameters.
    pub parameters: Vec<f32>,
    /// Adam's running mean of the gradient.
    pub exp_avg: Vec<f32>,
    /// Adam's running mean of the squared gradient.
    pub exp_avg_sq: Vec<f32>,
}

/// How many floats are turned into bytes at a time: 4 KB, which stay in the first cache.
const CHUNK_FLOATS: usize = 1024;

impl State {
    /// The state before the first step.
    #[must_use]
    pub fn initial<M: Model + ?Sized>(model: &M, seed: u64) -> Self {
        let len = model.layout().len();
        let mut parameters = vec![0.0; len];
        model.initialise(seed, &mut parameters);
        Self { step: 0, parameters, exp_avg: vec![0.0; len], exp_avg_sq: vec![0.0; len] }
    }

    /// XXH3-128 over the step and the three vectors in this order, little endian. Any bit
    /// counts: 0.0 and -0.0 differ.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut hasher = Xxh3::new();
        hasher.update(&self.step.to_le_bytes());
        for vector in [&self.parameters, &self.exp_avg, &self.exp_avg_sq] {
            let mut bytes = [[0_u8; 4]; CHUNK_FLOATS];
            for chunk in vector.chunks(CHUNK_FLOATS) {
                for (bytes, value) in bytes.iter_mut().zip(chunk) {
                    *bytes = value.to_le_bytes();
                }
                hasher.update(bytes[..chunk.len()].as_flattened());
            }
        }
        Digest(hasher.digest128().to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let vector = |scale: f32| (0..2000_u16).map(|i| scale * f32::from(i)).collect();
        State { step: 7, parameters: vector(1.0), exp_avg: vector(2.0), exp_avg_sq: vector(3.0) }
    }

    #[test]
    fn the_digest_is_that_of_the_bytes() {
        let state = state();
        let mut bytes = state.step.to_le_bytes().to_vec();
        for value in state.parameters.iter().chain(&state.exp_avg).chain(&state.exp_avg_sq) {
            bytes.extend(value.to_le_bytes());
        }
        let expected = xxhash_rust::xxh3::xxh3_128(&bytes);
        assert_eq!(state.digest(), Digest(expected.to_be_bytes()));
    }

    #[test]
    fn any_bit_changes_the_digest() {
        let original = state().digest();
        assert_eq!(state().digest(), original);
        let mut stepped = state();
        stepped.step += 1;
        assert_ne!(stepped.digest(), original);
        for place in [0, 1023, 1024, 1999] {
            for vector in 0..3 {
                for bit in [0, 13, 31] {
                    let mut changed = state();
                    let vectors =
                        [&mut changed.parameters, &mut changed.exp_avg, &mut changed.exp_avg_sq];
                    let value = &mut vectors.into_iter().nth(vector).unwrap()[place];
                    *value = f32::from_bits(value.to_bits() ^ 1 << bit);
                    assert_ne!(changed.digest(), original, "vector {vector}, {place}, bit {bit}");
                }
            }
        }
    }
}
