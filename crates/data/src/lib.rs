//! Data sets as named files with digests, examples by index, which shard gets which example in which step, and the
//! random streams.
//!
//! - [`files`]: the files of a data set on this host, each verified
//! - [`fetch`]: fetches the missing files from the first source that has them; [`mod@store`] verifies
//!   and stores one file
//! - [`order`]: the order of each epoch and the positions of each shard
//! - [`batch`]: some examples of a data set
//! - [`column`]: examples as columns of plain numbers, for models by autograd
//! - [`philox`]: counter-based random numbers, the only source of randomness in the workspace
//!
//! This crate does not know what an example is, and knows nothing of models, processes or networks
//! of workers. Start at `files.rs`.

pub mod batch;
mod client;
pub mod column;
mod debian;
mod download;
mod error;
pub mod fetch;
pub mod files;
mod npm;
pub mod order;
pub mod philox;
mod source;
pub mod store;

pub use batch::{Batch, Dataset, Pass, Splits};
pub use column::{Collate, Column, Columns, Text, UnequalColumns, Values};
pub use download::Tell;
pub use error::{Attempt, DataError};
pub use files::Files;
pub use order::{Position, Schedule};
pub use philox::{Domain, Stream};
pub use store::{cache_dir, default_dir, hex, local, store, verify};
