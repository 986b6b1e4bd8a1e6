//! Folders of a run with numbered files, such as its samples and its checkpoints.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// The most files of a folder that are listed.
const FILES_MAX: usize = 20_000;

/// If a folder changed less than this ago, a later change may get the same time.
const SETTLED: Duration = Duration::from_millis(100);

/// A folder that is listed repeatedly.
#[derive(Debug)]
pub struct Numbered {
    folder: PathBuf,
    prefix: &'static str,
    suffix: &'static str,
    changed: Option<SystemTime>,
}

impl Numbered {
    /// The files named prefix, number, suffix in this folder, which need not exist yet.
    #[must_use]
    pub fn new(folder: PathBuf, prefix: &'static str, suffix: &'static str) -> Self {
        Self { folder, prefix, suffix, changed: None }
    }

    /// The samples of a run: a picture after each epoch.
    #[must_use]
    pub fn samples(run_dir: &Path) -> Self {
        Self::new(run_dir.join(SAMPLES), SAMPLES_PREFIX, SAMPLES_SUFFIX)
    }

    /// The numbers in the names of the files, in order; none if the folder's time shows no change since
    /// the last call.
    pub fn changed(&mut self) -> Option<Vec<u64>> {
        let changed = fs::metadata(&self.folder).and_then(|metadata| metadata.modified()).ok();
        let is_settled = |time: SystemTime| time.elapsed().is_ok_and(|age| age > SETTLED);
        let is_same = changed.is_none() || changed == self.changed;
        self.changed = changed.filter(|time| is_settled(*time));
        (!is_same).then(|| self.numbers())
    }

    fn numbers(&self) -> Vec<u64> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        let names = entries.take(FILES_MAX).flatten().map(|entry| entry.file_name());
        let number =
            |name: &str| name.strip_prefix(self.prefix)?.strip_suffix(self.suffix)?.parse().ok();
        let mut found: Vec<u64> = names.filter_map(|name| number(name.to_str()?)).collect();
        found.sort_unstable();
        found
    }
}

/// The folder of the samples in a run directory.
pub const SAMPLES: &str = "samples";

const SAMPLES_PREFIX: &str = "epoch-";
const SAMPLES_SUFFIX: &str = ".png";

/// The path of the samples of an epoch, from 1, in a run directory.
#[must_use]
pub fn samples_path(run_dir: &Path, epoch: u64) -> PathBuf {
    run_dir.join(SAMPLES).join(format!("{SAMPLES_PREFIX}{epoch:03}{SAMPLES_SUFFIX}"))
}
