//! An all-reduce that notes when this member computes and when it waits for others. So the coordinator
//! knows for which member the others wait.

use std::sync::Arc;

use collective::{
    AllReduce, Contribution, DeviceExchange, DeviceMemory, HostMemory, Interrupted, Node, Outcome,
    Round, STATE_VECTORS, SharedState, StateVectors, shared::Parts,
};
use membership::Phase;

use crate::bridge::Shared;

/// A generation's all-reduce that notes the phases.
pub(crate) struct PhaseReporting {
    pub(crate) collective: Box<dyn AllReduce + Send>,
    pub(crate) shared: Arc<Shared>,
}

impl AllReduce for PhaseReporting {
    fn nodes(&self) -> &[Node] {
        self.collective.nodes()
    }

    fn partial_mut(&mut self, index: usize) -> &mut [f32] {
        self.collective.partial_mut(index)
    }

    fn all_reduce(
        &mut self,
        round: Round,
        contribution: &Contribution,
    ) -> Result<Outcome, Interrupted> {
        self.shared.enter(Phase::Waiting);
        let outcome = self.collective.all_reduce(round, contribution);
        self.shared.enter(Phase::Computing);
        outcome
    }

    fn contributions(&self) -> &[Contribution] {
        self.collective.contributions()
    }

    fn sum(&self) -> &[f32] {
        self.collective.sum()
    }

    fn shared_state(&mut self) -> Option<&mut dyn SharedState> {
        if self.collective.shared_state().is_some() { Some(self) } else { None }
    }

    fn memory(&self) -> Option<Arc<dyn HostMemory>> {
        self.collective.memory()
    }

    fn device_exchange(&mut self) -> Option<&mut dyn DeviceExchange> {
        if self.collective.device_exchange().is_some() { Some(self) } else { None }
    }
}

impl PhaseReporting {
    /// The shared state of the inner all-reduce.
    fn inner(&mut self) -> &mut dyn SharedState {
        self.collective.shared_state().expect(WAS_THERE)
    }

    /// Calls `what` with the inner device exchange, in the waiting phase.
    fn waiting<T>(&mut self, what: impl FnOnce(&mut dyn DeviceExchange) -> T) -> T {
        self.shared.enter(Phase::Waiting);
        let result = what(self.collective.device_exchange().expect(WAS_THERE));
        self.shared.enter(Phase::Computing);
        result
    }
}

const WAS_THERE: &str = "it was there when it was asked for";

impl SharedState for PhaseReporting {
    fn bring_in(
        &mut self,
        round: Round,
        state: [&[f32]; STATE_VECTORS],
    ) -> Result<(), Interrupted> {
        self.shared.enter(Phase::Waiting);
        let result = self.inner().bring_in(round, state);
        self.shared.enter(Phase::Computing);
        result
    }

    fn held(&mut self) -> Arc<dyn StateVectors> {
        self.inner().held()
    }

    fn gather(
        &mut self,
        round: Round,
        contribution: &Contribution,
    ) -> Result<Outcome, Interrupted> {
        self.shared.enter(Phase::Waiting);
        let outcome = self.inner().gather(round, contribution);
        self.shared.enter(Phase::Computing);
        outcome
    }

    fn add_up(&mut self, start: usize, sum: &mut [f32]) {
        self.inner().add_up(start, sum);
    }

    fn advance(&mut self, update: &mut dyn FnMut(Parts<'_, '_>)) -> Result<(), Interrupted> {
        let shared = Arc::clone(&self.shared);
        let result = self.inner().advance(&mut |parts| {
            update(parts);
            shared.enter(Phase::Waiting);
        });
        self.shared.enter(Phase::Computing);
        result
    }
}

impl DeviceExchange for PhaseReporting {
    fn all_nodes(&mut self) -> Vec<Node> {
        self.collective.device_exchange().expect(WAS_THERE).all_nodes()
    }

    fn open(
        &mut self,
        round: Round,
        memory: Option<Arc<dyn DeviceMemory>>,
    ) -> Result<(), Interrupted> {
        self.waiting(|exchange| exchange.open(round, memory))
    }

    fn begin(&mut self, round: Round) -> Result<(), Interrupted> {
        self.collective.device_exchange().expect(WAS_THERE).begin(round)
    }

    fn finish(
        &mut self,
        round: Round,
        contribution: &Contribution,
    ) -> Result<Outcome, Interrupted> {
        self.waiting(|exchange| exchange.finish(round, contribution))
    }

    fn close(&mut self) {
        self.waiting(|exchange| exchange.close());
    }
}
