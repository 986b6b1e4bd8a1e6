//! The state in a segment: brought in once, then advanced by all members, each in its segment.
//!
//! There are two buffers. An update reads the one and writes the other, and once all members have
//! written their segments, the two change places. So the state that a member has is never written to:
//! whatever happens in an update, it can be left as if it had not begun. Why no member writes to
//! what another still reads is argued in [`super`].

use std::{mem, sync::Arc};

use collective::{
    Contribution, Interrupted, Kind, Outcome, Reducer, Round, STATE_VECTORS, StateVectors,
    shared::{Part, Partials as _, Parts, SharedState},
};

use super::{
    Shm,
    barrier::{Contributed, Unfilled},
    memory::Buffer,
};

/// Floats of a part: a thread that has one is busy for some ten microseconds.
const PART: usize = 1 << 14;

/// The state of a segment, as one member has it.
#[derive(Debug)]
pub(super) struct States {
    /// The state after the last update.
    current: Arc<Buffer>,
    /// The place of the next one.
    next: Arc<Buffer>,
    /// Until the state was brought in.
    unfilled: Option<Unfilled>,
    /// Between gathering and advancing.
    gathered: Option<(Round, Contributed)>,
    /// By part of this member's segment.
    reducers: Vec<Reducer>,
}

impl States {
    /// Of a member whose segment has so many floats.
    pub(super) fn new(
        [current, next]: [Arc<Buffer>; 2],
        unfilled: Unfilled,
        reducer: &Reducer,
        segment: usize,
    ) -> Self {
        let reducers = vec![reducer.clone(); segment.div_ceil(PART)];
        Self { current, next, unfilled: Some(unfilled), gathered: None, reducers }
    }
}

impl Shm {
    fn states(&mut self) -> &mut States {
        self.states.as_mut().expect("asked for with `shared_state`")
    }

    fn try_bring_in(
        &mut self,
        round: Round,
        state: [&[f32]; STATE_VECTORS],
    ) -> Result<(), Interrupted> {
        let segment = self.plan.segment(self.me);
        let states = self.states();
        let unfilled = states.unfilled.take().expect("a state is brought in once");
        let current = Arc::get_mut(&mut states.current).expect("nobody holds what was not filled");
        let own = current.fill(&unfilled, segment.clone());
        for (own, whole) in own.into_iter().zip(state) {
            own.copy_from_slice(&whole[segment.clone()]);
        }
        crashpoint::reach!("all-reduce.shm.brought-in");
        let passed = self.barrier.pass_filled(unfilled);
        passed.map_err(|cause| self.interrupted(round, cause))
    }

    fn try_gather(
        &mut self,
        round: Round,
        contribution: &Contribution,
    ) -> Result<Outcome, Interrupted> {
        assert!(round.kind == Kind::Train, "an evaluation advances no state");
        let states = self.states();
        assert!(states.unfilled.is_none(), "no state was brought in");
        // Others write to it once this member has arrived.
        let free = Arc::get_mut(&mut states.next).is_some();
        assert!(free, "the state before the last one is still held");
        let (contributed, waiting) = self.contribute(round, contribution)?;
        let Self { plan, reducers, contributions, .. } = &*self;
        let outcome = Outcome::combine(plan, &reducers[0], round.step, contributions)?;
        self.states().gathered = Some((round, contributed));
        Ok(Outcome { waiting, ..outcome })
    }

    fn try_advance(&mut self, update: &mut dyn FnMut(Parts<'_, '_>)) -> Result<(), Interrupted> {
        let segment = self.plan.segment(self.me);
        let states = self.states.as_mut().expect("asked for with `shared_state`");
        let (round, contributed) = states.gathered.take().expect("nothing was gathered");
        let next = Arc::get_mut(&mut states.next).expect("gathering has looked");
        let new = next.segment_mut(&contributed, segment.clone());
        let old = states.current.vectors().map(|vector| vector[segment.clone()].chunks(PART));
        let partials = self.vectors.partials(&contributed);
        let [old_0, old_1, old_2] = old;
        let [new_0, new_1, new_2] = new.map(|vector| vector.chunks_mut(PART));
        let old = old_0.zip(old_1).zip(old_2).map(|((a, b), c)| [a, b, c]);
        let new = new_0.zip(new_1).zip(new_2).map(|((a, b), c)| [a, b, c]);
        let places = (segment.start..).step_by(PART).zip(states.reducers.iter_mut());
        let mut parts = places.zip(old.zip(new)).map(|((start, reducer), (old, new))| Part {
            reducer,
            partials: &partials,
            start,
            old,
            new,
        });
        update(&mut parts);
        crashpoint::reach!("all-reduce.shm.added");
        self.complete(round, contributed)?;
        let states = self.states();
        mem::swap(&mut states.current, &mut states.next);
        crashpoint::reach!("all-reduce.shm.done");
        Ok(())
    }

    /// Does what has to be done, unless the generation is over; if it ends thereby, that holds.
    fn unless_broken<T>(
        &mut self,
        what: impl FnOnce(&mut Self) -> Result<T, Interrupted>,
    ) -> Result<T, Interrupted> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        let result = what(self);
        self.broken = result.as_ref().err().cloned();
        result
    }
}

impl SharedState for Shm {
    fn bring_in(
        &mut self,
        round: Round,
        state: [&[f32]; STATE_VECTORS],
    ) -> Result<(), Interrupted> {
        self.unless_broken(|shm| shm.try_bring_in(round, state))
    }

    fn held(&mut self) -> Arc<dyn StateVectors> {
        Arc::<Buffer>::clone(&self.states().current)
    }

    fn gather(
        &mut self,
        round: Round,
        contribution: &Contribution,
    ) -> Result<Outcome, Interrupted> {
        self.unless_broken(|shm| shm.try_gather(round, contribution))
    }

    fn add_up(&mut self, sum: &mut [f32]) {
        let states = self.states.as_ref().expect("asked for with `shared_state`");
        let (_, contributed) = states.gathered.as_ref().expect("nothing was gathered");
        let partials = self.vectors.partials(contributed);
        self.reducers[0].add(|index| partials.partial(index, 0..self.plan.length()), sum);
    }

    fn advance(&mut self, update: &mut dyn FnMut(Parts<'_, '_>)) -> Result<(), Interrupted> {
        self.unless_broken(|shm| shm.try_advance(update))
    }
}
