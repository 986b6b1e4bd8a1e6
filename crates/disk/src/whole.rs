//! Writes a file that appears whole or not at all: as a temporary file, which is then renamed. A device or a pipe is
//! written directly, because a rename would replace it by a file.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use crate::destination::{self, Destination, folder_of};
use crate::{DiskError, sweep, sync_file};

/// A mark is searched for in this many bytes at the beginning of a file.
const MARKED_BYTES: u64 = 1 << 20;

/// The first bytes are searched first, because most marks are there.
const FIRST_BYTES: u64 = 4 << 10;

/// A file that is written, but does not have its name yet.
#[derive(Debug)]
pub struct Draft<'a> {
    path: PathBuf,
    destination: Destination,
    bytes: &'a [u8],
}

impl<'a> Draft<'a> {
    /// Writes `bytes` into a temporary file, unless `path` must be written in place.
    ///
    /// # Errors
    /// The error of the system; no file is left behind then.
    pub fn new(path: &Path, bytes: &'a [u8]) -> Result<Draft<'a>, DiskError> {
        let written = || {
            let mut destination = Destination::of(path)?;
            if let Destination::Beside(file, target) = &mut destination {
                // Deletes the temporary files that killed writers have left.
                sweep(folder_of(target));
                file.as_file_mut().write_all(bytes)?;
            }
            Ok(destination)
        };
        let destination = written().map_err(DiskError::write(path))?;
        Ok(Draft { path: path.into(), destination, bytes })
    }

    /// Waits until the temporary file is on the disk.
    ///
    /// # Errors
    /// The error of the system.
    pub fn sync(&self) -> Result<(), DiskError> {
        match &self.destination {
            Destination::Beside(file, _) => {
                sync_file(file.as_file(), &self.path).map_err(DiskError::write(&self.path))
            }
            Destination::Direct(_) | Destination::Stream => Ok(()),
        }
    }

    /// Gives the temporary file its name, or writes the bytes in place.
    ///
    /// # Errors
    /// The error of the system.
    pub fn put(self) -> Result<(), DiskError> {
        let Draft { path, destination, bytes } = self;
        let put = match destination {
            Destination::Beside(file, target) => match file.persist(&target) {
                Ok(_) => Ok(()),
                // A file that is a mount point, for example in a container, cannot be replaced.
                Err(persist) if persist.error.kind() == io::ErrorKind::ResourceBusy => {
                    File::options()
                        .write(true)
                        .open(&target)
                        .and_then(|file| fill(file, &target, bytes))
                }
                Err(persist) => Err(persist.error),
            },
            Destination::Direct(file) => fill(file, &path, bytes),
            Destination::Stream => destination::open_stream(&path).and_then(|mut stream| {
                // The earlier output of this process comes first.
                io::stdout().flush()?;
                stream.write_all(bytes)
            }),
        };
        put.map_err(DiskError::write(&path))
    }
}

/// Writes a regular file in place. The space is reserved first, so that a full disk is noticed while the old content is
/// still there.
fn fill(mut file: File, path: &Path, bytes: &[u8]) -> io::Result<()> {
    match rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, bytes.len().max(1) as u64) {
        Err(error) if io::Error::from(error).kind() == io::ErrorKind::StorageFull => {
            return Err(error.into());
        }
        _ => {}
    }
    file.rewind()?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)?;
    sync_file(&file, path)
}

/// Writes a file so that the path holds either the whole new content or the old one. Links are followed. A replaced
/// file keeps its owner and mode. A device or a pipe is written directly.
///
/// # Errors
/// A full disk, or another error of the system; no temporary file is left behind then.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    let draft = Draft::new(path, bytes)?;
    draft.sync()?;
    draft.put()
}

/// As [`write_whole`], for a name that the program has chosen. All files that the program writes there contain `mark`.
/// An existing file without `mark` belongs to another program, and is not overwritten.
///
/// # Errors
/// [`DiskError::Foreign`], or as [`write_whole`].
pub fn write_own(path: &Path, bytes: &[u8], mark: &[u8]) -> Result<(), DiskError> {
    refuse_foreign(path, mark)?;
    write_whole(path, bytes)
}

/// Refuses a path with another program's file: a file that is not empty and does not contain `mark`.
///
/// # Errors
/// [`DiskError::Foreign`].
pub fn refuse_foreign(path: &Path, mark: &[u8]) -> Result<(), DiskError> {
    match fs::metadata(path) {
        Ok(there) if there.is_file() && there.len() > 0 && !holds(path, mark) => {
            Err(DiskError::Foreign { path: path.into() })
        }
        _ => Ok(()),
    }
}

/// Whether a regular file contains `mark` near its beginning. An empty mark is never found.
pub fn holds(path: &Path, mark: &[u8]) -> bool {
    if mark.is_empty() || !fs::metadata(path).is_ok_and(|there| there.is_file()) {
        return false;
    }
    let looked_for = || {
        let mut file = File::open(path)?;
        let mut bytes = Vec::new();
        for limit in [FIRST_BYTES, MARKED_BYTES - FIRST_BYTES] {
            io::Read::by_ref(&mut file).take(limit).read_to_end(&mut bytes)?;
            if bytes.windows(mark.len()).any(|window| window == mark) {
                return Ok(true);
            }
        }
        Ok::<_, io::Error>(false)
    };
    looked_for().unwrap_or(false)
}

#[cfg(test)]
mod tests;
