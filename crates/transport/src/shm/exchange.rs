//! The training thread's side of a mapped segment: one round after the other.

use std::{
    ops::Range,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use collective::{
    AllReduce, Contribution, HostMemory, Interrupted, Kind, Node, Outcome, Plan, Reducer, Round,
    SharedState,
};

use super::{
    Segment,
    barrier::{Barrier, Bell, Cause, Contributed, Unfilled},
    header,
    layout::{Layout, Results},
    memory::Vectors,
    state::States,
};

/// All-reduce over one generation's segment.
#[derive(Debug)]
pub struct Shm {
    /// The plan of this host's members.
    pub(super) plan: Plan,
    pub(super) me: usize,
    /// One for each of the host's nodes. If this is the only host, the one node is the root.
    pub(super) reducers: Vec<Reducer>,
    layout: Layout,
    pub(super) vectors: Vectors,
    /// The members' state, if they share one.
    pub(super) states: Option<States>,
    pub(super) barrier: Barrier,
    /// Each member's contribution to the current or the last round.
    pub(super) contributions: Vec<Contribution>,
    /// The leader's file, until the first round proves that all members have mapped it.
    file: Option<Arc<OwnedFd>>,
    /// Rounds done.
    rounds: u64,
    /// The error that every call returns after a failed round.
    pub(super) broken: Option<Interrupted>,
}

/// Ends a generation, for all its members, from outside their training threads.
#[derive(Clone, Debug)]
pub struct Abort(Bell);

impl Abort {
    /// Makes the current round, or else the next one, end with [`Interrupted::Aborted`].
    /// Returns at once.
    pub fn abort(&self) {
        self.0.end(Cause::Aborted);
    }
}

impl Shm {
    pub(super) fn new(segment: Segment) -> Self {
        let Segment { hosts, plan, me, layout, vectors, states, barrier, file } = segment;
        let host = plan.rank(me);
        let host = hosts.plan().member(host).map_or(0, |member| hosts.host(member));
        let reducers = hosts.reducers_within(host);
        let floats = plan.segment(me).len();
        let reducer = match layout.results {
            Results::SumAndStates => &Reducer::of_one(),
            Results::Sum | Results::States => &reducers[0],
        };
        let states = states.map(|states| States::new(states, Unfilled::new(), reducer, floats));
        let contributions = vec![Contribution::default(); plan.members()];
        Self {
            plan,
            me,
            reducers,
            layout,
            vectors,
            states,
            barrier,
            contributions,
            file,
            rounds: 0,
            broken: None,
        }
    }

    /// A handle that ends this generation.
    #[must_use]
    pub fn abort_handle(&self) -> Abort {
        Abort(self.barrier.bell().clone())
    }

    fn exchange(
        &mut self,
        round: Round,
        contribution: &Contribution,
    ) -> Result<Outcome, Interrupted> {
        let (contributed, waiting) = self.contribute(round, contribution)?;
        let Self { plan, reducers, contributions, .. } = &*self;
        let outcome = Outcome::combine(plan, &reducers[0], round.step, contributions)?;
        // The partial of a single member is the sum.
        if round.kind == Kind::Train && self.plan.members() > 1 {
            let segment = self.plan.segment(self.me);
            let (partial, sum) = self.vectors.reduction(&contributed, segment);
            self.reducers[0].add(partial, sum);
            crashpoint::reach!("all-reduce.shm.added");
            self.complete(round, contributed)?;
            crashpoint::reach!("all-reduce.shm.done");
        }
        Ok(Outcome { waiting, ..outcome })
    }

    /// Writes this member's contribution to the round, and reads the others' contributions. All members
    /// have then written their partials. Gives the time of waiting for them.
    pub(crate) fn contribute(
        &mut self,
        round: Round,
        contribution: &Contribution,
    ) -> Result<(Contributed, Duration), Interrupted> {
        if let Some(cause) = self.barrier.cause() {
            return Err(self.interrupted(round, cause));
        }
        self.write_header(round, contribution)?;
        let arrived = Instant::now();
        let passed = self.barrier.pass_contributed();
        let contributed = passed.map_err(|cause| self.interrupted(round, cause))?;
        crashpoint::reach!("all-reduce.shm.contributed");
        let waiting = arrived.elapsed();
        self.file = None;

        self.contributions[self.me].copy_from(contribution);
        for member in 0..self.plan.members() {
            if member != self.me {
                self.read_header(round, member)?;
            }
        }
        self.rounds += 1;
        Ok((contributed, waiting))
    }

    /// Adds up the partials of the host's node with this index, in `range` of the vector.
    pub(crate) fn add_node(
        &mut self,
        contributed: &Contributed,
        node: usize,
        range: Range<usize>,
        sum: &mut [f32],
    ) {
        let (partial, _) = self.vectors.reduction(contributed, range);
        self.reducers[node].add(partial, sum);
    }

    /// Writes a part of the sum that belongs to this member.
    pub(crate) fn write_sum(&mut self, contributed: &Contributed, start: usize, sum: &[f32]) {
        let (_, shared) = self.vectors.reduction(contributed, start..start + sum.len());
        shared.copy_from_slice(sum);
    }

    /// Waits until all members have written their parts of the sum.
    pub(crate) fn complete(&mut self, round: Round, spent: Contributed) -> Result<(), Interrupted> {
        let passed = self.barrier.pass_reduced(spent);
        passed.map_err(|cause| self.interrupted(round, cause))
    }

    /// The sum that the members have written together.
    pub(crate) fn written_sum(&self) -> &[f32] {
        self.vectors.sum()
    }

    fn write_header(&self, round: Round, contribution: &Contribution) -> Result<(), Interrupted> {
        let (tallies, nodes) = (contribution.tallies.len(), self.plan.nodes(self.me).len());
        if tallies != nodes {
            return Err(self.broke(round, self.me, format!("{tallies} tallies for {nodes} nodes")));
        }
        let slot = self.layout.header(self.me, self.rounds);
        header::write(&self.vectors.memory().words()[slot], round, contribution);
        Ok(())
    }

    /// Reads another member's contribution.
    fn read_header(&mut self, round: Round, member: usize) -> Result<(), Interrupted> {
        let words = &self.vectors.memory().words()[self.layout.header(member, self.rounds)];
        let nodes = self.plan.nodes(member).len();
        match header::read(words, nodes, &mut self.contributions[member]) {
            Ok(found) if found == round => Ok(()),
            Ok(found) => Err(self.broke(round, member, format!("it is at {found}"))),
            Err(reason) => Err(self.broke(round, member, reason)),
        }
    }

    /// The error for a member that broke the protocol; also ends the generation for the others.
    fn broke(&self, round: Round, member: usize, reason: String) -> Interrupted {
        self.barrier.bell().end(Cause::Broke(member));
        Interrupted::Protocol { rank: self.plan.rank(member), round, reason }
    }

    pub(super) fn interrupted(&self, round: Round, cause: Cause) -> Interrupted {
        let lost = |member, reason: &str| Interrupted::Lost {
            rank: self.plan.rank(member),
            round,
            reason: reason.into(),
        };
        match cause {
            Cause::Aborted => Interrupted::Aborted,
            Cause::Died(member) => lost(member, "its process is gone"),
            Cause::Left(member) => lost(member, "it has left the generation"),
            Cause::Absent(member) => lost(member, "it did not open the segment in time"),
            Cause::Broke(member) => Interrupted::Protocol {
                rank: self.plan.rank(member),
                round,
                reason: "it wrote a value to the segment that no member writes".into(),
            },
        }
    }
}

impl AllReduce for Shm {
    fn nodes(&self) -> &[Node] {
        self.plan.nodes(self.me)
    }

    fn partial_mut(&mut self, index: usize) -> &mut [f32] {
        self.vectors.partial_mut(index)
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
        self.broken = outcome.as_ref().err().cloned();
        outcome
    }

    fn contributions(&self) -> &[Contribution] {
        &self.contributions
    }

    fn sum(&self) -> &[f32] {
        if self.plan.members() == 1 { self.vectors.first_partial() } else { self.vectors.sum() }
    }
    fn shared_state(&mut self) -> Option<&mut dyn SharedState> {
        if self.states.is_some() { Some(self) } else { None }
    }

    fn memory(&self) -> Option<Arc<dyn HostMemory>> {
        Some(Arc::clone(self.vectors.memory()) as _)
    }
}
