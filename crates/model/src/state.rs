//! The state of a training run: everything that later steps depend on. It does not know how it is saved or sent.

use collective::{Digest, STATE_VECTORS, StateVectors};

use crate::{
    Model, Team,
    digest::{BLOCK, Hasher, block_hash},
};

/// Parameters and optimizer after `step` updates. Each vector has the layout's length.
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

/// A borrowed state, wherever its memory is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StateView<'a> {
    /// Updates applied so far.
    pub step: u64,
    /// The parameters.
    pub parameters: &'a [f32],
    /// Adam's running mean of the gradient.
    pub exp_avg: &'a [f32],
    /// Adam's running mean of the squared gradient.
    pub exp_avg_sq: &'a [f32],
}

/// Blocks whose hashes are kept on the stack together: those of a million floats.
const GROUP: usize = 64;

impl State {
    /// The state before the first step.
    #[must_use]
    pub fn initial<M: Model + ?Sized>(model: &M, seed: u64) -> Self {
        let mut state = Self::zeros(model.layout().len());
        model.initialise(seed, &mut state.parameters);
        state
    }

    /// A state with vectors of this length, all zero.
    #[must_use]
    pub fn zeros(len: usize) -> Self {
        let vector = || vec![0.0; len];
        Self { step: 0, parameters: vector(), exp_avg: vector(), exp_avg_sq: vector() }
    }

    /// A view of this state.
    #[must_use]
    pub fn view(&self) -> StateView<'_> {
        let Self { step, parameters, exp_avg, exp_avg_sq } = self;
        StateView { step: *step, parameters, exp_avg, exp_avg_sq }
    }

    /// [`StateView::digest`].
    #[must_use]
    pub fn digest(&self, team: &Team) -> Digest {
        self.view().digest(team)
    }
}

impl<'a> StateView<'a> {
    /// The three vectors, in the order that digests and transfers use.
    #[must_use]
    pub const fn vectors(&self) -> [&'a [f32]; STATE_VECTORS] {
        [self.parameters, self.exp_avg, self.exp_avg_sq]
    }

    /// A copy with its own memory.
    #[must_use]
    pub fn to_state(&self) -> State {
        let [parameters, exp_avg, exp_avg_sq] = self.vectors().map(<[f32]>::to_vec);
        State { step: self.step, parameters, exp_avg, exp_avg_sq }
    }

    /// The digest of parameters and both moments, in this order, as [`Hasher`] defines it.
    #[must_use]
    pub fn digest(&self, team: &Team) -> Digest {
        let mut root = Hasher::new(self.step, self.parameters.len());
        for vector in self.vectors() {
            for group in vector.chunks(GROUP * BLOCK) {
                let mut hashes = [[0; size_of::<u128>()]; GROUP];
                let parts = hashes.iter_mut().zip(group.chunks(BLOCK));
                team.each(parts, |(hash, block)| *hash = block_hash(block));
                root.add(&hashes[..group.len().div_ceil(BLOCK)]);
            }
        }
        root.digest()
    }
}

impl StateVectors for State {
    fn vectors(&self) -> [&[f32]; STATE_VECTORS] {
        self.view().vectors()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(len: u32) -> State {
        let vector = |scale: f32| (0..len).map(|i| scale * i as f32).collect();
        State { step: 7, parameters: vector(1.0), exp_avg: vector(2.0), exp_avg_sq: vector(3.0) }
    }

    /// The definition, step by step.
    fn defined(state: &State) -> Digest {
        let xxh3 = |bytes: &[u8]| xxhash_rust::xxh3::xxh3_128(bytes).to_be_bytes();
        let mut root = [state.step, state.parameters.len() as u64].map(u64::to_le_bytes).concat();
        for vector in [&state.parameters, &state.exp_avg, &state.exp_avg_sq] {
            for block in vector.chunks(16384) {
                let bytes: Vec<u8> = block.iter().flat_map(|value| value.to_le_bytes()).collect();
                root.extend(xxh3(&bytes));
            }
        }
        Digest(xxh3(&root))
    }

    #[test]
    fn the_digest_is_that_of_the_definition_for_all_teams() {
        let teams = [1, 2, 3].map(Team::new);
        for len in [0, 1, 2000, 16384, 16385, 3 * 16384, 65 * 16384 + 9] {
            let state = state(len);
            for team in &teams {
                assert_eq!(state.digest(team), defined(&state), "{len} {team:?}");
            }
        }
    }

    #[test]
    fn any_bit_changes_the_digest() {
        let team = Team::new(2);
        let original = state(40_000).digest(&team);
        assert_eq!(state(40_000).digest(&team), original);
        let mut stepped = state(40_000);
        stepped.step += 1;
        assert_ne!(stepped.digest(&team), original);
        for place in [0, 1023, 16383, 16384, 39_999] {
            for vector in 0..3 {
                for bit in [0, 13, 31] {
                    let mut changed = state(40_000);
                    let vectors =
                        [&mut changed.parameters, &mut changed.exp_avg, &mut changed.exp_avg_sq];
                    let value = &mut vectors.into_iter().nth(vector).unwrap()[place];
                    *value = f32::from_bits(value.to_bits() ^ 1 << bit);
                    let digest = changed.digest(&team);
                    assert_ne!(digest, original, "vector {vector}, {place}, bit {bit}");
                }
            }
        }
    }
}
