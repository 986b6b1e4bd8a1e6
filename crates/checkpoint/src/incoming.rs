//! A checkpoint received from another place: it gets its name in the folder after it has verified. This file does not
//! know the other place.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::directory::refuse_occupied;
use crate::file::verify_as;
use crate::{CheckpointError, Directory, file_name};

/// A checkpoint whose bytes are written as they arrive. Dropping it before [`Incoming::accept`] deletes the bytes.
#[derive(Debug)]
pub struct Incoming {
    folder: PathBuf,
    step: u64,
    file: NamedTempFile,
}

impl Directory {
    /// Creates a temporary file for the checkpoint of a step.
    ///
    /// # Errors
    /// The error of the system.
    pub fn receive(&self, step: u64) -> Result<Incoming, CheckpointError> {
        let file = disk::temporary(self.path());
        let file = file.map_err(CheckpointError::io("create a temporary file in", self.path()))?;
        Ok(Incoming { folder: self.path().into(), step, file })
    }
}

impl Write for Incoming {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.as_file_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_file_mut().flush()
    }
}

impl Incoming {
    /// Verifies the checkpoint and gives it its name. It replaces another file of the same run.
    ///
    /// # Errors
    /// The damage found, or the error of the system. Errors name `origin` instead of the temporary file.
    pub fn accept(self, origin: &Path) -> Result<PathBuf, CheckpointError> {
        let verified = verify_as(origin, self.file.path())?;
        if verified.metadata.step != self.step {
            let (path, step) = (origin.into(), verified.metadata.step);
            return Err(CheckpointError::Misnamed { path, step });
        }
        let path = self.folder.join(file_name(self.step));
        refuse_occupied(&path, &verified.metadata.run_id)?;
        let bytes = self.file.as_file().metadata().map_or(0, |metadata| metadata.len());
        let error = CheckpointError::write(&path, bytes);
        disk::sync_file(self.file.as_file(), &path).map_err(&error)?;
        self.file.persist(&path).map_err(|persist| error(persist.error))?;
        disk::sync_folder(&self.folder).map_err(CheckpointError::io("sync", &self.folder))?;
        Ok(path)
    }
}
