//! The state in a segment: it is brought in once, then each member advances its segment of it.
//!
//! There are two buffers. An update reads one buffer and writes the other. When all members have
//! written their segments, the two buffers are swapped. So the state that a member has is never
//! written to, and a failed update has no effect. [`super`] argues why no member writes to a buffer
//! that another still reads.

use std::{mem, sync::Arc};

use collective::{
    Contribution, Interrupted, Kind, Outcome, Reducer, Round, STATE_VECTORS, StateVectors,
    shared::{Part, Partials, Parts, SharedState},
};

use super::{
    Shm,
    barrier::{Contributed, Summed, Unfilled},
    takeover::Kept,
};

/// Floats of a part; one part takes a thread about ten microseconds.
const PART: usize = 1 << 14;

/// The state of a segment, as one member has it.
#[derive(Debug)]
pub(super) struct States {
    /// The state after the last update.
    current: Arc<Kept>,
    /// The buffer of the next state.
    next: Arc<Kept>,
    /// The proof that the state was not brought in yet; none afterwards.
    unfilled: Option<Unfilled>,
    /// The gathered round, between gathering and advancing.
    gathered: Option<(Round, Gathered)>,
    /// One for each part of this member's segment.
    reducers: Vec<Reducer>,
}

/// The result of gathering.
#[derive(Debug)]
enum Gathered {
    /// The partials of this host's members, which are the only ones.
    Partials(Contributed),
    /// The sum over all hosts.
    Sum(Summed),
}

impl States {
    /// The shared state of a member whose segment has `segment` floats.
    pub(super) fn new(
        [current, next]: [Arc<Kept>; 2],
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
        let own = current.buffer.fill(&unfilled, segment.clone());
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
        self.assert_free();
        let (contributed, waiting) = self.contribute(round, contribution)?;
        let Self { plan, reducers, contributions, .. } = &*self;
        let outcome = Outcome::combine(plan, &reducers[0], round.step, contributions)?;
        self.states().gathered = Some((round, Gathered::Partials(contributed)));
        Ok(Outcome { waiting, ..outcome })
    }

    /// Panics if a snapshot still holds the buffer of the next state. The others write to it as soon as
    /// this member has contributed.
    pub(crate) fn assert_free(&mut self) {
        let states = self.states();
        assert!(states.unfilled.is_none(), "no state was brought in");
        let free = Arc::get_mut(&mut states.next).is_some();
        assert!(free, "the state before the last one is still held");
    }

    /// Waits until all members of this host have written their parts of the sum. Then the state can be
    /// advanced.
    pub(crate) fn complete_sum(
        &mut self,
        round: Round,
        contributed: Contributed,
    ) -> Result<(), Interrupted> {
        let passed = self.barrier.pass_summed(contributed);
        let summed = passed.map_err(|cause| self.interrupted(round, cause))?;
        self.states().gathered = Some((round, Gathered::Sum(summed)));
        Ok(())
    }

    fn try_advance(&mut self, update: &mut dyn FnMut(Parts<'_, '_>)) -> Result<(), Interrupted> {
        let segment = self.plan.segment(self.me);
        let states = self.states.as_mut().expect("asked for with `shared_state`");
        let (round, gathered) = states.gathered.take().expect("nothing was gathered");
        let (contributed, sum) = match &gathered {
            Gathered::Partials(contributed) => (contributed, None),
            Gathered::Sum(summed) => (summed.contributed(), Some(self.vectors.summed(summed))),
        };
        let next = Arc::get_mut(&mut states.next).expect("gathering has looked");
        let new = next.buffer.segment_mut(contributed, segment.clone());
        let old = states.current.vectors().map(|vector| vector[segment.clone()].chunks(PART));
        let partials = self.vectors.partials(contributed);
        let partials: &dyn Partials = match &sum {
            Some(sum) => sum,
            None => &partials,
        };
        let [old_0, old_1, old_2] = old;
        let [new_0, new_1, new_2] = new.map(|vector| vector.chunks_mut(PART));
        let old = old_0.zip(old_1).zip(old_2).map(|((a, b), c)| [a, b, c]);
        let new = new_0.zip(new_1).zip(new_2).map(|((a, b), c)| [a, b, c]);
        let places = (segment.start..).step_by(PART).zip(states.reducers.iter_mut());
        let mut parts = places.zip(old.zip(new)).map(|((start, reducer), (old, new))| Part {
            reducer,
            partials,
            start,
            old,
            new,
        });
        update(&mut parts);
        crashpoint::reach!("all-reduce.shm.added");
        let passed = match gathered {
            Gathered::Partials(contributed) => self.barrier.pass_reduced(contributed),
            Gathered::Sum(summed) => self.barrier.pass_advanced(summed),
        };
        passed.map_err(|cause| self.interrupted(round, cause))?;
        let states = self.states();
        mem::swap(&mut states.current, &mut states.next);
        crashpoint::reach!("all-reduce.shm.done");
        Ok(())
    }

    /// Calls `what`, unless the generation has ended. An error of `what` ends the generation.
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
        let arrivals = self.barrier.arrivals();
        let states = self.states();
        let since = match states.gathered {
            None => 0,
            Some((_, Gathered::Partials(_))) => 1,
            Some((_, Gathered::Sum(_))) => 2,
        };
        states.current.note_arrivals(arrivals - since);
        Arc::<Kept>::clone(&states.current)
    }

    fn gather(
        &mut self,
        round: Round,
        contribution: &Contribution,
    ) -> Result<Outcome, Interrupted> {
        self.unless_broken(|shm| shm.try_gather(round, contribution))
    }

    fn add_up(&mut self, start: usize, sum: &mut [f32]) {
        let range = start..start + sum.len();
        let states = self.states.as_ref().expect("asked for with `shared_state`");
        let (_, gathered) = states.gathered.as_ref().expect("nothing was gathered");
        match gathered {
            Gathered::Partials(contributed) => {
                let partials = self.vectors.partials(contributed);
                self.reducers[0].add(|index| partials.partial(index, range.clone()), sum);
            }
            Gathered::Sum(_) => sum.copy_from_slice(&self.vectors.sum()[range]),
        }
    }

    fn advance(&mut self, update: &mut dyn FnMut(Parts<'_, '_>)) -> Result<(), Interrupted> {
        self.unless_broken(|shm| shm.try_advance(update))
    }
}
