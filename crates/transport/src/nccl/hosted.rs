//! Members whose partials are in the host's memory: they copy the partials to their GPUs before the exchange,
//! and the sum back after it.

use std::{
    ops::Range,
    sync::{Arc, atomic::AtomicBool},
};

use collective::{DeviceQueue, Plan, Reducer};

use super::{
    communicator::{Communicator, Transfer, UniqueId},
    gpu::{Gpu, Memory, Pinned},
    library::{Cuda, Libraries, NcclError},
};

/// A member's vectors, and its connection to the others.
pub(super) struct Hosted {
    me: usize,
    reducer: Reducer,
    gpu: Arc<Gpu>,
    /// Ended before the memory that it uses is freed. None once a round has failed, or the members have
    /// left.
    communicator: Option<Communicator>,
    /// This member's, one after the other.
    partials: Vector,
    /// The other members', of this member's segment, one after the other.
    received: Vector,
    sum: Vector,
}

/// Floats here, and their place on the GPU.
struct Vector {
    here: Pinned,
    there: Memory,
}

impl Vector {
    fn new(cuda: Cuda, floats: usize) -> Result<Self, NcclError> {
        Ok(Self { here: Pinned::new(cuda, floats)?, there: Memory::new(cuda, floats)? })
    }

    fn keep(&mut self) {
        self.here.keep();
        self.there.keep();
    }
}

impl Hosted {
    /// Takes memory, and waits for all members.
    pub(super) fn join(
        libraries: Libraries,
        device: usize,
        (plan, me): (&Plan, usize),
        id: &UniqueId,
        aborted: &AtomicBool,
    ) -> Result<Self, NcclError> {
        let cuda = libraries.runtime()?;
        let gpu = Arc::new(Gpu::open(cuda, device)?);
        let others = (0..plan.members()).filter(|member| *member != me);
        let received: usize = others.map(|member| plan.nodes(member).len()).sum();
        let vector = |floats| Vector::new(cuda, floats);
        let (partials, received, sum) = (
            vector(plan.nodes(me).len() * plan.length())?,
            vector(received * plan.segment(me).len())?,
            vector(plan.length())?,
        );
        let queue: Arc<dyn DeviceQueue> = Arc::clone(&gpu) as _;
        let communicator =
            Communicator::join(libraries.nccl, queue, id, plan.members(), me, aborted)?;
        let (reducer, communicator) = (plan.reducer(), Some(communicator));
        Ok(Self { me, reducer, gpu, communicator, partials, received, sum })
    }

    pub(super) fn partials_mut(&mut self) -> &mut [f32] {
        self.partials.here.floats_mut()
    }

    pub(super) fn sum(&self) -> &[f32] {
        self.sum.here.floats()
    }

    /// Steps 1 to 4 of a round.
    pub(super) fn exchange(&mut self, plan: &Plan, aborted: &AtomicBool) -> Result<(), NcclError> {
        let communicator = self.communicator.take().ok_or(NcclError::Aborted)?;
        let exchanged = self.exchange_by(&communicator, plan, aborted);
        self.communicator = Some(communicator);
        exchanged
    }

    fn exchange_by(
        &mut self,
        communicator: &Communicator,
        plan: &Plan,
        aborted: &AtomicBool,
    ) -> Result<(), NcclError> {
        let own = plan.segment(self.me);
        self.gpu.select()?;
        let Vector { here, there } = &self.partials;
        self.gpu.copy_in(here, there, 0..there.floats())?;
        communicator.begin(&self.scatter(plan))?;
        communicator.settle(aborted)?;
        let Vector { here, there } = &mut self.received;
        self.gpu.copy_out(there, here, 0..there.floats())?;
        communicator.finish(aborted)?;

        self.add_up(plan, own.clone());
        self.gpu.copy_in(&self.sum.here, &self.sum.there, own.clone())?;
        communicator.begin(&self.gather(plan, own.clone()))?;
        communicator.settle(aborted)?;
        let Vector { here, there } = &mut self.sum;
        for rest in [0..own.start, own.end..plan.length()] {
            self.gpu.copy_out(there, here, rest)?;
        }
        communicator.finish(aborted)
    }

    fn others(&self, plan: &Plan) -> impl Iterator<Item = usize> + use<> {
        let me = self.me;
        (0..plan.members()).filter(move |member| *member != me)
    }

    /// Every member's partials, to whoever adds them up.
    fn scatter(&self, plan: &Plan) -> Vec<Transfer> {
        let (length, own) = (plan.length(), plan.segment(self.me).len());
        let mut transfers = Vec::new();
        let mut place = 0;
        for member in self.others(plan) {
            let Range { start, end } = plan.segment(member);
            let memory = &self.partials.there;
            transfers.extend((0..plan.nodes(self.me).len()).map(|node| {
                memory.transfer(node * length + start..node * length + end, member, true)
            }));
            let memory = &self.received.there;
            transfers.extend(plan.nodes(member).iter().map(|_| {
                let range = place..place + own;
                place = range.end;
                memory.transfer(range, member, false)
            }));
        }
        transfers
    }

    /// Every member's segment of the sum, to all others.
    fn gather(&self, plan: &Plan, own: Range<usize>) -> Vec<Transfer> {
        let memory = &self.sum.there;
        let both = |member| {
            let (range, theirs) = (own.clone(), plan.segment(member));
            [memory.transfer(range, member, true), memory.transfer(theirs, member, false)]
        };
        self.others(plan).flat_map(both).collect()
    }

    /// Adds up all members' partials of this member's segment.
    fn add_up(&mut self, plan: &Plan, own: Range<usize>) {
        let Self { me, reducer, partials, received, sum, .. } = self;
        let (partials, received) = (partials.here.floats(), received.here.floats());
        let before: usize = (0..*me).map(|member| plan.nodes(member).len()).sum();
        let mine = before..before + plan.nodes(*me).len();
        let partial = |node: usize| {
            if mine.contains(&node) {
                let start = (node - mine.start) * plan.length() + own.start;
                return &partials[start..start + own.len()];
            }
            let place = if node < mine.start { node } else { node - mine.len() };
            &received[place * own.len()..(place + 1) * own.len()]
        };
        reducer.add(partial, &mut sum.here.floats_mut()[own.clone()]);
    }
}

impl Hosted {
    /// Ends the communicator by `end`: [`Communicator::leave`] or [`Communicator::close`]. Memory that the
    /// GPU may still use is not freed.
    pub(super) fn end(&mut self, end: impl FnOnce(Communicator) -> bool) {
        if self.communicator.take().is_some_and(|communicator| !end(communicator)) {
            for vector in [&mut self.partials, &mut self.received, &mut self.sum] {
                vector.keep();
            }
        }
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        self.end(Communicator::close);
    }
}
