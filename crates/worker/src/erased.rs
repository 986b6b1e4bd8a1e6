//! The program's task without its types. So the communication thread is compiled once, in this crate, and not again in
//! every program.

use std::{marker::PhantomData, sync::Arc};

use anyhow::Result;
use data::{Files, Splits};
use model::Device;
use trainer::{Task, task::GpuSupport};

use crate::{
    bridge::TrainingChannel,
    setup::{self, RunContext, Setup},
    training,
};

/// A task of any type.
pub(crate) trait AnyTask: Sync {
    /// The task's name and revision.
    fn identity(&self) -> (&'static str, u32);

    /// See [`setup::gpu_support`].
    fn gpu_support(&self, task: Option<&config::Task>) -> GpuSupport;

    /// The options of a run's task, see [`setup::options`].
    fn options(&self, task: &config::Task) -> Result<Box<dyn AnyOptions>>;
}

/// The options of a run's task.
pub(crate) trait AnyOptions: Send {
    /// The length of the model's flat vectors, which is the same on every device.
    fn length(&self) -> Result<usize>;

    /// Reads the run's examples.
    fn examples(self: Box<Self>, files: &Files) -> Result<Box<dyn AnyExamples>>;
}

/// A run's examples, and the options of its task.
pub(crate) trait AnyExamples: Send {
    /// Does the work of the training thread.
    fn train(self: Box<Self>, context: RunContext, channel: &TrainingChannel);
}

/// The task `T`.
pub(crate) struct Erased<T>(PhantomData<fn() -> T>);

struct Options<T: Task>(T::Options);

struct Examples<T: Task> {
    options: T::Options,
    data: Arc<Splits<T::Data>>,
}

impl<T> Erased<T> {
    pub(crate) const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T: Task> AnyTask for Erased<T> {
    fn identity(&self) -> (&'static str, u32) {
        (T::NAME, T::REVISION)
    }

    fn gpu_support(&self, task: Option<&config::Task>) -> GpuSupport {
        setup::gpu_support::<T>(task)
    }

    fn options(&self, task: &config::Task) -> Result<Box<dyn AnyOptions>> {
        Ok(Box::new(Options::<T>(setup::options::<T>(task)?)))
    }
}

impl<T: Task> AnyOptions for Options<T> {
    fn length(&self) -> Result<usize> {
        let model = T::model(&self.0, Device::Cpu).map_err(anyhow::Error::from_boxed)?;
        Ok(model.layout().len())
    }

    fn examples(self: Box<Self>, files: &Files) -> Result<Box<dyn AnyExamples>> {
        let data = T::data(&self.0, files).map_err(anyhow::Error::from_boxed)?;
        Ok(Box::new(Examples::<T> { options: self.0, data: Arc::new(data) }))
    }
}

impl<T: Task> AnyExamples for Examples<T> {
    fn train(self: Box<Self>, context: RunContext, channel: &TrainingChannel) {
        let Self { options, data } = *self;
        training::run(&Setup::<T> { context, options, data }, channel);
    }
}
