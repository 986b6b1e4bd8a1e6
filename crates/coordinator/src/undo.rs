//! Removes the files of a start that failed, so that no empty run stays behind.
//!
//! Only files and folders that did not exist before are removed, and folders only if they are empty:
//! files of other programs stay.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::run_dir::RunDir;

/// The files and folders that did not exist before a run directory was made.
#[derive(Clone, Debug)]
pub(crate) struct Undo {
    files: Vec<PathBuf>,
    /// Inner folders come before outer ones.
    folders: Vec<PathBuf>,
}

impl Undo {
    /// Checks which files exist, before the run directory is made. If the directory already holds a
    /// run, nothing is ever removed.
    pub(crate) fn new(run_dir: &Path) -> Self {
        if RunDir::holds_run(run_dir) {
            return Self { files: Vec::new(), folders: Vec::new() };
        }
        let is_missing = |path: &PathBuf| path.symlink_metadata().is_err();
        let files = RunDir::files_in(run_dir).into_iter().filter(is_missing).collect();
        let above = run_dir.ancestors().filter(|path| !path.as_os_str().is_empty());
        let folders = RunDir::folders_in(run_dir).into_iter().chain(above.map(PathBuf::from));
        Self { files, folders: folders.filter(is_missing).collect() }
    }

    /// Removes the files that have been made since. A file that cannot be removed stays.
    pub(crate) fn undo(&self) {
        for file in &self.files {
            let _there_or_not = fs::remove_file(file);
        }
        for folder in &self.folders {
            let _there_or_not = fs::remove_dir(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_before_stays() {
        let place = tempfile::tempdir().unwrap();
        let run_dir = place.path().join("runs/one");
        let make = |run_dir: &Path| {
            RunDir::folders_in(run_dir)
                .iter()
                .for_each(|folder| fs::create_dir_all(folder).unwrap());
            RunDir::files_in(run_dir).iter().for_each(|file| fs::write(file, "new").unwrap());
        };
        let undo = Undo::new(&run_dir);
        make(&run_dir);
        undo.undo();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "nothing is left");

        fs::create_dir_all(run_dir.join("samples")).unwrap();
        fs::write(run_dir.join("metrics.jsonl"), "mine").unwrap();
        let undo = Undo::new(&run_dir);
        make(&run_dir);
        fs::write(run_dir.join("checkpoints/notes"), "mine").unwrap();
        undo.undo();
        for file in ["samples", "metrics.jsonl", "checkpoints/notes"] {
            assert!(run_dir.join(file).exists(), "{file}");
        }
        assert!(!run_dir.join("config.json").exists());

        make(&run_dir);
        let undo = Undo::new(&run_dir);
        undo.undo();
        assert!(run_dir.join("config.json").exists(), "a run that has begun is not undone");
    }
}
