//! Moves a file that has the name of a checkpoint and does not verify out of the way of a run that goes on: otherwise
//! the run would meet the file when it reaches that step again. Programs that only read move nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::{CheckpointError, step_of, verify};

/// What is appended to the name of a file that was moved.
const DAMAGED: &str = ".damaged";

/// How many names are tried; so many damaged files of one step are no accident.
const NAMES_MAX: u32 = 1000;

/// Renames a file that was skipped because of `why` to `NAME.damaged`, or `NAME.damaged-2` and so on if that name is
/// taken. A file that could not be read because of the system stays. Returns a sentence for the log.
pub fn set_aside(path: &Path, why: &CheckpointError) -> String {
    if !why.is_damage() {
        return format!("skipped a checkpoint that cannot be read: {why}");
    }
    let what = why.skipped();
    match rename(path) {
        Ok(Some(aside)) => format!("{what}; it is kept as {}", aside.display()),
        Ok(None) => format!("{what}; it is no longer there"),
        Err(error) => {
            format!(
                "{what}; it cannot be renamed to {}{DAMAGED}: {error}; move it away, or the run ends at that step",
                path.display()
            )
        }
    }
}

/// The new path; none if the file is gone, or was replaced with a sound one.
fn rename(path: &Path) -> io::Result<Option<PathBuf>> {
    let step = path.file_name().and_then(|name| step_of(name.to_str()?));
    if verify(path).is_ok_and(|verified| Some(verified.metadata.step) == step) {
        return Ok(None);
    }
    let aside = free_name(path)?;
    match fs::rename(path, &aside) {
        Ok(()) => Ok(Some(aside)),
        // Another process on this host has moved it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn free_name(path: &Path) -> io::Result<PathBuf> {
    let name = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(DAMAGED);
        if number > 1 {
            name.push(format!("-{number}"));
        }
        PathBuf::from(name)
    };
    let is_free = |path: &PathBuf| fs::symlink_metadata(path).is_err();
    let taken = || io::Error::new(io::ErrorKind::AlreadyExists, "all such names are taken");
    (1..=NAMES_MAX).map(name).find(is_free).ok_or_else(taken)
}
