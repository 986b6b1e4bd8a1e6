//! Temporary files in the folder of the file that they become. Their names mark them as this project's, and their
//! writer holds a lock. So the files of a dead writer differ from those of a live one, and from other programs' files.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::convenience::is_refusal;

/// A leading dot hides temporary files from patterns like `step-*`.
const PREFIX: &str = ".lockstep-";
const SUFFIX: &str = ".tmp";
/// The number of random characters between prefix and suffix. [`sweep`] deletes only files with such names.
const RANDOM: usize = 12;

/// How often a new temporary file is made again if another process sweeps it between its creation and its lock. Even
/// once is rare.
const ATTEMPTS: usize = 8;

/// The mode of a public file, before the user's mask.
const PUBLIC: u32 = 0o666;
/// The mode of a private file.
const PRIVATE: u32 = 0o600;

/// Makes a temporary file in a folder, locked by this process, with the mode of ordinary files.
///
/// # Errors
/// The error of the system.
pub fn temporary(folder: &Path) -> io::Result<NamedTempFile> {
    with_mode(folder, PUBLIC)
}

/// As [`temporary`], but only the owner may read the file.
///
/// # Errors
/// The error of the system.
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
            // On a file system without locks, no sweeper can lock the file either, so none deletes it.
            Ok(()) | Err(TryLockError::Error(_)) if file.path().exists() => return Ok(file),
            Ok(()) => outcome = io::ErrorKind::NotFound.into(),
            Err(error) => outcome = error.into(),
        }
    }
    Err(outcome)
}

/// Gives a temporary file its name, if no file has that name.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`], or the error of the system; the temporary file is deleted then.
pub fn put_new(file: NamedTempFile, path: &Path) -> io::Result<()> {
    match file.persist_noclobber(path) {
        Ok(_) => Ok(()),
        // The file system has neither exclusive renames nor hard links, so the name is checked first.
        Err(refused) if is_refusal(&refused.error) => {
            if fs::symlink_metadata(path).is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            refused.file.persist(path).map(drop).map_err(|persist| persist.error)
        }
        Err(refused) => Err(refused.error),
    }
}

/// Deletes the temporary files of dead writers, which are the files that can be locked. Errors are ignored, because
/// cleaning up is no reason to fail.
pub fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(is_temporary);
        // The kind is checked before the file is opened, because opening a pipe would wait for a writer.
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
