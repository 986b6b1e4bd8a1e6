//! A model that keeps the state on its device, such as a GPU, and makes whole steps there, so that
//! neither parameters nor gradients are copied between device and host in every step.

use std::{ops::Range, sync::Arc};

use collective::{DeviceMemory, Digest, HostMemory, Node, STATE_VECTORS, tree};
use data::{Batch, Stream};

use crate::{ModelError, StateView, StepContext, Sums, adam::Update};

/// The most steps in flight: enough to hide the work of the host, and so few that a request for
/// a pause or for the state does not wait long.
pub const AHEAD: usize = 8;

/// A model that holds the state itself.
///
/// Errors are those of [`Model::gradient`](crate::Model::gradient). After an error, the model must not be
/// used again.
pub trait Resident {
    /// The data set that it is trained on.
    type Data;

    /// Replaces the state by this one. No step may be in flight.
    ///
    /// # Errors
    /// The device failed.
    fn load(&mut self, state: StateView<'_>) -> Result<(), ModelError>;

    /// Copies parameters and both moments to the host. No step may be in flight.
    ///
    /// # Errors
    /// The device failed.
    fn fetch(&mut self) -> Result<[Vec<f32>; STATE_VECTORS], ModelError>;

    /// The digest of the state after `step` updates; `None` if the device does not compute
    /// digests. No step may be in flight.
    ///
    /// # Errors
    /// The device failed.
    fn digest(&mut self, step: u64) -> Result<Option<Digest>, ModelError> {
        let _ = step;
        Ok(None)
    }

    /// [`Model::gradient`](crate::Model::gradient) with the state's parameters.
    ///
    /// # Errors
    /// The device failed.
    fn gradient(
        &mut self,
        batch: &Batch<'_, Self::Data>,
        context: &StepContext,
        gradient: &mut [f32],
    ) -> Result<Sums, ModelError>;

    /// [`Model::evaluate`](crate::Model::evaluate) with the state's parameters.
    ///
    /// # Errors
    /// The device failed.
    fn evaluate(
        &mut self,
        batch: &Batch<'_, Self::Data>,
        random: Stream,
    ) -> Result<Sums, ModelError>;

    /// Updates the state with a gradient that was summed elsewhere.
    ///
    /// # Errors
    /// The device failed.
    fn update(&mut self, update: &Update, sum: &[f32]) -> Result<(), ModelError>;

    /// Starts a whole step, after all steps started before: the gradients of all shards, their sum
    /// along the shard tree, and the update. If the loss is not finite, the step and all steps
    /// started after it leave the state unchanged.
    ///
    /// # Errors
    /// The device failed.
    ///
    /// # Panics
    /// If [`AHEAD`] steps are in flight.
    fn begin(&mut self, step: &WholeStep<'_, Self::Data>) -> Result<(), ModelError>;

    /// Waits for the oldest step that was started and is not finished.
    ///
    /// # Errors
    /// The device failed.
    fn finish(&mut self) -> Result<Finished, ModelError>;

    /// This model, if it can exchange partials with other members, device to device.
    fn partner(&mut self) -> Option<&mut dyn Partner<Data = Self::Data>> {
        None
    }
}

/// A model that makes steps together with those of other members, where each has its own state and device. It
/// receives the others' partials on its device, or copies its own to the host and receives the sum.
///
/// In a step, it first contributes, then reports the sums and, when the partials of all members are present,
/// advances. A step that does not get so far is started again.
pub trait Partner {
    /// The data set that it is trained on.
    type Data;

    /// Allocates room on the device for the partials of all members, one gradient each. No step may be in flight.
    ///
    /// # Errors
    /// The device failed, or has too little memory.
    fn meet(&mut self, tree: &PartialTree) -> Result<Arc<dyn DeviceMemory>, ModelError>;

    /// Starts to compute this member's partials into their places. `step` has only this member's
    /// shards.
    ///
    /// # Errors
    /// The device failed.
    fn contribute(&mut self, step: &WholeStep<'_, Self::Data>) -> Result<(), ModelError>;

    /// Waits for the sums of this member's nodes. Later work in the device's queue is not
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

    /// Lets the device copy directly to and from this memory from now on, instead of the memory of an earlier
    /// call. Without such memory, or if the device refuses it, the host copies.
    fn use_memory(&mut self, memory: Option<Arc<dyn HostMemory>>);

    /// Starts to add all members' partials along the tree, and to update the state with the sum. Waits for
    /// the norm of the sum if it is wanted.
    ///
    /// # Errors
    /// The device failed.
    fn advance(&mut self, wants_norm: bool) -> Result<Option<f64>, ModelError>;
}

/// How the partials of several members are added, in the form of a stack machine. For each of a list of sums, a number
/// says how often the two uppermost sums are added after this sum was pushed
/// ([`collective::tree::merges`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialTree {
    /// For the gradients of this member's shards. The remaining sums are its partials.
    pub shards: Vec<u8>,
    /// For the partials of all members, in shard order. The remaining sum is the result. Empty if the others'
    /// partials do not reach this member's device.
    pub partials: Vec<u8>,
    /// The range of this member's partials among all partials.
    pub own: Range<usize>,
}

impl PartialTree {
    /// The tree of a member with the nodes `own` among all members' nodes.
    ///
    /// # Panics
    /// Unless all nodes together cover the tree, and `own` is among them.
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

    /// The tree of a member whose device has only the member's own partials.
    #[must_use]
    pub fn apart(own: &[Node]) -> Self {
        let shards = tree::merges(own, &leaves(own));
        Self { shards, partials: Vec::new(), own: 0..own.len() }
    }

    /// The tree of a member that has all `shards` shards.
    #[must_use]
    pub fn alone(shards: usize) -> Self {
        let root = [Node::root(shards as u32)];
        Self::new(&root, &root)
    }
}

/// The shards below the nodes.
fn leaves(nodes: &[Node]) -> Vec<Node> {
    let shards = nodes.iter().flat_map(|node| node.start..node.end);
    shards.map(|start| Node { start, end: start + 1 }).collect()
}

/// A step of a run: the whole step if one member makes it alone, else the member's part.
#[derive(Debug)]
pub struct WholeStep<'a, D> {
    /// The examples and the context of each shard. The examples of the shards follow each other in `order`.
    /// Only the last shard that has any examples may have fewer than the first shard.
    pub shards: &'a [(Batch<'a, D>, StepContext)],
    /// The order of the whole epoch. All steps of an epoch share one allocation, so that a device copies
    /// the order once.
    pub order: &'a Arc<[u32]>,
    /// The position in `order` of the first shard's first example.
    pub first: usize,
    /// The update by the mean gradient.
    pub update: Update,
    /// The largest norm of the mean gradient; a longer one is clipped.
    pub grad_clip: Option<f64>,
    /// Whether the norm is wanted.
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

/// The results of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finished {
    /// The sums over all examples, along the shard tree.
    pub sums: Sums,
    /// The norm of the gradient's sum, if it was wanted.
    pub norm: Option<f64>,
}
