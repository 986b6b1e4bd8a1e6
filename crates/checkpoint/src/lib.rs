//! Checkpoints: named f32 tensors and a little metadata in one verified safetensors file, and the folder of them.
//!
//! [`Directory`] writes, lists, finds and retires the files of a run, and takes in one from elsewhere ([`Incoming`]);
//! [`read`] and [`verify`] take any one file.
//! A file either reads back exactly as it was written or is refused with the reason: one SHA-256 covers the tensor
//! bytes, a second one the header with the first in it, so no damaged byte can pass.
//!
//! This crate knows nothing of models, optimizers or runs: names and shapes are the caller's, `configuration` is an
//! opaque string. It does not retry and does not log; what was skipped is handed back. Start at `directory.rs`; the
//! layout of a file is in `header.rs`.

mod directory;
mod error;
mod file;
mod header;
mod incoming;
mod runs;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use directory::{BEST, Directory, Newest, file_name, step_of};
pub use error::CheckpointError;
pub use file::{Verified, read, verify};
pub use incoming::Incoming;
pub use runs::{CHECKPOINTS, has_checkpoint, newest_run};

/// The version of the file layout which this crate writes, and the only one it reads.
pub const FORMAT_VERSION: &str = "1";

/// What a checkpoint says about the run it belongs to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// The run which wrote it.
    pub run_id: String,
    /// Completed steps: the state is the one after this many updates.
    pub step: u64,
    /// The run's seed.
    pub seed: u64,
    /// The run's configuration as JSON; opaque here.
    pub configuration: String,
    /// What was counted in each epoch begun, first epoch first.
    pub ledger: Vec<EpochLedger>,
    /// How the steps were computed: a fingerprint for each kind of device and arithmetic that took part. Empty where
    /// they were not noted.
    pub arithmetic: Vec<String>,
}

/// The account of one epoch: how many images were seen, and which.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochLedger {
    /// Images counted so far in the epoch.
    pub images: u64,
    /// The sum of their indices in the training set.
    pub index_sum: u64,
    /// The images' loss terms, summed; the model defines them.
    pub loss_terms: Vec<f64>,
    /// The loss terms after the epoch, as means over the test images; empty where the writer does not know them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub test_losses: Vec<f64>,
    /// The mean loss after the epoch over the training images that are held out, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
}

/// A tensor to write, borrowed from its owner.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// Unique in its checkpoint.
    pub name: &'a str,
    /// Row-major; the product is the length of `data`.
    pub shape: &'a [usize],
    /// The values.
    pub data: &'a [f32],
}

/// A tensor read back.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Row-major; the product is the length of `data`.
    pub shape: Vec<usize>,
    /// The values, bit for bit as written.
    pub data: Vec<f32>,
}

/// A checkpoint read back and verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// What it says about its run.
    pub metadata: Metadata,
    /// The tensors by name.
    pub tensors: BTreeMap<String, Tensor>,
    /// SHA-256 of the tensor bytes, in lowercase hex: equal for equal tensors, whichever run wrote them.
    pub sha256: String,
}
