//! What is trained: a model, its options and its data set, as one type of the user's program.
//!
//! Workers are generic over it. Everybody else sees its description, a [`config::Task`] that
//! [`describe`] makes; a coordinator needs no more, and neither libtorch nor this trait.

use config::{InvalidTask, Manifest, Size, task::Precision};
use data::{Dataset, Files, Splits};
use model::{Layout, Model};
use serde::{Serialize, de::DeserializeOwned};
use tch::Device;
use thiserror::Error;

/// Why a task cannot do what it was asked for.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The model of a task.
pub type TaskModel<T> = Box<dyn Model<Data = <T as Task>::Data>>;

/// Files that a task makes: names, and their bytes.
pub type ArtifactFiles = Vec<(String, Vec<u8>)>;

/// A sum over examples that a task reports; people see its mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name, lowercase, as in `errors`: a key in the metrics.
    pub name: &'static str,
    /// Its unit for one example, as in `nats`; empty if it has none.
    pub unit: &'static str,
}

/// What a model needs to compute on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GpuSupport {
    /// It computes on CPUs alone.
    None,
    /// The GPU's driver: it has kernels of its own.
    Kernels,
    /// libtorch's CUDA libraries.
    Libtorch,
}

/// A model, its options and its data set.
pub trait Task: 'static {
    /// Its name: lowercase letters, digits, dashes and underscores.
    const NAME: &'static str;

    /// To be raised whenever the task computes something else: workers of different revisions do
    /// not train together.
    const REVISION: u32;

    /// What one example is called, in the singular, as in `image`.
    const EXAMPLE: &'static str = "example";

    /// The sums that the model reports, in its order: the loss first, at most
    /// [`model::TERMS_MAX`].
    const METRICS: &'static [Metric];

    /// The task's own options. They travel as one JSON object, so all of them are named fields.
    type Options: Clone + Send + Sync + Serialize + DeserializeOwned + 'static;

    /// The set of examples.
    type Data: Dataset;

    /// Refuses options that make no sense, before anything else is done with them.
    ///
    /// # Errors
    /// What is wrong, in one line.
    fn validate(options: &Self::Options) -> Result<(), Error> {
        let _ = options;
        Ok(())
    }

    /// The files of the data set, with their digests, and how many examples they hold.
    ///
    /// # Errors
    /// Where it cannot be told, as when the options name a folder that is not there.
    fn manifest(options: &Self::Options) -> Result<Manifest, Error>;

    /// Reads the data set from the manifest's files, which are on this host and verified.
    ///
    /// # Errors
    /// What is wrong with a file.
    fn data(options: &Self::Options, files: &Files) -> Result<Splits<Self::Data>, Error>;

    /// The model, on a device.
    ///
    /// # Errors
    /// Where the options make none, or the device fails.
    fn model(options: &Self::Options, device: Device) -> Result<TaskModel<Self>, Error>;

    /// Files for the folder `samples` of the run directory: what the leader shows of the model
    /// after an epoch, such as pictures.
    ///
    /// # Errors
    /// Training goes on after one; the log tells of it.
    fn artifacts(
        options: &Self::Options,
        context: &Artifacts<'_, Self::Data>,
    ) -> Result<ArtifactFiles, Error> {
        let _ = (options, context);
        Ok(Vec::new())
    }

    /// What people read of the model, in a few words, as in `VAE 784-400-400-20`.
    fn summary(options: &Self::Options) -> String {
        let _ = options;
        Self::NAME.to_owned()
    }

    /// In what the factors of its matrix products are.
    fn precision(options: &Self::Options) -> Precision {
        let _ = options;
        Precision::F32
    }

    /// Whether every CPU and GPU computes the same bits. libtorch does not promise that: a model that
    /// computes with it has to leave this as it is.
    fn is_portable(options: &Self::Options) -> bool {
        let _ = options;
        false
    }

    /// What the model needs to compute on a GPU.
    fn gpu_support(options: &Self::Options) -> GpuSupport {
        let _ = options;
        GpuSupport::Libtorch
    }

    /// What the task takes of a machine.
    ///
    /// # Errors
    /// As [`Task::model`], which is asked for its layout unless the task knows better.
    fn size(options: &Self::Options) -> Result<Size, Error> {
        Ok(size_of_layout(Self::model(options, Device::Cpu)?.layout()))
    }
}

/// What a task's artifacts are made of.
#[derive(Clone, Copy, Debug)]
pub struct Artifacts<'a, D> {
    /// The parameters after the epoch, in the model's layout.
    pub parameters: &'a [f32],
    /// The test examples.
    pub test: &'a D,
    /// The run's seed.
    pub seed: u64,
    /// The epoch that has ended, from 1.
    pub epoch: u64,
}

/// Vectors of the layout's length that a worker holds: parameters, both moments, a gradient.
const VECTORS: u64 = 4;

/// The memory that a model of this layout takes at the least.
#[must_use]
pub fn size_of_layout(layout: &Layout) -> Size {
    let vector_bytes = (layout.len() * size_of::<f32>()) as u64;
    Size {
        parameters: layout.parameters() as u64,
        worker_bytes: VECTORS * vector_bytes,
        example_bytes: 0,
    }
}

/// Why a task has no description.
#[derive(Debug, Error)]
pub enum DescribeError {
    /// The task refuses its options.
    #[error("the options of the task {task}: {source}")]
    Options {
        /// The task.
        task: &'static str,
        /// What it says.
        source: Error,
    },
    /// The data set is not known.
    #[error("the data set of the task {task}: {source}")]
    Dataset {
        /// The task.
        task: &'static str,
        /// What the task says.
        source: Error,
    },
    /// There is no such model.
    #[error("the model of the task {task}: {source}")]
    Model {
        /// The task.
        task: &'static str,
        /// What the task says.
        source: Error,
    },
    /// The options are no JSON.
    #[error("the options of the task {task} cannot be written as JSON: {source}")]
    Json {
        /// The task.
        task: &'static str,
        /// What serde says.
        source: serde_json::Error,
    },
    /// The description is not valid.
    #[error(transparent)]
    Invalid(#[from] InvalidTask),
}

/// Describes a task with its options to those that do not know it.
///
/// # Errors
/// [`DescribeError`]: what the task refuses, or a bound that it does not keep.
pub fn describe<T: Task>(options: &T::Options) -> Result<config::Task, DescribeError> {
    let task = T::NAME;
    T::validate(options).map_err(|source| DescribeError::Options { task, source })?;
    let json = serde_json::to_value(options);
    let metric =
        |metric: &Metric| config::Metric { name: metric.name.into(), unit: metric.unit.into() };
    let description = config::Task {
        name: task.to_owned(),
        revision: T::REVISION,
        options: json.map_err(|source| DescribeError::Json { task, source })?,
        dataset: T::manifest(options).map_err(|source| DescribeError::Dataset { task, source })?,
        example: T::EXAMPLE.to_owned(),
        metrics: T::METRICS.iter().map(metric).collect(),
        precision: T::precision(options),
        portable: T::is_portable(options),
        summary: T::summary(options),
        size: T::size(options).map_err(|source| DescribeError::Model { task, source })?,
    };
    description.validate()?;
    Ok(description)
}
