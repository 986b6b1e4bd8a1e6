//! The training thread's side of a generation whose members compute on GPUs.

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use collective::{AllReduce, Contribution, Interrupted, Kind, Node, Outcome, Plan, Reducer, Round};

use super::{
    communicator::{Communicator, Transfer, UniqueId},
    gpu::{Gpu, Memory, Pinned},
    library::{Libraries, NcclError},
};
use crate::{Group, Grpc, grpc};

/// All-reduce between the GPUs of a generation's members.
pub struct Nccl {
    plan: Plan,
    me: usize,
    reducer: Reducer,
    /// Carries what goes beside the partials.
    headers: Grpc,
    aborted: Arc<AtomicBool>,
    /// Closed before the memory that it uses is freed; closed when a round fails, too.
    communicator: Option<Communicator>,
    /// This member's, one after the other.
    partials: Vector,
    /// The other members', of this member's segment, one after the other.
    received: Vector,
    sum: Vector,
    /// What every call returns once a round has failed.
    broken: Option<Interrupted>,
}

/// Floats here, and their place on the GPU.
struct Vector {
    here: Pinned,
    there: Memory,
}

/// Ends a generation from outside its training thread.
#[derive(Clone, Debug)]
pub struct Abort {
    aborted: Arc<AtomicBool>,
    headers: grpc::Abort,
}

impl Abort {
    /// Makes the current round, or else the next one, end with [`Interrupted::Aborted`].
    pub fn abort(&self) {
        self.aborted.store(true, Ordering::Relaxed);
        self.headers.abort();
    }
}

impl Vector {
    fn new(libraries: Libraries, floats: usize) -> Result<Self, NcclError> {
        Ok(Self { here: Pinned::new(libraries, floats)?, there: Memory::new(libraries, floats)? })
    }

    fn keep(&mut self) {
        self.here.keep();
        self.there.keep();
    }
}

impl fmt::Debug for Nccl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nccl").field("me", &self.me).finish_non_exhaustive()
    }
}

impl Nccl {
    /// Joins the communicator with this id, from the GPU with this index, and waits for all
    /// members. `headers` connects the same ones. Blocks.
    ///
    /// # Errors
    /// [`NcclError`] when the libraries refuse, or a member does not come in time.
    ///
    /// # Panics
    /// Unless `headers` was connected with a group that has no floats.
    pub fn join(
        libraries: Libraries,
        device: usize,
        group: &Group,
        id: &UniqueId,
        headers: Grpc,
    ) -> Result<Self, NcclError> {
        let (plan, me) = (group.plan(), headers.me());
        let (plan, _) = plan.expect("headers were connected with the same members");
        assert_eq!(headers.hosts().plan().length(), 0, "headers alone go over streams");
        let aborted = Arc::new(AtomicBool::new(false));
        let gpu = Gpu::open(libraries, device)?;
        let others = (0..plan.members()).filter(|member| *member != me);
        let received: usize = others.map(|member| plan.nodes(member).len()).sum();
        let vector = |floats| Vector::new(libraries, floats);
        let (partials, received, sum) = (
            vector(plan.nodes(me).len() * plan.length())?,
            vector(received * plan.segment(me).len())?,
            vector(plan.length())?,
        );
        let communicator = Communicator::join(gpu, id, plan.members(), me, &aborted)?;
        let (reducer, communicator) = (plan.reducer(), Some(communicator));
        Ok(Self {
            plan,
            me,
            reducer,
            headers,
            aborted,
            communicator,
            partials,
            received,
            sum,
            broken: None,
        })
    }

    /// A handle that ends this generation.
    #[must_use]
    pub fn abort_handle(&self) -> Abort {
        Abort { aborted: Arc::clone(&self.aborted), headers: self.headers.abort_handle() }
    }

    fn exchange(
        &mut self,
        round: Round,
        contribution: &Contribution,
    ) -> Result<Outcome, Interrupted> {
        let outcome = self.headers.exchange(round, vec![contribution.clone()])?;
        if round.kind == Kind::Train {
            let communicator = self.communicator.take().ok_or(Interrupted::Aborted)?;
            let exchanged = self.exchange_floats(&communicator);
            self.communicator = Some(communicator);
            exchanged.map_err(|error| match error {
                NcclError::Aborted => Interrupted::Aborted,
                error => Interrupted::Failed { round, reason: error.to_string() },
            })?;
        }
        Ok(outcome)
    }

