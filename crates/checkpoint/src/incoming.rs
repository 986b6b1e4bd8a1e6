//! A checkpoint that comes from elsewhere: it gets its name in the folder once it has verified. It does not know where
//! it comes from.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::directory::refuse_occupied;
use crate::file::verify_as;
use crate::{CheckpointError, Directory, file_name};

/// The bytes of a checkpoint, written as they come; gone if it is dropped before it is accepted.
#[derive(Debug)]
pub struct Incoming {
    folder: PathBuf,
    step: u64,
    file: NamedTempFile,
}

impl Directory {
    /// Makes room for the checkpoint of a step, without its name.
    ///
    /// # Errors
    /// What the system said.
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
    /// Gives the checkpoint its name if it verifies, also in the place of another file of its run.
    ///
    /// # Errors
    /// What is wrong with it, or what the system said; errors call it `origin`.
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
