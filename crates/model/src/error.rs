//! Errors of making a model and of its computations.

use thiserror::Error;

use crate::cuda::GpuError;

/// The configuration is not valid for a model, or the device failed.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum ModelError {
    /// A size is zero, or above what the matrix kernels can index.
    #[error("{name} is {value}; it must be between 1 and {max}")]
    Size {
        /// Its name in the configuration.
        name: &'static str,
        /// The value that was given.
        value: u64,
        /// The largest value that is allowed.
        max: u64,
    },
    /// A number is out of its range.
    #[error("{name} is {value}; it must be {allowed}")]
    Number {
        /// Its name in the configuration.
        name: &'static str,
        /// The value that was given.
        value: f64,
        /// The values that are allowed, in words.
        allowed: &'static str,
    },
    /// A tensor of the model is missing.
    #[error("it has no tensor {name}")]
    Missing {
        /// The tensor's name.
        name: String,
    },
    /// A tensor has another shape than in the model.
    #[error("tensor {name} has shape {found:?}, the model's is {expected:?}")]
    Shape {
        /// The tensor's name.
        name: String,
        /// Its shape in the model.
        expected: Vec<usize>,
        /// The shape that was given.
        found: Vec<usize>,
    },
    /// The GPU reported an error; its memory may be full.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// Code of the task panicked.
    #[error("a panic at {place}: {reason}")]
    Panicked {
        /// The message of the panic.
        reason: String,
        /// Its source location.
        place: String,
    },
    /// A module cannot be trained by several workers.
    #[error("the module cannot be trained: {0}")]
    Module(String),
    /// An objective returned a value that is not a sum over examples.
    #[error("the objective gives {0}")]
    Objective(String),
    /// An operation of libtorch failed, for instance because a GPU is gone or its memory is full.
    #[error("libtorch: {0}")]
    Libtorch(String),
    /// The vectors do not fit into the memory.
    #[error("{purpose} needs {bytes} bytes, which this machine does not have; use a smaller one")]
    Memory {
        /// The purpose of the memory, with its sizes.
        purpose: String,
        /// The bytes that were requested, saturated at the largest number of the type.
        bytes: u64,
    },
}
