//! A state that the members of a generation keep in shared memory. Each member advances its segment of
//! the state for all members.

use std::{ops::Range, sync::Arc};

use crate::{Contribution, Interrupted, Outcome, Reducer, Round, STATE_VECTORS, StateVectors};

/// Floats of each vector that are advanced at a time. A block of the sum, of the state and of the
/// next state takes 28 KB.
const BLOCK: usize = 1024;

/// The parts of a member's segment. Several threads may advance them at the same time.
pub type Parts<'a, 'b> = &'a mut (dyn Iterator<Item = Part<'b>> + Send);

/// A state in shared memory.
///
/// A generation copies its state in once. Then each round of kind [`Train`](crate::Kind::Train) is a
/// [`gather`](Self::gather) and an [`advance`](Self::advance). Rounds of other kinds are ordinary
/// all-reduces. An interrupted round leaves the state of the step before intact.
pub trait SharedState {
    /// Writes this member's segment of `state`, which is equal on all members, and waits until the
    /// others have written their segments. `round` is the next round.
    ///
    /// # Errors
    /// [`Interrupted`]; every member then still has the state in its own memory.
    ///
    /// # Panics
    /// When called a second time, or with vectors of another length.
    fn bring_in(&mut self, round: Round, state: [&[f32]; STATE_VECTORS])
    -> Result<(), Interrupted>;

    /// The state after the last update. The caller drops it before the update after the next one;
    /// after this `SharedState` is dropped, the caller may keep it for as long as it wants.
    fn held(&mut self) -> Arc<dyn StateVectors>;

    /// Waits until every member has contributed its partials of the round, and adds up the
    /// tallies that travel with them.
    ///
    /// # Errors
    /// As [`AllReduce::all_reduce`](crate::AllReduce::all_reduce).
    ///
    /// # Panics
    /// When the state before the last one is still [held](Self::held): the next state is written
    /// to its memory.
    fn gather(&mut self, round: Round, contribution: &Contribution)
    -> Result<Outcome, Interrupted>;

    /// Writes the floats from `start` on of the sum of the gathered partials into `sum`. The caller
    /// needs them for a report, not for the update.
    ///
    /// # Panics
    /// When nothing was gathered, or the range ends after the last float.
    fn add_up(&mut self, start: usize, sum: &mut [f32]);

    /// Calls `update` to write this member's segment of the next state, and waits until the others
    /// have written their segments.
    ///
    /// # Errors
    /// [`Interrupted`]; the state is then still the one before the update.
    ///
    /// # Panics
    /// When nothing was gathered.
    fn advance(&mut self, update: &mut dyn FnMut(Parts<'_, '_>)) -> Result<(), Interrupted>;
}

/// The partials of all members, after all have contributed.
pub trait Partials: Sync {
    /// The floats in `range` of the partial with this index.
    fn partial(&self, index: usize, range: Range<usize>) -> &[f32];
}

/// A part of a member's segment: the partials of all members, the state, and the memory of the next
/// state.
pub struct Part<'a> {
    /// The order of addition.
    pub reducer: &'a mut Reducer,
    /// The partials that are added.
    pub partials: &'a dyn Partials,
    /// The index in the vectors at which the part begins.
    pub start: usize,
    /// The state.
    pub old: [&'a [f32]; STATE_VECTORS],
    /// The next state.
    pub new: [&'a mut [f32]; STATE_VECTORS],
}

impl Part<'_> {
    /// Calls `advance` for one block after the other, with the sum of the partials, the state and the
    /// memory of the next state.
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
