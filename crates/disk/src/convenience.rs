//! What a file system may refuse: durable names, modes, locks and links. Network and user-space file systems lack some
//! of these, and a run can do without. [`excuse`] is the rule: a refusal is a warning, a failure stays an error.

use std::collections::HashSet;
use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

/// Warnings that are remembered so that each is given once.
const WARNINGS_MAX: usize = 256;

/// What file systems answer that cannot do what they were asked.
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

/// Whether an error says that the file system cannot do such a thing, and not that it tried and failed.
pub fn is_refusal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported
        || Errno::from_io_error(error).is_some_and(|errno| REFUSALS.contains(&errno))
}

/// Turns a refusal into a warning, which says what was attempted on which file and what follows.
///
/// # Errors
/// A failure that is no refusal.
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

/// Warns of what could not be done, once for each file and action.
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
/// The disk failed. A file system that cannot do it is excused: names are then as durable as it makes them.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    excuse("sync the folder", folder, "a power cut may lose the newest files in it", synced)
}

/// Has the content of a file written to the disk; `path` is its name.
///
/// # Errors
/// As [`sync_folder`].
pub fn sync_file(file: &File, path: &Path) -> io::Result<()> {
    excuse("sync", path, "a power cut may lose it", file.sync_all())
}

/// As [`sync_file`], without what only its metadata holds.
///
/// # Errors
/// As [`sync_folder`].
pub fn sync_data(file: &File, path: &Path) -> io::Result<()> {
    excuse("sync", path, "a power cut may lose the newest lines of it", file.sync_data())
}

/// Creates a folder, parents included, where there is none, and makes its name durable.
///
/// # Errors
/// What the system said.
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

/// Keeps the content of a regular file from other users; a device is left as it is.
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

/// Locks a file against other processes until it is closed. Returns whether no other process holds the lock; a file
/// system without locks is excused.
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
