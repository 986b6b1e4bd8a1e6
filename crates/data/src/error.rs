//! Everything that can be wrong with the data set, each with what a person needs to act on it.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why the data set could not be fetched, stored or loaded.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file is not there.
    #[error("{} is missing; fetch it while online, or put the raw (unzipped) file there by hand", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file is there but is not the data set's. It may be of another data set, so it is never replaced.
    #[error(
        "{} is {damage}; it may be of another data set and stays as it is: name another folder with --data-dir, or move \
         the file away to have the data set's fetched",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        damage: Damage,
    },
    /// What a source sent is not the data set's file. Nothing was stored.
    #[error("what was received as {name} is {damage}")]
    Received {
        /// The name of the file.
        name: String,
        /// What is wrong with it.
        damage: Damage,
    },
    /// A source broke off. Nothing was stored.
    #[error("receiving {name} failed after {bytes} bytes: {source}")]
    Interrupted {
        /// The name of the file.
        name: String,
        /// Bytes (unzipped) that had been received.
        bytes: u64,
        /// What the reader said.
        source: io::Error,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A name that no file of the data set has.
    #[error("the data set has no file {name:?}, only {}", files.join(", "))]
    NoSuchFile {
        /// The name that was asked for.
        name: String,
        /// The names that there are.
        files: Vec<String>,
    },
    /// No source had what was wanted.
    #[error(
        "could not fetch {} into {}: {}; put the raw (unzipped) files there by hand, or name a folder \
         that has them in LOCKSTEP_DATA_DIR",
        names.join(", "), directory.display(), Attempts(attempts)
    )]
    Unavailable {
        /// The files that are still wanted.
        names: Vec<String>,
        /// Where they belong.
        directory: PathBuf,
        /// Every source tried, in order.
        attempts: Vec<Attempt>,
    },
}

/// How bytes differ from the data set's file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Fewer bytes.
    #[error("truncated ({expected} bytes expected, {found} found)")]
    Truncated {
        /// The size of the data set's file in bytes.
        expected: u64,
        /// The size found.
        found: u64,
    },
    /// More bytes.
    #[error("too long ({expected} bytes expected, at least {found} found)")]
    TooLong {
        /// The size of the data set's file in bytes.
        expected: u64,
        /// The size found, or as far as it was looked at.
        found: u64,
    },
    /// As many bytes, but others.
    #[error("not the data set's file (sha256 {expected} expected, {found} found)")]
    Digest {
        /// The SHA-256 of the data set's file in hex.
        expected: String,
        /// The SHA-256 found.
        found: String,
    },
    /// A folder, a pipe or a device.
    #[error("not a regular file")]
    NotAFile,
    /// A link whose target is missing.
    #[error("a link to nothing")]
    Dangling,
}

/// A source which was tried in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// An address, or a command.
    pub source: String,
    /// Why it did not help.
    pub reason: String,
}

struct Attempts<'a>(&'a [Attempt]);

impl fmt::Display for Attempts<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, attempt) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(formatter, "{separator}{}: {}", attempt.source, attempt.reason)?;
        }
        Ok(())
    }
}

impl DataError {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> DataError {
        let path = path.into();
        move |source| DataError::Io { action, path, source }
    }
}
