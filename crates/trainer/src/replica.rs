//! The state that a trainer advances, and the arithmetic that advances it. Only this module knows where
//! the memory of the state is.

use std::{
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use collective::{
    Contribution, Digest, Interrupted, Kind, Outcome, Round, STATE_VECTORS, SharedState,
    StateVectors, Step,
};
use model::{Adam, Isa, State, StateView, Team};

use crate::Snapshot;

/// The state after the last complete step.
///
/// The state is in the memory of this process, in memory that the members of a generation share, or on
/// the model's device. To keep the state while training goes on, take a [`Replica::snapshot`].
pub struct Replica {
    home: Home,
    /// The previous state, of which a snapshot was taken. Its memory is reused once the snapshot is
    /// dropped.
    spare: Option<Arc<State>>,
    /// The snapshots of states in shared memory that may still have to be copied.
    snapshots: Mutex<Vec<Snapshot>>,
}

enum Home {
    Own(Arc<State>),
    /// In shared memory of the current generation or of the previous one. The state is only read.
    Shared {
        step: u64,
        vectors: Arc<dyn StateVectors>,
    },
    /// On the model's device, such as a GPU, with the copy that was fetched since the last update, if
    /// any.
    Device {
        step: u64,
        copy: Option<Arc<State>>,
    },
}

const NOT_FETCHED: &str = "the state is on a device, and was not fetched";

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("step", &self.step()).finish_non_exhaustive()
    }
}

impl Replica {
    /// A replica with this state.
    #[must_use]
    pub fn new(state: State) -> Self {
        Self { home: Home::Own(Arc::new(state)), spare: None, snapshots: Mutex::default() }
    }

    /// Updates applied so far.
    #[must_use]
    pub fn step(&self) -> u64 {
        match &self.home {
            Home::Own(state) => state.step,
            Home::Shared { step, .. } | Home::Device { step, .. } => *step,
        }
    }

    /// Whether the state can be read: the state or a copy of it is in this host's memory.
    #[must_use]
    pub fn is_at_hand(&self) -> bool {
        !matches!(self.home, Home::Device { copy: None, .. })
    }

    /// The parameters, unless the model has them.
    pub(crate) fn parameters(&self) -> Option<&[f32]> {
        (!self.is_on_device()).then(|| self.view().parameters)
    }

    pub(crate) fn is_on_device(&self) -> bool {
        matches!(self.home, Home::Device { .. })
    }

