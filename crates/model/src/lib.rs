//! Models on flat vectors: parameters in, the gradient of the summed loss out.
//!
//! [`Model`] is all that a trainer knows. [`Autograd`] makes one of any objective written in
//! tch, on any device; a model by hand stands on [`gemm`], [`math`], [`noise`] and [`kernel!`],
//! and keeps its memory in a [`Scratch`]. [`Adam`] advances a [`State`]. Nothing here knows what
//! is trained, or of other members, files and sockets.
//!
//! The bits of every result depend on the arguments and the [`Isa`]'s BLAS alone: not on
//! the number of threads, on what ran before, or on where a slice lies in memory. Start
//! reading at [`Model`].

pub mod autograd;
pub mod bf16;
pub mod blas;
pub mod cuda;
pub mod digest;
pub mod gemm;
pub mod isa;
pub mod libtorch;
pub mod math;
pub mod memory;
pub mod noise;
pub mod norm;
pub mod resident;

mod adam;
mod attempt;
mod error;
mod initial;
mod layout;
mod scratch;
mod state;
mod team;

use std::sync::Arc;

use data::{Batch, Dataset, Stream};

pub use adam::{Adam, Update};
pub use autograd::Autograd;
pub use bf16::Bf16;
pub use error::ModelError;
pub use initial::initialise_linear;
pub use isa::Isa;
pub use layout::{Entry, Layout};
pub use resident::{Finished, PartialTree, Partner, Resident, WholeStep};
pub use scratch::Scratch;
pub use state::{State, StateView};
pub use team::Team;

/// Most sums that a model reports for a batch, as many as the members exchange; the vectors that a
/// state has; its digest; and memory of devices and of the host where partials are exchanged.
pub use collective::{DeviceMemory, Digest, HostMemory, STATE_VECTORS, TERMS_MAX};

/// Sums over the examples of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// The loss first, the others as the task names them; those that it does not have are zero.
    pub terms: [f64; TERMS_MAX],
}

impl Sums {
    /// These terms, at most [`TERMS_MAX`], the loss first.
    #[must_use]
    pub fn of<const N: usize>(terms: [f64; N]) -> Self {
        const { assert!(N <= TERMS_MAX, "more terms than the members exchange") }
        let mut sums = Self::default();
        sums.terms[..N].copy_from_slice(&terms);
        sums
    }
}

impl std::ops::AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        for (sum, term) in self.terms.iter_mut().zip(other.terms) {
            *sum += term;
        }
    }
}

/// Where in a run a step is: all that a step may depend on beside parameters and examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepContext {
    /// Updates done before the step.
    pub step: u64,
    /// Steps in an epoch.
    pub steps_per_epoch: u64,
    /// Steps in the run.
    pub steps: u64,
    /// The stream of all randomness in the step.
    pub random: Stream,
}

impl StepContext {
    /// The only step of a run, for those who compute outside of one.
    #[must_use]
    pub const fn alone(random: Stream) -> Self {
        Self { step: 0, steps_per_epoch: 1, steps: 1, random }
    }
}

/// What a trainer knows of a model.
///
/// # Panics
///
/// The methods panic where a slice's length does not fit the layout or the batch: that is
/// a mistake of the caller, which no input can cause.
pub trait Model {
    /// The set that it learns from.
    type Data: Dataset;

    /// The parameters' names, shapes and places in the flat vectors.
    fn layout(&self) -> &Layout;

    /// Writes the initial parameters, a function of the seed alone.
    fn initialise(&self, seed: u64, parameters: &mut [f32]);

    /// Computes with these threads from now on; the bits stay the same. Without it, a model
    /// computes with whatever libtorch does.
    fn set_team(&mut self, team: Arc<Team>);

    /// Computes with so many threads, where the bits depend on their number: it is the run's, the
    /// same on all workers. Without effect on a model whose bits do not depend on it.
    fn fix_threads(&mut self, threads: u32) {
        let _ = threads;
    }

    /// Numbers of the model's own schedule in a step, by name, as `kl_weight`: for people alone.
    fn factors(&self, context: &StepContext) -> Vec<(&'static str, f64)> {
        let _ = context;
        Vec::new()
    }

    /// Makes room for batches of so many examples, so that lack of memory shows before training.
    ///
    /// # Errors
    ///
    /// [`ModelError::Memory`], with the bytes that were wanted.
    fn reserve(&mut self, examples: usize) -> Result<(), ModelError> {
        let _ = examples;
        Ok(())
    }

    /// Writes (does not add) the gradient of the sum of the loss over the batch's examples;
    /// an empty batch gives zeros.
    ///
    /// # Errors
    ///
    /// [`ModelError::Gpu`] or [`ModelError::Libtorch`] where the device failed. What was written
    /// is then undefined, and the model is not to be used any more.
    fn gradient(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Self::Data>,
        context: &StepContext,
        gradient: &mut [f32],
    ) -> Result<Sums, ModelError>;

    /// The sums alone, without a gradient; nothing that a schedule changes counts in them.
    ///
    /// # Errors
    ///
    /// As [`Model::gradient`].
    fn evaluate(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Self::Data>,
        random: Stream,
    ) -> Result<Sums, ModelError>;

    /// This model where it can keep the state itself and make whole steps.
    fn resident(&mut self) -> Option<&mut dyn Resident<Data = Self::Data>> {
        None
    }
}
