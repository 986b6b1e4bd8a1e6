//! Operations that a file system may refuse: durable names, modes, locks and links. Some network and user-space file
//! systems lack some of these, and a run works without them. [`excuse`] is the rule: a refusal becomes a warning, a
//! failure stays an error.

use std::collections::HashSet;
use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

/// The most warnings that are given; each is given once.
const WARNINGS_MAX: usize = 256;

/// The errors of file systems that do not support an operation.
const REFUSALS: [Errno; 11] = [
    Errno::INVAL,
    Errno::OPNOTSUPP,
    Errno::NOTSUP,
    Errno::NOSYS,
    Errno::NOTTY,
    Errno::PERM,
    Errno::ACCESS,
    Errno::BADF,
    Errno::NOLCK,
    Errno::ISDIR,
    Errno::MLINK,
];

/// Whether an error means that the file system does not support the operation, and not that the operation failed.
pub fn is_refusal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported
        || Errno::from_io_error(error).is_some_and(|errno| REFUSALS.contains(&errno))
}

/// Turns a refusal into a warning, which names the action, the file and the consequence.
///
/// # Errors
/// An error that is no refusal.
pub fn excuse(
    action: &'static str,
    path: &Path,
    consequence: &str,
    result: io::Result<()>,
) -> io::Result<()> {
    match result {
        Err(error) if is_refusal(&error) => {
            warn(action, path, consequence, &error);
            Ok(())
        }
        result => result,
    }
}

/// Warns that an action was not possible, once for each file and action.
pub fn warn(action: &'static str, path: &Path, consequence: &str, error: &io::Error) {
    static GIVEN: Mutex<Option<HashSet<(&str, PathBuf)>>> = Mutex::new(None);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let given = given.get_or_insert_default();
    if given.len() < WARNINGS_MAX && given.insert((action, path.into())) {
        tracing::warn!("cannot {action} {}: {error}; {consequence}", path.display());
    }
}

/// Makes the names in a folder durable.
///
/// # Errors
/// When the disk failed. If the file system does not support it, there is only a warning, and the names may not be
/// durable.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    excuse("sync the folder", folder, "a power cut may lose the newest files in it", synced)
}

/// Waits until the content of a file is on the disk; `path` is its name.
///
/// # Errors
/// As [`sync_folder`].
pub fn sync_file(file: &File, path: &Path) -> io::Result<()> {
    excuse("sync", path, "a power cut may lose it", file.sync_all())
}

/// As [`sync_file`], but without the metadata that reading does not need.
///
/// # Errors
/// As [`sync_folder`].
pub fn sync_data(file: &File, path: &Path) -> io::Result<()> {
    excuse("sync", path, "a power cut may lose the newest lines of it", file.sync_data())
}

/// Creates a folder and its parents if it does not exist, and makes its name durable.
///
/// # Errors
/// The error of the system.
pub fn create_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_folder(parent),
        _ => Ok(()),
    }
}

/// Makes a regular file readable only by its owner; a device is not changed.
///
/// # Errors
/// As [`sync_folder`].
pub fn keep_private(file: &File, path: &Path) -> io::Result<()> {
    const PRIVATE: u32 = 0o600;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    let restricted = file.set_permissions(Permissions::from_mode(PRIVATE));
    excuse("restrict access to", path, "other users may be able to read it", restricted)
}

/// Locks a file against other processes until it is closed. Returns false if another process holds the lock. On a file
/// system without locks there is only a warning.
///
/// # Errors
/// As [`sync_folder`].
pub fn lock(file: &File, path: &Path) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => {
            let consequence = "make sure that no other process works in its folder";
            excuse("lock", path, consequence, Err(error)).map(|()| true)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_excused_and_a_failure_is_not() {
        let answer = |errno: Errno| excuse("sync", Path::new("x"), "so what", Err(errno.into()));
        for errno in [Errno::INVAL, Errno::NOTSUP, Errno::NOSYS, Errno::PERM, Errno::NOLCK] {
            assert!(answer(errno).is_ok(), "{errno}");
        }
        for errno in [Errno::IO, Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::NOENT] {
            assert!(answer(errno).is_err(), "{errno}");
        }
    }

    #[test]
    fn what_cannot_be_synced_is_excused() {
        let null = File::options().write(true).open("/dev/null").unwrap();
        assert!(null.sync_all().is_err(), "the kernel refuses to sync a device");
        sync_file(&null, Path::new("/dev/null")).unwrap();
        sync_data(&null, Path::new("/dev/null")).unwrap();
        sync_folder(Path::new("/")).unwrap();
        assert!(sync_folder(Path::new("/missing/folder")).is_err());
    }

    #[test]
    fn a_lock_that_is_held_is_told_from_one_that_is_free() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let held = file.reopen().unwrap();
        assert!(lock(&held, file.path()).unwrap());
        assert!(!lock(&file.reopen().unwrap(), file.path()).unwrap());
        drop(held);
        assert!(lock(&file.reopen().unwrap(), file.path()).unwrap());
    }

    #[test]
    fn only_a_regular_file_is_made_private() {
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "key").unwrap();
        keep_private(&File::open(&path).unwrap(), &path).unwrap();
        assert_eq!(mode(&path), 0o600);
        let null = Path::new("/dev/null");
        let before = mode(null);
        keep_private(&File::options().write(true).open(null).unwrap(), null).unwrap();
        assert_eq!(mode(null), before);
    }
}
