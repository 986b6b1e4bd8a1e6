//! Train a model of your own, data-parallel, with the same bits whoever computes.
//!
//! Write a [`Task`] in one file: a model, its options and its data set. [`main`] makes a program of
//! it that coordinates a run, that works for one, and that describes the task:
//!
//! ```text
//! classifier train --workers 4 --spawn --epochs 5
//! classifier worker --coordinator https://host:50051
//! classifier describe > task.json
//! ```
//!
//! The trained parameters are then a function of the options and the seed alone: for any number of
//! workers, killed and replaced in any order, over any transport. The manual has five parts:
//!
//! 1. [Write a task](manual::write_a_task)
//! 2. [Bring a data set](manual::bring_a_data_set)
//! 3. [Run on many hosts](manual::run_on_many_hosts)
//! 4. [Recover](manual::recover)
//! 5. [Debug](manual::debug)
//!
//! Two programs to copy are in `crates/lockstep/examples`: a classifier of Fashion-MNIST, and a
//! transformer that learns a text.

pub mod manual;
mod program;

/// What a data set is: named files with their digests.
pub use config::{FileEntry, Manifest};
pub use data::{
    Batch, Collate, Column, Columns, Dataset, Domain, Files, Splits, Stream, Text, Values, Visit,
    local,
};
pub use images;
pub use model::{
    Autograd, Layout, Model, ModelError, StepContext, Sums, TERMS_MAX, autograd::Inputs,
};
pub use program::main;
pub use tch;
pub use trainer::{
    Artifacts, Metric, Task, checks, describe,
    task::{ArtifactFiles, Error, TaskModel},
};
