//! The losses of the test set and of the held-out training examples. All members compute them together;
//! [`Evaluation`] computes them in one process, from the parameters alone.

use collective::{AllReduce, Contribution, Kind, Node, ShardRange, Tally};
use data::{Batch, Dataset, Domain, Pass, Stream};
use model::{Model, ModelError, Sums};

use crate::{Settings, TrainError, Trainer, ahead::resident};

/// Examples evaluated at a time. The noise's key depends on it, so another value changes the last
/// digits of the reported losses.
const EVALUATION_BATCH: usize = 250;

/// The sums of a batch, with noise from this stream.
type Evaluate<'a, D> = &'a mut dyn FnMut(&Batch<'_, D>, Stream) -> Result<Sums, ModelError>;

/// The inputs of the test losses, beside the model and its parameters.
#[derive(Debug)]
pub struct Evaluation<'a, D> {
    /// The test set.
    pub test: &'a D,
    /// The index of the first example that is used.
    pub first: u32,
    /// The number of examples that are used.
    pub examples: u32,
    /// Logical slices of the test set.
    pub shards: u32,
    /// Key of the noise.
    pub seed: u64,
    /// Updates that the parameters have seen; part of the noise's key.
    pub step: u64,
}

impl<D: Dataset> Evaluation<'_, D> {
    /// The tally of the whole test set: the numbers that a run reports at the end of an epoch.
    ///
    /// # Errors
    /// The model's device failed.
    pub fn tally(
        &self,
        model: &mut dyn Model<Data = D>,
        parameters: &[f32],
    ) -> Result<Tally, ModelError> {
        let evaluate = &mut |batch: &Batch<'_, D>, noise| model.evaluate(parameters, batch, noise);
        self.node(evaluate, Node::root(self.shards))
    }

    /// The tally of a node of the shard tree.
    fn node(&self, evaluate: Evaluate<'_, D>, node: Node) -> Result<Tally, ModelError> {
        Ok(match node.children() {
            None => self.shard(evaluate, node.start)?,
            Some((left, right)) => self.node(evaluate, left)? + self.node(evaluate, right)?,
        })
    }

    fn shard(&self, evaluate: Evaluate<'_, D>, shard: u32) -> Result<Tally, ModelError> {
        let examples = self.examples.min(self.test.count().saturating_sub(self.first));
        let slices = ShardRange::deal(examples, self.shards);
        let indices: Vec<u32> =
            slices[shard as usize].iter().map(|index| self.first + index).collect();
        let mut tally = Tally::default();
        for indices in indices.chunks(EVALUATION_BATCH) {
            let batch = Batch { data: self.test, indices, pass: Pass::test(self.seed) };
            let noise = Stream::new(self.seed, Domain::Evaluation, self.step, indices[0]);
            let sums = evaluate(&batch, noise)?;
            let (examples, index_sum) = (batch.len() as u64, batch.index_sum());
            tally = tally + Tally { terms: sums.terms, examples, index_sum };
        }
        Ok(tally)
    }
}

impl<D: Dataset> Trainer<D> {
    /// The tally of the whole test set at the current state. The test examples are divided among the
    /// shards, so the sum follows the shard tree too.
    pub(crate) fn evaluate(&mut self, collective: &mut dyn AllReduce) -> Result<Tally, TrainError> {
        self.tally(collective, Kind::Evaluate)
    }

    /// The mean loss of the held-out training examples, which are the last of those in use. None if no
    /// example is held out.
    pub(crate) fn validate(
        &mut self,
        collective: &mut dyn AllReduce,
    ) -> Result<Option<f64>, TrainError> {
        if self.settings.validation_examples == 0 {
            return Ok(None);
        }
        let tally = self.tally(collective, Kind::Validate)?;
        Ok(Some(tally.terms[0] / tally.examples.max(1) as f64))
    }

    fn tally(&mut self, collective: &mut dyn AllReduce, kind: Kind) -> Result<Tally, TrainError> {
        let Settings { test_examples, validation_examples, .. } = self.settings;
        let (test, first, examples) = match kind {
            Kind::Validate => (&self.data.train, self.schedule.images(), validation_examples),
            Kind::Evaluate | Kind::Train => (&self.data.test, 0, test_examples),
        };
        let evaluation = Evaluation {
            test,
            first,
            examples,
            shards: self.settings.shards,
            seed: self.settings.seed,
            step: self.replica.step(),
        };
        let (model, replica) = (&mut self.model, &self.replica);
        let evaluate = &mut |batch: &Batch<'_, D>, noise| match replica.parameters() {
            Some(parameters) => model.evaluate(parameters, batch, noise),
            None => resident(&mut **model).evaluate(batch, noise),
        };
        let nodes = collective.nodes().iter();
        let tallies: Result<_, _> = nodes.map(|node| evaluation.node(evaluate, *node)).collect();
        let contribution = Contribution { tallies: tallies?, ..Contribution::default() };
        let outcome = collective.all_reduce(self.round(kind), &contribution)?;
        Ok(outcome.tally)
    }
}