    /// The state.
    ///
    /// # Panics
    /// If the state is not [at hand](Self::is_at_hand).
    #[must_use]
    pub fn view(&self) -> StateView<'_> {
        match &self.home {
            Home::Own(state) => state.view(),
            Home::Device { copy, .. } => copy.as_ref().expect(NOT_FETCHED).view(),
            Home::Shared { step, vectors } => {
                let [parameters, exp_avg, exp_avg_sq] = vectors.vectors();
                StateView { step: *step, parameters, exp_avg, exp_avg_sq }
            }
        }
    }

    /// The digest of the state.
    ///
    /// # Panics
    /// As [`Replica::view`].
    #[must_use]
    pub fn digest(&self, team: &Team) -> Digest {
        self.view().digest(team)
    }

    /// The current state, kept unchanged for as long as the snapshot lives. This call copies nothing.
    ///
    /// # Panics
    /// As [`Replica::view`].
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        match &self.home {
            Home::Own(state) => Snapshot::own(Arc::clone(state)),
            Home::Device { copy, .. } => {
                Snapshot::own(Arc::clone(copy.as_ref().expect(NOT_FETCHED)))
            }
            Home::Shared { step, vectors } => {
                let mut snapshots = self.snapshots();
                // All snapshots of one state share one copy.
                if let Some(taken) = snapshots.iter().find(|snapshot| snapshot.step() == *step) {
                    return taken.clone();
                }
                let snapshot = Snapshot::shared(*step, Arc::clone(vectors));
                snapshots.push(snapshot.clone());
                snapshot
            }
        }
    }

    /// The place where other processes of this host find the state, until the update after the next
    /// one. None if the state is in this process alone.
    #[must_use]
    pub fn place(&self) -> Option<String> {
        match &self.home {
            Home::Own(_) | Home::Device { .. } => None,
            Home::Shared { vectors, .. } => vectors.place(),
        }
    }

    fn snapshots(&self) -> MutexGuard<'_, Vec<Snapshot>> {
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies the wanted snapshots of earlier states that are not copied yet, because the next step
    /// writes to their memory.
    fn let_go(&self) {
        let step = self.step();
        self.snapshots().retain(|snapshot| {
            let is_current = snapshot.step() == step;
            if !is_current && snapshot.is_wanted() {
                snapshot.state();
            }
            is_current
        });
    }

    /// Replaces the state.
    pub(crate) fn restore(&mut self, state: State) {
        self.home = Home::Own(Arc::new(state));
    }

    /// Applies the mean gradient to the whole state.
    pub(crate) fn update(&mut self, adam: &Adam, team: &Team, sum: &[f32], examples: u32) {
        self.let_go();
        if let Home::Own(state) = &mut self.home
            && let Some(state) = Arc::get_mut(state)
        {
            adam.apply_with(Isa::best(), team, state, sum, examples);
        } else {
            let spare = self.spare.take().and_then(Arc::into_inner);
            let mut next = spare.unwrap_or_else(|| State::zeros(sum.len()));
            adam.apply_beside(Isa::best(), team, self.view(), &mut next, sum, examples);
            if let Home::Own(before) = mem::replace(&mut self.home, Home::Own(Arc::new(next))) {
                self.spare = Some(before);
            }
        }
        if let Home::Own(_state) = &mut self.home {
            crashpoint::flip!("trainer.updated", &mut Arc::make_mut(_state).parameters);
        }
    }

    /// Hands the state to the model, which has loaded it.
    pub(crate) fn lend(&mut self) {
        let copy = Some(Arc::clone(self.snapshot().state()));
        (self.home, self.spare) = (Home::Device { step: self.step(), copy }, None);
    }

    /// Notes an update that the model has done.
    pub(crate) fn note_update(&mut self) {
        self.home = Home::Device { step: self.step() + 1, copy: None };
    }

    /// Notes the copy of the model's state: parameters and both moments.
    pub(crate) fn note_copy(&mut self, vectors: [Vec<f32>; STATE_VECTORS]) {
        let (step, [parameters, exp_avg, exp_avg_sq]) = (self.step(), vectors);
        let copy = Arc::new(State { step, parameters, exp_avg, exp_avg_sq });
        self.home = Home::Device { step, copy: Some(copy) };
    }

    /// Takes the state back from the model. A copy of it must be at hand.
    pub(crate) fn take_back(&mut self) {
        if let Home::Device { copy, .. } = &mut self.home {
            self.home = Home::Own(copy.take().expect(NOT_FETCHED));
        }
    }

    /// Moves the state to the memory that the members share, if there is such memory. Tells whether the
    /// move has freed memory of this process.
    pub(crate) fn move_in(
        &mut self,
        shared: Option<&mut dyn SharedState>,
    ) -> Result<bool, Interrupted> {
        let Some(shared) = shared else { return Ok(false) };
        let step = self.step();
        let round = Round { step: Step(step), kind: Kind::Train };
        shared.bring_in(round, self.view().vectors())?;
        self.spare = None;
        let before = mem::replace(&mut self.home, Home::Shared { step, vectors: shared.held() });
        Ok(matches!(before, Home::Own(_)))
    }

    /// Contributes this member's partials, and waits for the other members' partials.
    pub(crate) fn gather(
        &self,
        shared: &mut dyn SharedState,
        contribution: &Contribution,
    ) -> Result<Outcome, Interrupted> {
        self.let_go();
        shared.gather(Round { step: Step(self.step()), kind: Kind::Train }, contribution)
    }

    /// Applies the mean of the gathered gradient to this member's segment of the shared state.
    pub(crate) fn update_shared(
        &mut self,
        shared: &mut dyn SharedState,
        adam: &Adam,
        team: &Team,
        examples: u32,
    ) -> Result<(), Interrupted> {
        let step = self.step() + 1;
        let update = adam.update(Isa::best(), step, examples);
        shared.advance(&mut |parts| {
            team.each(parts, |part| {
                part.each(|sum, old, new| {
                    update.apply_beside(old, new, sum);
                    crashpoint::reach!("trainer.updating");
                });
            });
        })?;
        self.home = Home::Shared { step, vectors: shared.held() };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 3000;

    fn initial() -> State {
        let mut state = State::zeros(LEN);
        state.parameters.iter_mut().enumerate().for_each(|(i, p)| *p = i as f32);
        state
    }

    fn sum(step: u64) -> Vec<f32> {
        (0..LEN).map(|i| (i as f32 + step as f32).cos()).collect()
    }

    #[test]
    fn snapshots_keep_their_states_and_change_no_bit_of_those_that_follow() {
        let (adam, team) = (Adam::new(1e-3), Team::new(2));
        let (mut plain, mut replica) = (initial(), Replica::new(initial()));
        let mut kept = Vec::new();
        for step in 0..6 {
            // Some are held for a step, some for longer, some not at all.
            if step != 2 {
                let snapshot = replica.snapshot();
                assert!(snapshot.vectors()[0].as_ptr() == replica.view().parameters.as_ptr());
                kept.push((snapshot, plain.clone()));
            }
            if step == 4 {
                kept.remove(0);
            }
            replica.update(&adam, &team, &sum(step), 64);
            adam.apply(&mut plain, &sum(step), 64);
            assert_eq!(replica.view(), plain.view());
            assert!(kept.iter().all(|(snapshot, state)| **snapshot.state() == *state));
        }
    }

    #[test]
    fn the_memory_of_a_snapshot_is_used_again() {
        let (adam, team) = (Adam::new(1e-3), Team::default());
        let mut replica = Replica::new(initial());
        let mut places = Vec::new();
        for step in 0..6 {
            let snapshot = replica.snapshot();
            places.push(snapshot.vectors()[0].as_ptr());
            replica.update(&adam, &team, &sum(step), 64);
        }
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), 2);
    }
}
