//! Models on flat vectors: parameters in, the gradient of the summed loss out.
//!
//! A trainer uses only the trait [`Model`]. The crate `autograd` makes a model from any objective written in
//! tch. A model written by hand uses [`gemm`], [`math`], [`noise`] and [`kernel!`],
//! and keeps its memory in a [`Scratch`]. [`Adam`] advances a [`State`]. This crate knows neither what
//! is trained, nor other members, files or sockets.
//!
//! The bits of a result do not depend on earlier calls or on where a slice lies in memory. The code of
//! this crate gives the same bits on every CPU and for any number of threads.
//! Start reading at [`Model`].

pub mod bf16;
pub mod cuda;
pub mod digest;
pub mod gemm;
pub mod isa;
pub mod math;
pub mod memory;
pub mod noise;
pub mod norm;
pub mod resident;

mod adam;
mod device;
mod error;
mod initial;
mod layout;
mod library;
mod scratch;
mod state;
mod team;

use std::sync::Arc;

use data::{Batch, Dataset, Stream};

pub use adam::{Adam, Update};
pub use bf16::Bf16;
pub use device::Device;
pub use error::ModelError;
pub use initial::initialise_linear;
pub use isa::Isa;
pub use layout::{Entry, Layout};
pub use library::Library;
pub use resident::{Finished, PartialTree, Partner, Resident, WholeStep};
pub use scratch::Scratch;
pub use state::{State, StateView};
pub use team::Team;

/// The most sums that a model reports for a batch, which is also the most that members exchange; the number of a
/// state's vectors; the digest of a state; memory of devices and of the host in which partials are exchanged.
pub use collective::{DeviceMemory, Digest, HostMemory, STATE_VECTORS, TERMS_MAX};

/// Sums over the examples of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// The loss first, then the other sums in the task's order. Unused terms are zero.
    pub terms: [f64; TERMS_MAX],
}

impl Sums {
    /// The given terms, at most [`TERMS_MAX`], the loss first.
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

/// The position of a step in a run. A step depends on nothing else, besides parameters and examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepContext {
    /// Updates before the step.
    pub step: u64,
    /// Steps in an epoch.
    pub steps_per_epoch: u64,
    /// Steps in the run.
    pub steps: u64,
    /// The stream of all random numbers in the step.
    pub random: Stream,
}

impl StepContext {
    /// The context of the only step of a run, for computations outside of a run.
    #[must_use]
    pub const fn alone(random: Stream) -> Self {
        Self { step: 0, steps_per_epoch: 1, steps: 1, random }
    }
}

/// A model as a trainer sees it.
///
/// # Panics
///
/// The methods panic if a slice's length does not fit the layout or the batch. That is
/// a mistake of the caller; user input cannot cause it.
pub trait Model {
    /// The data set that it is trained on.
    type Data: Dataset;

    /// The parameters' names, shapes and places in the flat vectors.
    fn layout(&self) -> &Layout;

    /// Writes the initial parameters, which depend on the seed alone.
    fn initialise(&self, seed: u64, parameters: &mut [f32]);

    /// Sets the threads to compute with; the bits stay the same.
    fn set_team(&mut self, team: Arc<Team>);

    /// Sets the number of threads, if the bits depend on it. The number belongs to the run and is the same on all
    /// workers. It has no effect on a model whose bits do not depend on it.
    fn fix_threads(&mut self, threads: u32) {
        let _ = threads;
    }

    /// Numbers of the model's own schedule in a step, with their names, such as `kl_weight`; only for display.
    fn factors(&self, context: &StepContext) -> Vec<(&'static str, f64)> {
        let _ = context;
        Vec::new()
    }

    /// Allocates memory for batches of `examples` examples, so that a lack of memory is found before training.
    ///
    /// # Errors
    ///
    /// [`ModelError::Memory`], with the bytes that were requested.
    fn reserve(&mut self, examples: usize) -> Result<(), ModelError> {
        let _ = examples;
        Ok(())
    }

    /// Writes (does not add) the gradient of the sum of the loss over the batch's examples;
    /// an empty batch gives zeros.
    ///
    /// # Errors
    ///
    /// [`ModelError::Gpu`] or [`ModelError::Libtorch`] if the device failed. The output is
    /// then undefined, and the model must not be used again.
    fn gradient(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Self::Data>,
        context: &StepContext,
        gradient: &mut [f32],
    ) -> Result<Sums, ModelError>;

    /// The sums without a gradient. The model's schedule has no influence on them.
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

    /// This model, if it can keep the state itself and make whole steps.
    fn resident(&mut self) -> Option<&mut dyn Resident<Data = Self::Data>> {
        None
    }
}
