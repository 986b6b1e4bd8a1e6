//! A model that keeps the state where it computes, as on a GPU, and makes whole steps there: so that
//! neither parameters nor gradients travel between the device and the host in every step.

use collective::STATE_VECTORS;
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
}

/// A step of a run that one member makes alone.
#[derive(Debug)]
pub struct WholeStep<'a, D> {
    /// Each shard's examples, and what the model is told of the step for it.
    pub shards: &'a [(Batch<'a, D>, StepContext)],
    /// The update by the mean gradient.
    pub update: Update,
    /// The largest norm of the mean gradient.
    pub grad_clip: Option<f64>,
    /// Whether somebody wants to know the norm.
    pub wants_norm: bool,
}

/// What a step has given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finished {
    /// The sums over all examples, along the shard tree.
    pub sums: Sums,
    /// The norm of the gradient's sum, where it was wanted.
    pub norm: Option<f64>,
}
