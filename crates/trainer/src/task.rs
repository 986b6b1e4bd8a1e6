//! The trait [`Task`]: a model, its options and its data set, as one type of the user's program.
//!
//! Workers are generic over the task. All other programs use its description, a [`config::Task`] made by
//! [`describe`]. So a coordinator needs neither libtorch nor this trait.

use config::{InvalidTask, Manifest, Size, task::Precision};
use data::{Dataset, Files, Splits};
use model::{Device, Layout, Model, cuda::GpuError};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// The error of a task's function.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The model of a task.
pub type TaskModel<T> = Box<dyn Model<Data = <T as Task>::Data>>;

/// Files that a task makes: their names and their bytes.
pub type ArtifactFiles = Vec<(String, Vec<u8>)>;

/// A sum over examples that a task reports; people see its mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// The name in lowercase, such as `errors`; it is a key in the metrics.
    pub name: &'static str,
    /// The unit of one example's value, such as `nats`; empty if it has none.
    pub unit: &'static str,
}

/// What a model needs to compute on a GPU.
#[derive(Clone, Copy, Debug)]
pub enum GpuSupport {
    /// The model computes only on CPUs.
    None,
    /// The GPU's driver, and kernels of the model's own. The function checks that the GPU with this index can run them.
    Kernels(fn(usize) -> Result<(), GpuError>),
    /// libtorch's CUDA libraries.
    Libtorch,
}

/// A model, its options and its data set.
pub trait Task: 'static {
    /// The task's name: lowercase letters, digits, dashes and underscores.
    const NAME: &'static str;

    /// The revision of the task. Raise it whenever the task's results change: workers of different
    /// revisions do not train together.
    const REVISION: u32;

    /// The word for one example, in the singular, such as `image`.
    const EXAMPLE: &'static str = "example";

    /// The sums that the model reports, in its order: the loss first, at most
    /// [`model::TERMS_MAX`].
    const METRICS: &'static [Metric];

    /// The task's own options: a struct with named fields, because they travel as one JSON object.
    type Options: Clone + Send + Sync + Serialize + DeserializeOwned + 'static;

    /// The set of examples.
    type Data: Dataset;

    /// Refuses invalid options, before they are used.
    ///
    /// # Errors
    /// One line that says what is wrong.
    fn validate(options: &Self::Options) -> Result<(), Error> {
        let _ = options;
        Ok(())
    }

    /// The files of the data set, with their digests, and the numbers of examples.
    ///
    /// # Errors
    /// The manifest cannot be made, for example because the options name a folder that does not exist.
    fn manifest(options: &Self::Options) -> Result<Manifest, Error>;

    /// Reads the data set from the manifest's files, which are on this host and verified.
    ///
    /// # Errors
    /// A file cannot be read as examples.
    fn data(options: &Self::Options, files: &Files) -> Result<Splits<Self::Data>, Error>;

    /// Makes the model on a device.
    ///
    /// # Errors
    /// The options do not give a valid model, or the device fails.
    fn model(options: &Self::Options, device: Device) -> Result<TaskModel<Self>, Error>;

    /// Files for the folder `samples` of the run directory, such as pictures. The leader calls this
    /// after an epoch.
    ///
    /// # Errors
    /// An error is logged, and training goes on.
    fn artifacts(
        options: &Self::Options,
        context: &Artifacts<'_, Self::Data>,
    ) -> Result<ArtifactFiles, Error> {
        let _ = (options, context);
        Ok(Vec::new())
    }

    /// The model in a few words for people, such as `VAE 784-400-400-20`.
    fn summary(options: &Self::Options) -> String {
        let _ = options;
        Self::NAME.to_owned()
    }

    /// The number format of the factors of the model's matrix products.
    fn precision(options: &Self::Options) -> Precision {
        let _ = options;
        Precision::F32
    }

    /// Whether every CPU computes the same bits, and every GPU too unless [`Task::precision`] is bf16. libtorch
    /// does not promise equal bits, so a model that computes with libtorch must return false.
    fn is_portable(options: &Self::Options) -> bool {
        let _ = options;
        false
    }

    /// What the model needs to compute on a GPU.
    fn gpu_support(options: &Self::Options) -> GpuSupport {
        let _ = options;
        GpuSupport::Libtorch
    }

    /// The memory that the task needs.
    ///
    /// # Errors
    /// As [`Task::model`]: by default the size is computed from the model's layout.
    fn size(options: &Self::Options) -> Result<Size, Error> {
        Ok(size_of_layout(Self::model(options, Device::Cpu)?.layout()))
    }
}

/// The inputs of [`Task::artifacts`].
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

/// The least memory that a model of this layout needs.
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
        /// The task's error.
        source: Error,
    },
    /// The task cannot make its manifest.
    #[error("the data set of the task {task}: {source}")]
    Dataset {
        /// The task.
        task: &'static str,
        /// The task's error.
        source: Error,
    },
    /// The task cannot make its model.
    #[error("the model of the task {task}: {source}")]
    Model {
        /// The task.
        task: &'static str,
        /// The task's error.
        source: Error,
    },
    /// The options cannot be written as JSON.
    #[error("the options of the task {task} cannot be written as JSON: {source}")]
    Json {
        /// The task.
        task: &'static str,
        /// serde's error.
        source: serde_json::Error,
    },
    /// The description is not valid.
    #[error(transparent)]
    Invalid(#[from] InvalidTask),
}

/// The description of a task with its options, for programs that do not contain the task.
///
/// # Errors
/// [`DescribeError`] when the task refuses its options, or the description is not valid.
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
