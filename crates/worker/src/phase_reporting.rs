//! An all-reduce that notes when this member computes and when it waits for others, so that the
//! coordinator can tell which member the others wait for.

use std::sync::Arc;

use collective::{AllReduce, Contribution, Interrupted, Node, Outcome, Round};
use membership::Phase;

use crate::bridge::Shared;

/// A generation's collective, with the phases noted.
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
}
