//! A member's partial: the sum of its shards' gradients, along the shard tree.

use std::{mem, sync::Arc};

use collective::{Node, Tally, plan};
use data::{Batch, Dataset, Pass};
use model::ModelError;

use crate::{Trainer, ahead::resident};

impl<D: Dataset> Trainer<D> {
    /// Computes one gradient and drops it, so that the one-time work of a first step is done before
    /// other members wait for this one.
    ///
    /// # Errors
    /// The device failed.
    pub fn warm_up(&mut self) -> Result<(), ModelError> {
        let mut gradient = vec![0.0; self.model.layout().len()];
        self.shard_gradient(0, &mut gradient).map(drop)
    }

    /// Writes the summed gradient of the shards below `node`. `level` counts the right-hand turns on
    /// the way from the root; each of them uses one spare vector.
    pub(crate) fn node_gradient(
        &mut self,
        node: Node,
        sum: &mut [f32],
        level: usize,
    ) -> Result<Tally, ModelError> {
        let Some((left, right)) = node.children() else {
            return self.shard_gradient(node.start, sum);
        };
        if self.spare.len() <= level {
            self.spare.push(vec![0.0; sum.len()]);
        }
        let left = self.node_gradient(left, sum, level)?;
        let mut term = mem::take(&mut self.spare[level]);
        let right = self.node_gradient(right, &mut term, level + 1)?;
        plan::accumulate(sum, &term);
        self.spare[level] = term;
        Ok(left + right)
    }

    fn shard_gradient(&mut self, shard: u32, gradient: &mut [f32]) -> Result<Tally, ModelError> {
        let position = self.schedule.locate(self.replica.step());
        let order = self.order_of(position.epoch);
        let indices = &order[self.schedule.positions(position.step, shard)];
        let pass = Pass::train(self.settings.seed, position.epoch);
        let batch = Batch { data: &self.data.train, indices, pass };
        let context = self.context(self.replica.step(), shard);
        let sums = match self.replica.parameters() {
            Some(parameters) => self.model.gradient(parameters, &batch, &context, gradient)?,
            None => resident(&mut *self.model).gradient(&batch, &context, gradient)?,
        };
        let (examples, index_sum) = (batch.len() as u64, batch.index_sum());
        Ok(Tally { terms: sums.terms, examples, index_sum })
    }

    /// The order of the examples in an epoch, which is computed once per epoch.
    pub(crate) fn order_of(&mut self, epoch: u64) -> Arc<[u32]> {
        match &self.order {
            Some((known, order)) if *known == epoch => Arc::clone(order),
            _ => {
                let order: Arc<[u32]> = self.schedule.order(epoch).into();
                self.order = Some((epoch, Arc::clone(&order)));
                order
            }
        }
    }
}
