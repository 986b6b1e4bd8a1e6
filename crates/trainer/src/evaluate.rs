//! The test set's losses, computed by all members together.

use collective::{AllReduce, Contribution, Kind, Node, ShardRange, Tally};
use data::{Batch, Dataset, Domain, Stream, Visit};
use model::ModelError;

use crate::{TrainError, Trainer};

/// Images evaluated at a time; part of the noise's key, so that changing it changes the
/// reported losses in their last digits.
const EVALUATION_BATCH: usize = 250;

impl<D: Dataset> Trainer<D> {
    /// The tally of the whole test set at the current state, the latents sampled. Each shard
    /// stands for its slice of the test images, so the sum follows the shard tree too.
    pub(crate) fn evaluate(&mut self, collective: &mut dyn AllReduce) -> Result<Tally, TrainError> {
        let nodes = collective.nodes().to_vec();
        let tallies: Result<_, _> =
            nodes.into_iter().map(|node| self.evaluate_node(node)).collect();
        let contribution = Contribution { tallies: tallies?, ..Contribution::default() };
        let outcome = collective.all_reduce(self.round(Kind::Evaluate), &contribution)?;
        Ok(outcome.tally)
    }

    fn evaluate_node(&mut self, node: Node) -> Result<Tally, ModelError> {
        Ok(match node.children() {
            None => self.evaluate_shard(node.start)?,
            Some((left, right)) => self.evaluate_node(left)? + self.evaluate_node(right)?,
        })
    }

    fn evaluate_shard(&mut self, shard: u32) -> Result<Tally, ModelError> {
        let slices = ShardRange::deal(self.data.test.count(), self.settings.shards);
        let indices: Vec<u32> = slices[shard as usize].iter().collect();
        let mut tally = Tally::default();
        for indices in indices.chunks(EVALUATION_BATCH) {
            let (seed, step) = (self.settings.seed, self.state.step);
            let batch = Batch { data: &self.data.test, indices, visit: Visit::test(seed) };
            let noise = Stream::new(seed, Domain::Evaluation, step, indices[0]);
            let sums = self.model.evaluate(&self.state.parameters, &batch, noise)?;
            let (images, index_sum) = (batch.len() as u64, batch.index_sum());
            tally = tally + Tally { terms: sums.terms, images, index_sum };
        }
        Ok(tally)
    }
}
