//! Temporary files beside the file that they become. Their names say whose they are, and their writer holds a lock, so
//! that what a dead writer left can be told from what a live one needs and from what is none of ours.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::convenience::is_refusal;

/// A leading dot hides temporary files from patterns like `step-*`.
const PREFIX: &str = ".lockstep-";
const SUFFIX: &str = ".tmp";
/// Random characters between the two; no other name is ever swept.
const RANDOM: usize = 12;

/// How often a temporary file may be swept away between its creation and its lock; each time needs another process
/// to look in that very moment, so once is already rare.
const ATTEMPTS: usize = 8;

/// What everybody may do with a file, before the user's mask.
const PUBLIC: u32 = 0o666;
/// What only its owner may.
const PRIVATE: u32 = 0o600;

/// A temporary file in a folder, locked by this process, as readable as any other file.
///
/// # Errors
/// What the system said.
pub fn temporary(folder: &Path) -> io::Result<NamedTempFile> {
    with_mode(folder, PUBLIC)
}

/// As [`temporary`], for what only its owner may read.
///
/// # Errors
/// What the system said.
pub fn temporary_private(folder: &Path) -> io::Result<NamedTempFile> {
    with_mode(folder, PRIVATE)
}

fn with_mode(folder: &Path, mode: u32) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX).rand_bytes(RANDOM);
    let mut options = File::options();
    options.read(true).write(true).create_new(true).mode(mode);
    let mut outcome = io::Error::from(io::ErrorKind::TimedOut);
    for _ in 0..ATTEMPTS {
        let file = builder.make_in(folder, |path| options.open(path))?;
        match file.as_file().try_lock() {
            // A file system without locks: no sweeper can lock either, so none will delete the file.
            Ok(()) | Err(TryLockError::Error(_)) if file.path().exists() => return Ok(file),
            Ok(()) => outcome = io::ErrorKind::NotFound.into(),
            Err(error) => outcome = error.into(),
        }
    }
    Err(outcome)
}

/// Gives a temporary file its name where nothing has that name.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`], or what the system said; the temporary file is gone then.
pub fn put_new(file: NamedTempFile, path: &Path) -> io::Result<()> {
    match file.persist_noclobber(path) {
        Ok(_) => Ok(()),
        // Neither an exclusive rename nor a hard link: what remains is to look first.
        Err(refused) if is_refusal(&refused.error) => {
            if fs::symlink_metadata(path).is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            refused.file.persist(path).map(drop).map_err(|persist| persist.error)
        }
        Err(refused) => Err(refused.error),
    }
}

/// Deletes the temporary files of writers that are gone: theirs can be locked. What cannot be looked at stays, for
/// tidying is no reason to fail.
pub fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(is_temporary);
        // Looked at before it is opened: opening a pipe would wait for a writer.
        if !is_ours || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let Ok(file) = File::open(entry.path()) else { continue };
        if file.try_lock().is_ok() {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn is_temporary(name: &str) -> bool {
    let random = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
    random.is_some_and(|random| {
        random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_a_dead_writer_left_goes_and_what_others_have_stays() {
        let folder = tempfile::tempdir().unwrap();
        let live = temporary(folder.path()).unwrap();
        let dead = temporary(folder.path()).unwrap().keep().unwrap().1;
        let theirs = [".writing-mine.tmp", ".fetching-mine", ".lockstep-notes.tmp", "notes.tmp"];
        for name in theirs {
            fs::write(folder.path().join(name), "mine").unwrap();
        }
        let link = folder.path().join(".lockstep-aaaaaaaaaaaa.tmp");
        std::os::unix::fs::symlink("notes.tmp", &link).unwrap();
        sweep(folder.path());
        assert!(!dead.exists() && live.path().exists() && link.is_symlink());
        for name in theirs {
            assert!(folder.path().join(name).exists(), "{name}");
        }
        sweep(&folder.path().join("missing"));
    }

    #[test]
    fn a_name_that_is_taken_is_not_taken_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        put_new(temporary(folder.path()).unwrap(), &path).unwrap();
        fs::write(&path, "mine").unwrap();
        let error = put_new(temporary(folder.path()).unwrap(), &path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_private_file_is_private_from_the_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let file = temporary_private(folder.path()).unwrap();
        assert_eq!(file.as_file().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
