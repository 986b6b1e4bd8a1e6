//! Why a model cannot be had, or cannot compute.

use thiserror::Error;

use crate::cuda::GpuError;

/// A configuration that no model can be made of, or a device that failed.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum ModelError {
    /// A size is zero, or above what the matrix kernels can index.
    #[error("{name} is {value}; it must be between 1 and {max}")]
    Size {
        /// The configuration's name of it.
        name: &'static str,
        /// What was asked for.
        value: u64,
        /// The largest that is allowed.
        max: u64,
    },
    /// A number is not one of those that make sense.
    #[error("{name} is {value}; it must be {allowed}")]
    Number {
        /// The configuration's name of it.
        name: &'static str,
        /// What was asked for.
        value: f64,
        /// The values that are allowed, in words.
        allowed: &'static str,
    },
    /// The BLAS cannot multiply in this precision.
    #[error("precision {0} is not supported: the BLAS of this libtorch is not MKL; use f32")]
    Precision(&'static str),
    /// A tensor that the model has was not given.
    #[error("it has no tensor {name}")]
    Missing {
        /// The tensor's name.
        name: String,
    },
    /// A tensor was given in another shape.
    #[error("tensor {name} has shape {found:?}, the model's is {expected:?}")]
    Shape {
        /// The tensor's name.
        name: String,
        /// The model's shape of it.
        expected: Vec<usize>,
        /// What was given.
        found: Vec<usize>,
    },
    /// The GPU refused; its memory may be full.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// Code of the task panicked.
    #[error("a panic at {place}: {reason}")]
    Panicked {
        /// What it says.
        reason: String,
        /// The line of the source.
        place: String,
    },
    /// A module cannot be trained by several workers.
    #[error("the module cannot be trained: {0}")]
    Module(String),
    /// An objective gives what is no sum over examples.
    #[error("the objective gives {0}")]
    Objective(String),
    /// An operation of libtorch failed, as on a GPU that is gone or whose memory is full.
    #[error("libtorch: {0}")]
    Libtorch(String),
    /// The vectors do not fit into memory.
    #[error("{purpose} needs {bytes} bytes, which this machine does not have; use a smaller one")]
    Memory {
        /// What the memory is for, with its sizes.
        purpose: String,
        /// How much was wanted; saturated where it exceeds the range of the type.
        bytes: u64,
    },
}