    /// Ends what is under way. Memory that the GPU may still use is not freed.
    fn close(&mut self) {
        if self.communicator.take().is_some_and(|communicator| !communicator.close()) {
            for vector in [&mut self.partials, &mut self.received, &mut self.sum] {
                vector.keep();
            }
        }
    }

    /// Steps 1 to 4 of a round.
    fn exchange_floats(&mut self, communicator: &Communicator) -> Result<(), NcclError> {
        let (gpu, own) = (communicator.gpu(), self.plan.segment(self.me));
        gpu.enter()?;
        let Vector { here, there } = &self.partials;
        gpu.copy_in(here, there, 0..there.floats())?;
        communicator.pass(&self.scatter(), &self.aborted)?;
        let Vector { here, there } = &mut self.received;
        gpu.copy_out(there, here, 0..there.floats())?;
        communicator.finish(&self.aborted)?;

        self.add_up(own.clone());
        gpu.copy_in(&self.sum.here, &self.sum.there, own.clone())?;
        communicator.pass(&self.gather(own.clone()), &self.aborted)?;
        let Vector { here, there } = &mut self.sum;
        for rest in [0..own.start, own.end..self.plan.length()] {
            gpu.copy_out(there, here, rest)?;
        }
        communicator.finish(&self.aborted)
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let me = self.me;
        (0..self.plan.members()).filter(move |member| *member != me)
    }

    /// Every member's partials, to whoever adds them up.
    fn scatter(&self) -> Vec<Transfer<'_>> {
        let (length, own) = (self.plan.length(), self.plan.segment(self.me).len());
        let mut transfers = Vec::new();
        let mut place = 0;
        for member in self.others() {
            let Range { start, end } = self.plan.segment(member);
            let memory = &self.partials.there;
            transfers.extend((0..self.plan.nodes(self.me).len()).map(|node| {
                let range = node * length + start..node * length + end;
                Transfer { member, memory, range, goes: true }
            }));
            let memory = &self.received.there;
            transfers.extend(self.plan.nodes(member).iter().map(|_| {
                let range = place..place + own;
                place = range.end;
                Transfer { member, memory, range, goes: false }
            }));
        }
        transfers
    }

    /// Every member's segment of the sum, to all others.
    fn gather(&self, own: Range<usize>) -> Vec<Transfer<'_>> {
        let memory = &self.sum.there;
        let both = |member| {
            let (range, theirs) = (own.clone(), self.plan.segment(member));
            let to = Transfer { member, memory, range, goes: true };
            [to, Transfer { member, memory, range: theirs, goes: false }]
        };
        self.others().flat_map(both).collect()
    }

    /// Adds up all members' partials of this member's segment.
    fn add_up(&mut self, own: Range<usize>) {
        let Self { plan, me, reducer, partials, received, sum, .. } = self;
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

impl Drop for Nccl {
    fn drop(&mut self) {
        self.close();
    }
}

impl AllReduce for Nccl {
    fn nodes(&self) -> &[Node] {
        self.plan.nodes(self.me)
    }

    fn partial_mut(&mut self, index: usize) -> &mut [f32] {
        let length = self.plan.length();
        &mut self.partials.here.floats_mut()[index * length..(index + 1) * length]
    }

    fn all_reduce(
        &mut self,
        round: Round,
        contribution: &Contribution,
    ) -> Result<Outcome, Interrupted> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        let outcome = self.exchange(round, contribution);
        if let Err(interrupted) = &outcome {
            self.broken = Some(interrupted.clone());
            // Not only at the end: the other members' GPUs may wait for this one.
            self.close();
        }
        outcome
    }

    fn contributions(&self) -> &[Contribution] {
        self.headers.contributions()
    }

    fn sum(&self) -> &[f32] {
        self.sum.here.floats()
    }
}
