//! What can go wrong with a store, each in one line that names the URL and what to do.

use checkpoint::CheckpointError;
use thiserror::Error;

/// Why something could not be stored, found or fetched.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The URL names no folder in a store.
    #[error("{url:?} {reason}: write file:///FOLDER, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER")]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The store refused, or did not answer.
    #[error("cannot {action} {object}: {cause}")]
    Failed {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The URL of what it was attempted on.
        object: String,
        /// Why not, as far as the store told.
        cause: String,
    },
    /// A configuration is there already.
    #[error("{object} exists already")]
    Exists {
        /// Its URL.
        object: String,
    },
    /// There is no such object.
    #[error("there is no {object}")]
    Missing {
        /// Its URL.
        object: String,
    },
    /// A checkpoint is damaged, or the disk it was read from or written to is to blame.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}
