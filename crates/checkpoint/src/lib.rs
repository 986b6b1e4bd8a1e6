//! Checkpoints: named f32 tensors and some metadata in one verified safetensors file, and the folder of these files.
//!
//! [`Directory`] writes, lists, finds and deletes the files of a run, and receives files from other places
//! ([`Incoming`]); [`read`] and [`verify`] take any single file.
//! A file either reads back exactly as it was written, or is refused with the reason. One SHA-256 covers the tensor
//! bytes, and a second one covers the header with the first digest in it, so every damaged byte is found.
//!
//! This crate knows nothing of models, optimizers or runs: the caller chooses names and shapes, and `configuration`
//! is an opaque string. The crate does not retry and does not log; it returns the files that it skipped, and
//! [`set_aside`] moves them away. Start at `directory.rs`; the layout of a file is in `header.rs`.

mod aside;
mod directory;
mod error;
mod file;
mod header;
mod incoming;
mod runs;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use aside::set_aside;
pub use directory::{BEST, Directory, Newest, file_name, step_of};
pub use error::CheckpointError;
pub use file::{Verified, read, verify};
pub use incoming::Incoming;
pub use runs::{CHECKPOINTS, has_checkpoint, newest_run};

/// The version of the file layout that this crate writes, and the only version that it reads.
pub const FORMAT_VERSION: &str = "1";

/// The metadata of a checkpoint: the run that it belongs to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// The id of the run that wrote it.
    pub run_id: String,
    /// Completed steps: the state is that after this many updates.
    pub step: u64,
    /// The run's seed.
    pub seed: u64,
    /// The run's configuration as JSON; this crate does not read it.
    pub configuration: String,
    /// The counts of each epoch that has begun, the first epoch first.
    pub ledger: Vec<EpochLedger>,
    /// How the steps were computed: a fingerprint for each kind of device and arithmetic that took part. Empty if they
    /// were not noted.
    pub arithmetic: Vec<String>,
}

/// The ledger of one epoch: how many images were counted, and which.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochLedger {
    /// Images counted so far in the epoch.
    pub images: u64,
    /// The sum of their indices in the training set.
    pub index_sum: u64,
    /// The sums of the images' loss terms; the model defines the terms.
    pub loss_terms: Vec<f64>,
    /// The loss terms after the epoch, as means over the test images; empty if the writer does not know them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub test_losses: Vec<f64>,
    /// The mean loss of the held-out training images after the epoch, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
}

/// A tensor to write, borrowed from its owner.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// The name, unique in its checkpoint.
    pub name: &'a str,
    /// The shape of the row-major data; the product of the sizes is the length of `data`.
    pub shape: &'a [usize],
    /// The values.
    pub data: &'a [f32],
}

/// A tensor read back.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// The shape of the row-major data; the product of the sizes is the length of `data`.
    pub shape: Vec<usize>,
    /// The values, bit for bit as they were written.
    pub data: Vec<f32>,
}

/// A checkpoint read back and verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Its metadata.
    pub metadata: Metadata,
    /// The tensors by name.
    pub tensors: BTreeMap<String, Tensor>,
    /// SHA-256 of the tensor bytes, in lowercase hex. Equal tensors of different runs have equal digests.
    pub sha256: String,
}
