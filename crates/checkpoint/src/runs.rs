//! Finds the run with the newest checkpoint among several runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::Directory;

/// The name of the checkpoints' folder in a run directory.
pub const CHECKPOINTS: &str = "checkpoints";

/// Whether a run directory has a checkpoint, sound or damaged.
pub fn has_checkpoint(run: &Path) -> bool {
    written(run).is_some()
}

/// The run in the folder `runs` whose newest checkpoint was written last; none if no run has a checkpoint. Links to
/// runs, such as `latest`, are ignored.
pub fn newest_run(runs: &Path) -> Option<PathBuf> {
    let folders = fs::read_dir(runs).ok()?.flatten();
    let folders = folders.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let runs = folders.filter_map(|entry| Some((written(&entry.path())?, entry.path())));
    runs.max().map(|(_, run)| run)
}

/// When the newest checkpoint of a run was written.
fn written(run: &Path) -> Option<SystemTime> {
    let (_, newest) = Directory::open(run.join(CHECKPOINTS)).list().ok()?.pop()?;
    newest.metadata().ok()?.modified().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::time::Duration;

    #[test]
    fn the_checkpoint_that_was_written_last_counts() {
        let runs = tempfile::tempdir().unwrap();
        assert_eq!(newest_run(runs.path()), None);
        let begun = SystemTime::now();
        let make = |name: &str, seconds: Option<u64>| {
            let run = runs.path().join(name);
            fs::create_dir_all(run.join(CHECKPOINTS)).unwrap();
            if let Some(seconds) = seconds {
                let file = File::create(run.join("checkpoints/step-00000001.safetensors")).unwrap();
                file.set_modified(begun + Duration::from_secs(seconds)).unwrap();
            }
            run
        };
        make("20260101", Some(1));
        let newest = make("20260102", Some(3));
        make("20260103", Some(2));
        let without = make("20260104", None);
        std::os::unix::fs::symlink("20260104", runs.path().join("latest")).unwrap();
        assert_eq!(newest_run(runs.path()), Some(newest.clone()));
        assert!(has_checkpoint(&newest) && !has_checkpoint(&without));
        assert_eq!(newest_run(&runs.path().join("none")), None);
    }
}
