//! An all-reduce that says when this member computes and when it waits for others, so that
//! the coordinator can tell who holds up whom.

use std::sync::Arc;

use collective::{AllReduce, Contribution, Interrupted, Node, Outcome, Round};
use membership::Phase;

use crate::bridge::Shared;

/// A generation's collective, watched.
pub(crate) struct Watched {
    pub(crate) collective: Box<dyn AllReduce + Send>,
    pub(crate) shared: Arc<Shared>,
}

impl AllReduce for Watched {
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
