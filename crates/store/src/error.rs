//! The errors of a store, each in one line that names the URL and the remedy.

use checkpoint::CheckpointError;
use thiserror::Error;

/// Why something could not be stored, found or fetched.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The URL names no folder in a store.
    #[error("{url:?} {reason}: write file:///FOLDER, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER")]
    Url {
        /// The URL as it was given.
        url: String,
        /// What is wrong with the URL.
        reason: String,
    },
    /// The store refused, or did not answer.
    #[error("cannot {action} {object}: {cause}")]
    Failed {
        /// The attempted action, as a verb.
        action: &'static str,
        /// The URL of the object.
        object: String,
        /// The cause, as far as it is known.
        cause: String,
    },
    /// The folder has a configuration already.
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
    /// A checkpoint is damaged, or cannot be read from or written to the local disk.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}
