//! The all-reduce of a generation with one member: nothing travels.

use crate::plan;
use crate::{AllReduce, Contribution, Interrupted, Node, Outcome, Plan, Reducer, Round};

/// The all-reduce of a single member that owns every shard.
#[derive(Debug)]
pub struct Local {
    plan: Plan,
    reducer: Reducer,
    partial: Vec<f32>,
    contribution: [Contribution; 1],
}

impl Local {
    /// The all-reduce for a flat vector of `length` floats and a run of `shards` shards.
    ///
    /// # Errors
    /// [`plan::PlanError`] when there are no shards.
    pub fn new(shards: u32, length: usize) -> Result<Self, plan::PlanError> {
        let all = crate::ShardRange { start: 0, end: shards };
        let share = plan::Share { rank: crate::Rank(0), shards: all };
        let plan = Plan::new(shards, length, &[share])?;
        let reducer = plan.reducer();
        let contribution = [Contribution::default()];
        Ok(Self { plan, reducer, partial: vec![0.0; length], contribution })
    }
}

impl AllReduce for Local {
    fn nodes(&self) -> &[Node] {
        self.plan.nodes(0)
    }

    fn partial_mut(&mut self, _index: usize) -> &mut [f32] {
        &mut self.partial
    }

    fn all_reduce(
        &mut self,
        round: Round,
        contribution: &Contribution,
    ) -> Result<Outcome, Interrupted> {
        self.contribution[0].copy_from(contribution);
        Ok(Outcome::combine(&self.plan, &self.reducer, round.step, &self.contribution)?)
    }

    fn contributions(&self) -> &[Contribution] {
        &self.contribution
    }

    fn sum(&self) -> &[f32] {
        &self.partial
    }
}
