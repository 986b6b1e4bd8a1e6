//! All-reduce on two levels: through memory among the members of each host, over gRPC between
//! hosts.
//!
//! A round of kind `Train` is, on every member:
//!
//! 1. Write the own partials into the host's segment, and wait until all of the host's members have
//!    written theirs ([`shm`]).
//! 2. In the own lane of the flat vector, add up the members' partials to one partial for each of the
//!    host's tree nodes.
//! 3. Exchange these with the members of other hosts that have the same lane ([`grpc`]). The streams
//!    also carry the contributions of all members of the host.
//! 4. Write the lane's sum into the segment, and wait until all of the host's members have written
//!    theirs.
//!
//! So every member sends equally much, and every float passes between two hosts once in each
//! direction. [`collective::hosts`] divides the vector into lanes, and gives the order of addition.
//!
//! If the members of a host share their state, they also apply the sum together. In a fifth part each
//! member computes its segment of the next state from the sum, and waits until all have written
//! theirs.
//!
//! A member that cannot go on ends the round for its host, and the members of other hosts see its
//! streams end. One host may complete a round that another host does not complete. Members then
//! differ by one step, as with every transport.

use std::sync::Arc;

use collective::{
    AllReduce, Contribution, HostMemory, Interrupted, Kind, Node, Outcome, Round, STATE_VECTORS,
    SharedState, StateVectors, shared::Parts,
};
use secure::connection::BoxFuture;

use crate::{
    ConnectError, Endpoint, Group, Grpc, grpc,
    shm::{self, Contributed, Segment, Shm},
};

/// All-reduce over a host's segment and one generation's streams between hosts.
#[derive(Debug)]
pub struct TwoLevel {
    shm: Shm,
    grpc: Grpc,
    /// The error that every call returns after a failed round.
    broken: Option<Interrupted>,
}

/// Ends a generation for all members of a host, from outside their training threads.
#[derive(Clone, Debug)]
pub struct Abort {
    shm: shm::Abort,
    grpc: grpc::Abort,
}

impl Abort {
    /// Makes the current round, or else the next one, end with [`Interrupted::Aborted`].
    pub fn abort(&self) {
        self.shm.abort();
        self.grpc.abort();
    }
}

impl TwoLevel {
    /// Connects the member that has mapped `segment` to the members on other hosts. Call it on the
    /// runtime that serves `endpoint`; the result is for the training thread.
    ///
    /// # Errors
    /// [`ConnectError`] when a member cannot be reached or does not connect within seconds.
    pub fn connect<'a>(
        endpoint: &'a Endpoint,
        group: &'a Group,
        segment: Segment,
    ) -> BoxFuture<'a, Result<Self, ConnectError>> {
        Box::pin(async {
            let grpc = endpoint.connect_lanes(group).await?;
            Ok(Self { shm: segment.into_level(), grpc, broken: None })
        })
    }

    /// A handle that ends this generation.
    #[must_use]
    pub fn abort_handle(&self) -> Abort {
        Abort { shm: self.shm.abort_handle(), grpc: self.grpc.abort_handle() }
    }

    fn exchange(
        &mut self,
        round: Round,
        contribution: &Contribution,
    ) -> Result<Outcome, Interrupted> {
        let (contributed, outcome) = self.exchange_sums(round, contribution)?;
        if round.kind == Kind::Train {
            self.shm.complete(round, contributed)?;
        }
        Ok(outcome)
    }

    /// The whole round without the last wait for this host's members.
    fn exchange_sums(
        &mut self,
        round: Round,
        contribution: &Contribution,
    ) -> Result<(Contributed, Outcome), Interrupted> {
        let (contributed, waiting) = self.shm.contribute(round, contribution)?;
        let train = round.kind == Kind::Train;
        if train {
            self.add_up_lanes(&contributed);
        }
        let neighbours = self.shm.contributions().to_vec();
        let outcome = self.grpc.exchange(round, neighbours)?;
        if train {
            self.share_sums(&contributed);
        }
        Ok((contributed, Outcome { waiting: waiting + outcome.waiting, ..outcome }))
    }

    /// Calls `what`, unless the generation has ended. An error of `what` ends the generation, for the
    /// other members of this host too.
    fn unless_broken<T>(
        &mut self,
        what: impl FnOnce(&mut Self) -> Result<T, Interrupted>,
    ) -> Result<T, Interrupted> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        let result = what(self);
        if let Err(interrupted) = &result {
            self.broken = Some(interrupted.clone());
            // The other members of this host wait for this member's lane or segment.
            self.abort_handle().abort();
        }
        result
    }

    /// Computes the partials of this host's nodes, in this member's lane of each segment.
    fn add_up_lanes(&mut self, contributed: &Contributed) {
        let Self { shm, grpc, .. } = self;
        for segment in 0..grpc.hosts().count() {
            let lane = grpc.hosts().lane(grpc.me(), segment);
            for node in 0..grpc.hosts().nodes(grpc.hosts().host(grpc.me())).len() {
                let partial = &mut grpc.partial_mut(node)[lane.clone()];
                shm.add_node(contributed, node, lane.clone(), partial);
            }
        }
    }

    fn share_sums(&mut self, contributed: &Contributed) {
        let Self { shm, grpc, .. } = self;
        for segment in 0..grpc.hosts().count() {
            let lane = grpc.hosts().lane(grpc.me(), segment);
            shm.write_sum(contributed, lane.start, &grpc.sum()[lane]);
        }
    }
}

impl AllReduce for TwoLevel {
    fn nodes(&self) -> &[Node] {
        self.shm.nodes()
    }

    fn partial_mut(&mut self, index: usize) -> &mut [f32] {
        self.shm.partial_mut(index)
    }

    fn all_reduce(
        &mut self,
        round: Round,
        contribution: &Contribution,
    ) -> Result<Outcome, Interrupted> {
        self.unless_broken(|both| both.exchange(round, contribution))
    }

    fn contributions(&self) -> &[Contribution] {
        self.grpc.contributions()
    }

    fn sum(&self) -> &[f32] {
        self.shm.written_sum()
    }

    fn shared_state(&mut self) -> Option<&mut dyn SharedState> {
        if self.shm.shared_state().is_some() { Some(self) } else { None }
    }

    fn memory(&self) -> Option<Arc<dyn HostMemory>> {
        self.shm.memory()
    }
}

impl SharedState for TwoLevel {
    fn bring_in(
        &mut self,
        round: Round,
        state: [&[f32]; STATE_VECTORS],
    ) -> Result<(), Interrupted> {
        self.unless_broken(|both| both.shm.bring_in(round, state))
    }

    fn held(&mut self) -> Arc<dyn StateVectors> {
        self.shm.held()
    }

    fn gather(
        &mut self,
        round: Round,
        contribution: &Contribution,
    ) -> Result<Outcome, Interrupted> {
        assert!(round.kind == Kind::Train, "an evaluation advances no state");
        self.unless_broken(|both| {
            both.shm.assert_free();
            let (contributed, outcome) = both.exchange_sums(round, contribution)?;
            both.shm.complete_sum(round, contributed)?;
            Ok(outcome)
        })
    }

    fn add_up(&mut self, start: usize, sum: &mut [f32]) {
        self.shm.add_up(start, sum);
    }

    fn advance(&mut self, update: &mut dyn FnMut(Parts<'_, '_>)) -> Result<(), Interrupted> {
        self.unless_broken(|both| both.shm.advance(update))
    }
}
