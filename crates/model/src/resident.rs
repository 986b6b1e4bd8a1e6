//! A model that keeps the state where it computes, as on a GPU, and makes whole steps there: so that
//! neither parameters nor gradients travel between the device and the host in every step.

use std::{ops::Range, sync::Arc};

use collective::{DeviceMemory, Digest, HostMemory, Node, STATE_VECTORS, tree};
use data::{Batch, Stream};

use crate::{ModelError, StateView, StepContext, Sums, adam::Update};

/// Steps that are under way at the most: enough to hide the host, and few enough that whoever asks for
/// a pause or for the state does not wait.
pub const AHEAD: usize = 8;

/// A model with a state of its own.
///
/// Errors are those of [`Model::gradient`](crate::Model::gradient): after one, the model is not to be
/// used any more.
pub trait Resident {
    /// The set that it learns from.
    type Data;

    /// Goes on from this state. No step is under way.
    ///
    /// # Errors
    /// The device failed.
    fn load(&mut self, state: StateView<'_>) -> Result<(), ModelError>;

    /// Copies parameters and both moments to the host. No step is under way.
    ///
    /// # Errors
    /// The device failed.
    fn fetch(&mut self) -> Result<[Vec<f32>; STATE_VECTORS], ModelError>;

    /// The digest of the state, which has seen so many steps; none where the device does not compute
    /// it. No step is under way.
    ///
    /// # Errors
    /// The device failed.
    fn digest(&mut self, step: u64) -> Result<Option<Digest>, ModelError> {
        let _ = step;
        Ok(None)
    }

    /// [`Model::gradient`](crate::Model::gradient) at the state's parameters.
    ///
    /// # Errors
    /// The device failed.
    fn gradient(
        &mut self,
        batch: &Batch<'_, Self::Data>,
        context: &StepContext,
        gradient: &mut [f32],
    ) -> Result<Sums, ModelError>;

    /// [`Model::evaluate`](crate::Model::evaluate) at the state's parameters.
    ///
    /// # Errors
    /// The device failed.
    fn evaluate(
        &mut self,
        batch: &Batch<'_, Self::Data>,
        random: Stream,
    ) -> Result<Sums, ModelError>;

    /// Advances the state by a gradient that was summed elsewhere.
    ///
    /// # Errors
    /// The device failed.
    fn update(&mut self, update: &Update, sum: &[f32]) -> Result<(), ModelError>;

    /// Begins a whole step, after those that were begun before: the gradients of all shards, their sum
    /// along the shard tree, and the update. A step whose loss is not finite leaves the state as it
    /// is, and so do all that were begun after it.
    ///
    /// # Errors
    /// The device failed.
    ///
    /// # Panics
    /// Where [`AHEAD`] steps are under way.
    fn begin(&mut self, step: &WholeStep<'_, Self::Data>) -> Result<(), ModelError>;

    /// Waits for the oldest step that was begun and not finished.
    ///
    /// # Errors
    /// The device failed.
    fn finish(&mut self) -> Result<Finished, ModelError>;

    /// This model where it can exchange partials with others, device to device.
    fn partner(&mut self) -> Option<&mut dyn Partner<Data = Self::Data>> {
        None
    }
}

/// A model that makes steps together with those of other members: each has its own state and device. It
/// gets the others' partials there, or has its own copied to the host and is given the sum.
///
/// In a step it contributes, tells the sums, and, when the partials of all members are there, advances. A
/// step that does not come so far is begun anew.
pub trait Partner {
    /// The set that it learns from.
    type Data;

    /// Makes room for the partials that meet on the device: a gradient for each. No step is under way.
    ///
    /// # Errors
    /// The device failed, or has too little memory.
    fn meet(&mut self, tree: &PartialTree) -> Result<Arc<dyn DeviceMemory>, ModelError>;

    /// Begins to compute this member's partials, to their places. The step has this member's shards
    /// alone.
    ///
    /// # Errors
    /// The device failed.
    fn contribute(&mut self, step: &WholeStep<'_, Self::Data>) -> Result<(), ModelError>;

    /// Waits for the sums of this member's nodes. What comes after them in the device's queue is not
    /// waited for.
    ///
    /// # Errors
    /// The device failed.
    fn sums(&mut self) -> Result<Vec<Sums>, ModelError>;

    /// Copies one of this member's partials to the host, after [`Partner::sums`].
    ///
    /// # Errors
    /// The device failed.
    fn partial(&mut self, index: usize, to: &mut [f32]) -> Result<(), ModelError>;

    /// Has the device copy to and from this memory by itself from now on, and no longer to and from that
    /// which it was told of before. Without it, or where the device refuses, the host copies too.
    fn use_memory(&mut self, memory: Option<Arc<dyn HostMemory>>);

    /// Begins to add all members' partials along the tree and to advance the state by the sum. Waits for
    /// the norm of the sum where that is wanted.
    ///
    /// # Errors
    /// The device failed.
    fn advance(&mut self, wants_norm: bool) -> Result<Option<f64>, ModelError>;
}

/// How the partials of several members are added: as a stack machine does it. A number says for each of a
/// list of sums how often the two uppermost ones are added after it was pushed
/// ([`collective::tree::merges`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialTree {
    /// For the gradients of this member's shards. What is left are its partials.
    pub shards: Vec<u8>,
    /// For the partials of all members, in shard order. What is left is the sum. Empty where the others'
    /// do not come to this member's device.
    pub partials: Vec<u8>,
    /// Which of these are this member's.
    pub own: Range<usize>,
}

impl PartialTree {
    /// Of a member with these nodes, among all members' nodes.
    ///
    /// # Panics
    /// Unless all nodes cover the tree, and the member's are among them.
    #[must_use]
    pub fn new(own: &[Node], all: &[Node]) -> Self {
        let (first, last) = (own.first().expect("a member has nodes"), all.last());
        let root = Node::root(last.map_or(0, |last| last.end));
        let place = all.iter().position(|node| node == first).expect("it is among all");
        Self {
            shards: tree::merges(own, &leaves(own)),
            partials: tree::merges(&[root], all),
            own: place..place + own.len(),
        }
    }

    /// Of a member with these nodes, whose device sees its own partials alone.
    #[must_use]
    pub fn apart(own: &[Node]) -> Self {
        let shards = tree::merges(own, &leaves(own));
        Self { shards, partials: Vec::new(), own: 0..own.len() }
    }

    /// Of a member that has so many shards to itself.
    #[must_use]
    pub fn alone(shards: usize) -> Self {
        let root = [Node::root(shards as u32)];
        Self::new(&root, &root)
    }
}

/// The shards below these nodes.
fn leaves(nodes: &[Node]) -> Vec<Node> {
    let shards = nodes.iter().flat_map(|node| node.start..node.end);
    shards.map(|start| Node { start, end: start + 1 }).collect()
}

/// A step of a run: all of it where one member makes it alone, else a member's part.
#[derive(Debug)]
pub struct WholeStep<'a, D> {
    /// Each shard's examples, and what the model is told of the step for it. The examples follow each
    /// other in `order`; only the last shard that has any may have fewer than the first.
    pub shards: &'a [(Batch<'a, D>, StepContext)],
    /// The order of the whole epoch. All steps of an epoch share one allocation, so that a device copies
    /// the order once.
    pub order: &'a Arc<[u32]>,
    /// The position in `order` of the first shard's first example.
    pub first: usize,
    /// The update by the mean gradient.
    pub update: Update,
    /// The largest norm of the mean gradient.
    pub grad_clip: Option<f64>,
    /// Whether somebody wants to know the norm.
    pub wants_norm: bool,
}

impl<D> WholeStep<'_, D> {
    /// The positions of all shards' examples in the order.
    #[must_use]
    pub fn positions(&self) -> Range<usize> {
        let examples: usize = self.shards.iter().map(|(batch, _)| batch.len()).sum();
        self.first..self.first + examples
    }
}

/// What a step has given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finished {
    /// The sums over all examples, along the shard tree.
    pub sums: Sums,
    /// The norm of the gradient's sum, where it was wanted.
    pub norm: Option<f64>,
}
