//! Everything that can go wrong with a data set. Each error has the fields that a person needs to act on it.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why the data set could not be fetched, stored or loaded.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file is missing.
    #[error("{} is missing; fetch it while online, or put the raw (unzipped) file there by hand", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file exists, but its content is not the data set's. It may belong to another data set; it is never replaced.
    #[error(
        "{} is {damage}; it may be of another data set and stays as it is: name another folder with --data-dir, or move \
         the file away, and the data set's own file is fetched",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        damage: Damage,
    },
    /// A source sent something else than the data set's file. Nothing was stored.
    #[error("the file received as {name} is {damage}")]
    Received {
        /// The name of the file.
        name: String,
        /// What is wrong with it.
        damage: Damage,
    },
    /// The transfer from a source ended early. Nothing was stored.
    #[error("receiving {name} failed after {bytes} bytes: {source}")]
    Interrupted {
        /// The name of the file.
        name: String,
        /// Bytes that had been received, after unzipping.
        bytes: u64,
        /// The error of the reader.
        source: io::Error,
    },
    /// The operating system reported an error.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The data set has no file of this name.
    #[error("the data set has no file {name:?}, only {}", files.join(", "))]
    NoSuchFile {
        /// The name that was asked for.
        name: String,
        /// The names of the data set's files.
        files: Vec<String>,
    },
    /// No source had the missing files.
    #[error(
        "could not fetch {} into {}: {}; put the raw (unzipped) files there by hand, or name a folder \
         that has them in LOCKSTEP_DATA_DIR",
        names.join(", "), directory.display(), Attempts(attempts)
    )]
    Unavailable {
        /// The files that are still missing.
        names: Vec<String>,
        /// The folder they belong in.
        directory: PathBuf,
        /// Every source tried, in order.
        attempts: Vec<Attempt>,
    },
}

/// How bytes differ from the data set's file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The file is too short.
    #[error("truncated ({expected} bytes expected, {found} found)")]
    Truncated {
        /// The size of the data set's file in bytes.
        expected: u64,
        /// The size found.
        found: u64,
    },
    /// The file is too long.
    #[error("too long ({expected} bytes expected, at least {found} found)")]
    TooLong {
        /// The size of the data set's file in bytes.
        expected: u64,
        /// The size found, or the part of it that was read.
        found: u64,
    },
    /// The size is right, the content is not.
    #[error("not the data set's file (sha256 {expected} expected, {found} found)")]
    Digest {
        /// The SHA-256 of the data set's file in hex.
        expected: String,
        /// The SHA-256 found.
        found: String,
    },
    /// It is a folder, a pipe or a device.
    #[error("not a regular file")]
    NotAFile,
    /// It is a link whose target is missing.
    #[error("a link to nothing")]
    Dangling,
}

/// A source that was tried without success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// An address, or a command.
    pub source: String,
    /// Why it failed.
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
