//! Folders that appear complete or not at all: they are made in a scratch folder beside their
//! place, and then renamed. An interruption leaves no folder, or the previous one.
//!
//! Does not know the contents of the folders.

use crate::interrupt;
use anyhow::{Context, ensure};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{io, process, thread};

/// A file in every folder that is put in place here, and in every scratch folder. A folder without
/// this file was not made by xtask, and is never replaced or removed.
pub(crate) const MARK: &str = ".made-by-xtask";

/// How long to wait for another set-up in the same folder.
const LOCK_WAIT: Duration = Duration::from_mins(30);
const LOCK_POLL: Duration = Duration::from_millis(200);

/// The paths in a folder, in order.
pub(crate) fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let read =
        || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    let mut entries = read().with_context(|| format!("cannot list {}", folder.display()))?;
    entries.sort();
    Ok(entries)
}

/// Lets `make` fill a folder in a scratch folder, and moves this folder to `destination`. Does
/// nothing if `is_there` is true, at first or after waiting for another process.
pub(crate) fn put_in_place(
    destination: &Path,
    is_there: impl Fn() -> bool,
    make: impl FnOnce(&Scratch) -> anyhow::Result<PathBuf>,
) -> anyhow::Result<()> {
    if is_there() {
        return Ok(());
    }
    let parent = destination.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let lock = lock(parent)?;
    if is_there() {
        return Ok(()); // Another process made it meanwhile.
    }
    refuse_foreign(destination)?;
    if lock.is_some() {
        sweep(destination);
    }
    let scratch = Scratch::create(destination)?;
    let staged = make(&scratch)?;
    mark(&staged)?;
    refuse_foreign(destination)?;
    replace(destination, &staged, &scratch.path.join("previous"))
}

fn mark(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join(MARK);
    fs::write(&path, "").with_context(|| format!("cannot write {}", path.display()))
}

/// Refuses to replace a folder that was not made here, unless it is empty.
fn refuse_foreign(destination: &Path) -> anyhow::Result<()> {
    let Ok(there) = fs::symlink_metadata(destination) else { return Ok(()) };
    let is_ours =
        there.is_dir() && (destination.join(MARK).is_file() || entries(destination)?.is_empty());
    ensure!(
        is_ours,
        "{} is there already and was not made by cargo xtask, so it is not replaced: move it away, or \
         choose another folder",
        destination.display()
    );
    Ok(())
}

/// Moves `staged` to `destination`. An existing folder is first moved to `previous`, so that it is
/// never half overwritten.
fn replace(destination: &Path, staged: &Path, previous: &Path) -> anyhow::Result<()> {
    if fs::symlink_metadata(destination).is_ok() {
        fs::rename(destination, previous)
            .with_context(|| format!("cannot move the old {} aside", destination.display()))?;
    }
    fs::rename(staged, destination)
        .with_context(|| format!("cannot move the new folder to {}", destination.display()))
}

/// The temporary folder of a fetch. It is beside the destination, so that a rename is possible, and
/// is removed when the value is dropped.
pub(crate) struct Scratch {
    pub(crate) path: PathBuf,
}

impl Scratch {
    fn create(destination: &Path) -> anyhow::Result<Scratch> {
        let path = beside(destination, &process::id().to_string());
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let scratch = Scratch { path };
        mark(&scratch.path)?;
        Ok(scratch)
    }

    pub(crate) fn folder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let folder = self.path.join(name);
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(folder)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // If this fails, the next fetch removes the folder (`sweep`).
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The path of `destination` with `-suffix` after its name.
fn beside(destination: &Path, suffix: &str) -> PathBuf {
    let mut name = destination.file_name().unwrap_or_default().to_owned();
    name.push(format!("-{suffix}"));
    destination.with_file_name(name)
}

/// Removes the scratch folders of fetches that were killed. The caller must hold the lock, so that
/// none of the folders is in use.
fn sweep(destination: &Path) {
    let (Some(parent), Some(name)) = (destination.parent(), destination.file_name()) else {
        return;
    };
    let prefix = format!("{}-", name.display());
    for entry in entries(parent).unwrap_or_default() {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_scratch = name.strip_prefix(&prefix).is_some_and(|rest| rest.parse::<u32>().is_ok());
        if is_scratch && entry.join(MARK).is_file() {
            let _ = fs::remove_dir_all(entry);
        }
    }
}

/// Locks `folder` against other set-ups until the returned file is dropped; none if the file system
/// has no locks.
fn lock(folder: &Path) -> anyhow::Result<Option<File>> {
    let file = File::open(folder).with_context(|| format!("cannot open {}", folder.display()))?;
    let deadline = Instant::now() + LOCK_WAIT;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::Error(_)) => return Ok(None),
            Err(TryLockError::WouldBlock) => {}
        }
        if !told {
            stdout::say!("waiting for another set-up in {}", folder.display());
            told = true;
        }
        ensure!(!interrupt::seen(), "interrupted");
        ensure!(Instant::now() < deadline, "another set-up in {} does not end", folder.display());
        thread::sleep(LOCK_POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_takes_scratch_folders_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["libtorch", "libtorch-123", "libtorch-2024", "libtorch-mine", "other-123"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        for name in ["libtorch-123", "libtorch-mine", "other-123"] {
            mark(&folder.path().join(name)).unwrap();
        }
        sweep(&folder.path().join("libtorch"));
        let left = ["libtorch", "libtorch-2024", "libtorch-mine", "other-123"];
        let left = left.map(|name| folder.path().join(name));
        assert_eq!(entries(folder.path()).unwrap(), left);
    }

    #[test]
    fn only_what_was_made_here_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let destination = folder.path().join("dist");
        let put = |text: &str| {
            put_in_place(
                &destination,
                || false,
                |scratch| {
                    let staged = scratch.folder("dist")?;
                    fs::write(staged.join("file"), text)?;
                    Ok(staged)
                },
            )
        };
        fs::create_dir(&destination).unwrap();
        put("first").unwrap();
        put("second").unwrap();
        assert_eq!(fs::read(destination.join("file")).unwrap(), b"second");

        fs::remove_file(destination.join(MARK)).unwrap();
        fs::write(destination.join("file"), "mine").unwrap();
        let message = put("third").unwrap_err().to_string();
        assert!(message.contains("dist is there already"), "{message}");
        assert_eq!(fs::read(destination.join("file")).unwrap(), b"mine");
        fs::rename(&destination, folder.path().join("moved")).unwrap();
        std::os::unix::fs::symlink("moved", &destination).unwrap();
        put("fourth").unwrap_err();
        assert_eq!(fs::read_link(&destination).unwrap(), Path::new("moved"));
        assert_eq!(entries(folder.path()).unwrap().len(), 2, "nothing is left");
    }

    #[test]
    fn one_set_up_at_a_time_works_in_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path()).unwrap();
        let other = File::open(folder.path()).unwrap();
        assert!(held.is_none() || other.try_lock().is_err());
        drop(held);
        assert!(other.try_lock().is_ok());
    }
}
