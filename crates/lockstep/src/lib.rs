//! Train your own model, data-parallel, with the same bits for any number of workers.
//!
//! Write a [`Task`] in one file: a model, its options and its data set. [`main`] turns the task into a
//! program that can coordinate a run, work for a run, or describe the task:
//!
//! ```text
//! classifier train --workers 4 --spawn --epochs 5
//! classifier worker --coordinator https://host:50051
//! classifier describe > task.json
//! ```
//!
//! The trained parameters then depend on the options and the seed only. They do not depend on the number
//! of workers, on the transport, or on workers that are killed and replaced. The manual has seven parts:
//!
//! 1. [Daily use](manual::use_it): flags, the files of a run, watching and comparing runs
//! 2. [Write a task](manual::write_a_task)
//! 3. [Bring a data set](manual::bring_a_data_set)
//! 4. [Train on many hosts](manual::many_hosts)
//! 5. [When something dies](manual::when_something_dies)
//! 6. [Reproduce a digest](manual::reproduce_a_digest)
//! 7. [Troubleshooting](manual::troubleshooting), by symptom
//!
//! Two example programs that you can copy are in `crates/lockstep/examples`: a classifier of
//! Fashion-MNIST, and a transformer that learns a text.

pub mod manual;
mod program;

pub use autograd::{Autograd, Inputs};
/// The description of a data set: named files with their digests.
pub use config::{FileEntry, Manifest};
pub use data::{
    Batch, Collate, Column, Columns, Dataset, Domain, Files, Pass, Splits, Stream, Text, Values,
    local,
};
pub use images;
pub use model::{Device, Layout, Model, ModelError, StepContext, Sums, TERMS_MAX};
pub use program::main;
pub use tch;
pub use trainer::{
    Artifacts, Metric, Task, checks, describe,
    task::{ArtifactFiles, Error, TaskModel},
};
