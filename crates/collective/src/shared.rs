//! A state that the members of a generation hold together, in memory that they share: each advances
//! its segment, for all.

use std::{ops::Range, sync::Arc};

use crate::{Contribution, Interrupted, Outcome, Reducer, Round, STATE_VECTORS, StateVectors};

/// Floats of each vector that are advanced at a time. With the sum, a state and the next one,
/// 28 KB.
const BLOCK: usize = 1024;

/// The parts of a member's segment, which several threads may advance at a time.
pub type Parts<'a, 'b> = &'a mut (dyn Iterator<Item = Part<'b>> + Send);

/// A state in memory that is shared.
///
/// A generation brings its state in once. Then follow the rounds of kind
/// [`Train`](crate::Kind::Train), each a [`gather`](Self::gather) and an
/// [`advance`](Self::advance); those of kind [`Evaluate`](crate::Kind::Evaluate) are all-reduces as
/// ever. A round that is interrupted leaves the state of the step before, whole.
pub trait SharedState {
    /// Writes this member's segment of the state that all members have, and waits until the
    /// others have written theirs. `round` is the one that comes next.
    ///
    /// # Errors
    /// [`Interrupted`]; the members then have the state where they had it before.
    ///
    /// # Panics
    /// When called again, or with vectors of another length.
    fn bring_in(&mut self, round: Round, state: [&[f32]; STATE_VECTORS])
    -> Result<(), Interrupted>;

    /// The state after the last update. It can be kept for as long as is wanted when this is
    /// dropped; else it is to be dropped before the update after the next one.
    fn held(&mut self) -> Arc<dyn StateVectors>;

    /// Waits until every member has contributed its partials of the round, and adds up what
    /// travels with them.
    ///
    /// # Errors
    /// As [`AllReduce::all_reduce`](crate::AllReduce::all_reduce).
    ///
    /// # Panics
    /// When somebody still holds the state before the last one: the next one is written there.
    fn gather(&mut self, round: Round, contribution: &Contribution)
    -> Result<Outcome, Interrupted>;

    /// Writes the floats from `start` on of the sum of the gathered partials, for one who wants to look
    /// at them.
    ///
    /// # Panics
    /// When nothing was gathered, or the sum has not so many floats.
    fn add_up(&mut self, start: usize, sum: &mut [f32]);

    /// Has `update` write the next state in this member's segment, and waits until the others have
    /// written theirs.
    ///
    /// # Errors
    /// [`Interrupted`]; the state is then the one before.
    ///
    /// # Panics
    /// When nothing was gathered.
    fn advance(&mut self, update: &mut dyn FnMut(Parts<'_, '_>)) -> Result<(), Interrupted>;
}

/// All members' partials, once they have contributed them.
pub trait Partials: Sync {
    /// The floats in `range` of the partial with this index.
    fn partial(&self, index: usize, range: Range<usize>) -> &[f32];
}

/// A part of a member's segment: the partials of all members, a state, and the place of the next.
pub struct Part<'a> {
    /// The order of addition.
    pub reducer: &'a mut Reducer,
    /// What is added.
    pub partials: &'a dyn Partials,
    /// Where in the vectors the part begins.
    pub start: usize,
    /// The state.
    pub old: [&'a [f32]; STATE_VECTORS],
    /// The next state.
    pub new: [&'a mut [f32]; STATE_VECTORS],
}

impl Part<'_> {
    /// Hands the sum of the partials, the state and the place of the next one to `advance`, a block
    /// after the other.
    pub fn each(
        self,
        mut advance: impl FnMut(&[f32], [&[f32]; STATE_VECTORS], [&mut [f32]; STATE_VECTORS]),
    ) {
        let Self { reducer, partials, start, old, mut new } = self;
        let mut sum = [0.0; BLOCK];
        let length = old[0].len();
        for begin in (0..length).step_by(BLOCK) {
            let end = (begin + BLOCK).min(length);
            let sum = &mut sum[..end - begin];
            reducer.add(|index| partials.partial(index, start + begin..start + end), sum);
            let old = old.map(|vector| &vector[begin..end]);
            advance(sum, old, new.each_mut().map(|vector| &mut vector[begin..end]));
        }
    }
}

impl std::fmt::Debug for Part<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Part").field("start", &self.start).finish_non_exhaustive()
    }
}
