//! Refuses to write over the files of a run.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};

use super::{found::Run, shown};
use crate::run_dir::RunDir;

/// Refuses a file that belongs to any run, or that is read by another name.
pub(super) fn refuse(file: &Path, read: &[Run]) -> Result<()> {
    let place = resolved(file);
    let of_run = |folder: &&Path| {
        let inside = place.strip_prefix(folder).unwrap_or(&place);
        RunDir::holds_run(folder) && RunDir::is_file_of_run(inside)
    };
    let owner = place.ancestors().skip(1).find(of_run).map(shown);
    ensure!(
        owner.is_none(),
        "cannot write {}: it belongs to the run in {}, and its content would be lost; name another \
         file",
        file.display(),
        owner.unwrap_or_default()
    );
    let entries = read.iter().flat_map(|run| fs::read_dir(&run.path)).flatten().flatten();
    let inputs: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    let inputs = inputs.iter().filter(|path| path.file_name().is_some_and(is_of_run));
    Ok(disk::refuse_input(file, inputs.map(PathBuf::as_path))?)
}

fn is_of_run(name: &std::ffi::OsStr) -> bool {
    RunDir::is_file_of_run(Path::new(name))
}

/// The path without links, also of a file that does not exist yet.
fn resolved(file: &Path) -> PathBuf {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let inside = || {
        let folder = fs::canonicalize(folder.unwrap_or(Path::new("."))).ok()?;
        Some(folder.join(file.file_name()?))
    };
    fs::canonicalize(file).ok().or_else(inside).unwrap_or_else(|| file.to_owned())
}
