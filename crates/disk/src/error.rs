//! The errors of writing a file.

use std::io;
use std::path::{Path, PathBuf};

/// Why a file was not written. The old content is unchanged, unless the file could only be written in place.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The operating system refused.
    #[error("cannot write {}: {error}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// Another program's file has the name.
    #[error(
        "{} is there already and was not written by this program, so it stays: move it away, or choose another folder",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The path is a default, and another program's file is there.
    #[error(
        "{} is there already, and nothing shows that {program} has written it: say --output {} to replace it, or name \
         another file",
        path.display(),
        path.display()
    )]
    Unnamed {
        /// The file.
        path: PathBuf,
        /// The program that would write it.
        program: &'static str,
    },
    /// The file is also read.
    #[error("cannot write {}: it is read from, and its content would be lost; name another file", path.display())]
    Input {
        /// The file.
        path: PathBuf,
    },
}

impl DiskError {
    pub(crate) fn write(path: &Path) -> impl Fn(io::Error) -> DiskError + use<> {
        let path = path.to_path_buf();
        move |error| DiskError::Write { path: path.clone(), error }
    }

    /// Whether the reader of a pipe has gone.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, DiskError::Write { error, .. } if error.kind() == io::ErrorKind::BrokenPipe)
    }
}
