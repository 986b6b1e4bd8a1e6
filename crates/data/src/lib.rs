//! MNIST on disk and in memory, who sees which image when, and the random streams.
//!
//! - [`fetch`]: get the four raw files, from whichever source answers, and verify them
//! - [`mnist`]: their names and digests, and loading them; [`idx`] parses, [`raw`] does the files
//! - [`order`]: the order of each epoch and the positions of each shard
//! - [`batch`]: some examples of a set, as a model wants them
//! - [`column`]: examples as columns of plain numbers, for models by autograd
//! - [`files`]: the files of a data set on this host
//! - [`philox`]: counter-based random numbers, the only source of randomness in the workspace
//!
//! This crate knows nothing of models, processes or networks of workers. Start at `mnist.rs`.

pub mod batch;
pub mod column;
mod download;
mod error;
pub mod fetch;
pub mod files;
pub mod idx;
pub mod mnist;
mod npm;
pub mod order;
pub mod philox;
pub mod raw;

pub use batch::{Batch, Dataset, Splits, Visit, unit_pixels};
pub use column::{Collate, Column, Columns, Text, UnequalColumns, Values};
pub use download::Tell;
pub use error::{Attempt, DataError};
pub use files::Files;
pub use mnist::{FILES, Images, Mnist, PIXELS, Split};
pub use order::{Position, Schedule};
pub use philox::{Domain, Stream};
pub use raw::{RawFile, cache_dir, default_dir, store, verify};
