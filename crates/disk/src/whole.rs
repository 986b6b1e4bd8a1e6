//! One file that appears whole or not at all: written beside its place, then renamed. What is no regular file is written
//! as it is, for a rename would put a file in the place of a device.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use crate::place::{self, Place, folder_of};
use crate::{DiskError, sweep, sync_file};

/// Bytes at the beginning of a file that a mark is looked for in.
const MARKED_BYTES: u64 = 1 << 20;

/// Most marks are in the first bytes, which are looked at alone to begin with.
const FIRST_BYTES: u64 = 4 << 10;

/// A file that is written, but not yet in its place.
#[derive(Debug)]
pub struct Draft<'a> {
    path: PathBuf,
    place: Place,
    bytes: &'a [u8],
}

impl<'a> Draft<'a> {
    /// Writes `bytes` beside `path`, where that is how it is written.
    ///
    /// # Errors
    /// What the system said; nothing is left then.
    pub fn new(path: &Path, bytes: &'a [u8]) -> Result<Draft<'a>, DiskError> {
        let written = || {
            let mut place = Place::of(path)?;
            if let Place::Beside(file, target) = &mut place {
                // What a writer that was killed has left goes with the next one.
                sweep(folder_of(target));
                file.as_file_mut().write_all(bytes)?;
            }
            Ok(place)
        };
        let place = written().map_err(DiskError::write(path))?;
        Ok(Draft { path: path.into(), place, bytes })
    }

    /// Has it written to the disk.
    ///
    /// # Errors
    /// What the system said.
    pub fn sync(&self) -> Result<(), DiskError> {
        match &self.place {
            Place::Beside(file, _) => {
                sync_file(file.as_file(), &self.path).map_err(DiskError::write(&self.path))
            }
            Place::Direct(_) | Place::Stream => Ok(()),
        }
    }

    /// Puts it in its place.
    ///
    /// # Errors
    /// What the system said.
    pub fn put(self) -> Result<(), DiskError> {
        let Draft { path, place, bytes } = self;
        let put = match place {
            Place::Beside(file, target) => match file.persist(&target) {
                Ok(_) => Ok(()),
                // A file that is mounted by itself, as into a container, cannot be replaced.
                Err(persist) if persist.error.kind() == io::ErrorKind::ResourceBusy => {
                    File::options()
                        .write(true)
                        .open(&target)
                        .and_then(|file| fill(file, &target, bytes))
                }
                Err(persist) => Err(persist.error),
            },
            Place::Direct(file) => fill(file, &path, bytes),
            Place::Stream => place::open_stream(&path).and_then(|mut stream| {
                // What this process has said before comes before.
                io::stdout().flush()?;
                stream.write_all(bytes)
            }),
        };
        put.map_err(DiskError::write(&path))
    }
}

/// Writes a regular file in place. Room is asked for first, so that a full disk is found while the old content is there.
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

/// Writes a file so that there is either all of it or what was there before. Links are followed, a file that is replaced
/// keeps its owner and mode, and what is no regular file is written to.
///
/// # Errors
/// A full disk, or what the system said; nothing is left beside it then.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    let draft = Draft::new(path, bytes)?;
    draft.sync()?;
    draft.put()
}

/// As [`write_whole`], under a name that the caller has chosen and not a person: a file that does not hold `mark`, which
/// everything that the caller writes there holds, is somebody else's and stays.
///
/// # Errors
/// [`DiskError::Foreign`], or as [`write_whole`].
pub fn write_own(path: &Path, bytes: &[u8], mark: &[u8]) -> Result<(), DiskError> {
    refuse_foreign(path, mark)?;
    write_whole(path, bytes)
}

/// Refuses a path where somebody else's file is: one that is not empty and does not hold `mark`.
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

/// Whether a regular file holds `mark` near its beginning. No file holds an empty mark.
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
