//! The runs that can be shown: the run of a coordinator, and the runs in the same folder.
//!
//! A run is named by its id, never by a path: the name in a request is looked up in the list.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;
use serde_json::Value;

use crate::run::{About, Run, read_summary};

/// The most entries of a folder that are searched for runs.
const ENTRIES_MAX: usize = 2000;

/// The most runs that are listed: the newest.
const LISTED_MAX: usize = 200;

/// The most runs whose rows are kept in memory.
const OPEN_MAX: usize = 8;

/// How long a list is used before the folder is read again.
const LIST_AGE_MAX: Duration = Duration::from_secs(5);

/// The folders of the runs.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The run that is shown first: the run of the coordinator.
    pub current: Option<PathBuf>,
    /// A folder of runs, or one run.
    pub folder: Option<PathBuf>,
}

/// A run in the list.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Listed {
    pub(crate) key: String,
    #[serde(skip)]
    pub(crate) path: PathBuf,
    #[serde(flatten)]
    pub(crate) about: About,
    /// Whether the run is the coordinator's, which is shown first.
    pub(crate) is_current: bool,
    /// The summary of a complete run.
    pub(crate) summary: Option<Value>,
    /// When the run's metrics were last written, in Unix seconds.
    changed: f64,
}

/// The runs.
#[derive(Debug)]
pub(crate) struct Runs {
    places: Places,
    listed: Vec<Listed>,
    listed_at: Option<Instant>,
    /// The open runs; the one that was requested last is at the end.
    open: Vec<Run>,
}

impl Runs {
    pub(crate) fn new(places: Places) -> Self {
        Self { places, listed: Vec::new(), listed_at: None, open: Vec::new() }
    }

    /// All runs: the current one first, then from the newest to the oldest.
    pub(crate) fn list(&mut self) -> &[Listed] {
        // An empty list is not kept, because a run may begin at any moment.
        let is_old = self.listed_at.is_none_or(|at| at.elapsed() > LIST_AGE_MAX);
        if is_old || self.listed.is_empty() {
            self.listed = self.look();
            self.listed_at = Some(Instant::now());
        }
        &self.listed
    }

    fn look(&self) -> Vec<Listed> {
        let current = self.places.current.as_deref();
        let mut found: Vec<Listed> =
            current.and_then(|path| listed(path, true)).into_iter().collect();
        if let Some(folder) = &self.places.folder {
            found.extend(listed(folder, false));
            let entries = fs::read_dir(folder).into_iter().flatten().take(ENTRIES_MAX).flatten();
            // Links such as `latest` are skipped: the runs that they point at are listed anyway.
            let is_folder =
                |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
            let folders = entries.filter(is_folder).map(|entry| entry.path());
            let is_current = |path: &PathBuf| {
                current.is_some_and(|current| {
                    path == current || fs::canonicalize(path).is_ok_and(|path| path == current)
                })
            };
            found
                .extend(folders.filter(|path| !is_current(path)).filter_map(|p| listed(&p, false)));
        }
        found.sort_by(|one, other| {
            other.is_current.cmp(&one.is_current).then(other.changed.total_cmp(&one.changed))
        });
        found.truncate(LISTED_MAX);
        // Copies of a run have the same id, so each further copy gets a number in its key.
        for index in 0..found.len() {
            let id = found[index].about.run_id.clone();
            let same = found[..index].iter().filter(|before| before.about.run_id == id).count();
            found[index].key = if same == 0 { id } else { format!("{id}~{}", same + 1) };
        }
        found
    }

    /// The run with this key, or the first run, with its newest rows.
    pub(crate) fn get(&mut self, key: Option<&str>) -> Option<&mut Run> {
        let listed = match key {
            Some(key) => self.list().iter().find(|listed| listed.key == key),
            None => self.list().first(),
        };
        let (path, about) = listed.map(|listed| (listed.path.clone(), listed.about.clone()))?;
        let index = self.open.iter().position(|run| run.path == path);
        let run = match index {
            Some(index) => self.open.remove(index),
            None => Run::open(&path, about),
        };
        if self.open.len() == OPEN_MAX {
            self.open.remove(0);
        }
        self.open.push(run);
        let run = self.open.last_mut()?;
        run.refresh();
        Some(run)
    }

    /// The key of the run that is shown first.
    pub(crate) fn first_key(&mut self) -> Option<String> {
        self.list().first().map(|listed| listed.key.clone())
    }
}

fn listed(path: &Path, is_current: bool) -> Option<Listed> {
    let about = About::read(path)?;
    let changed = |name: &str| fs::metadata(path.join(name)).and_then(|file| file.modified()).ok();
    let changed = changed(history::METRICS).or_else(|| changed("config.json"));
    let since = changed.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    Some(Listed {
        key: about.run_id.clone(),
        path: path.to_owned(),
        about,
        is_current,
        summary: read_summary(path),
        changed: since.map_or(0.0, |since| since.as_secs_f64()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_in_a_run_does_not_stop_the_board() {
        let folder = tempfile::tempdir().unwrap();
        for (name, file) in
            [("one", "config.json"), ("two", history::METRICS), ("three", history::EVENTS)]
        {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            if file != "config.json" {
                fs::write(path.join("config.json"), format!("{{\"run_id\":\"{name}\"}}")).unwrap();
            }
            let made = std::process::Command::new("mkfifo").arg(path.join(file)).status().unwrap();
            assert!(made.success());
        }
        let mut runs = Runs::new(Places { current: None, folder: Some(folder.path().to_owned()) });
        assert_eq!(runs.list().len(), 2);
        for key in ["two", "three"] {
            assert!(runs.get(Some(key)).is_some(), "{key}");
        }
    }

    #[test]
    fn runs_are_named_by_their_ids_alone() {
        let folder = tempfile::tempdir().unwrap();
        for (name, id) in [("one", "a"), ("two", "b"), ("copy", "a"), ("none", "")] {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            let config =
                if id.is_empty() { "{}".into() } else { format!("{{\"run_id\":\"{id}\"}}") };
            fs::write(path.join("config.json"), config).unwrap();
        }
        std::os::unix::fs::symlink("one", folder.path().join("latest")).unwrap();
        let current = Some(folder.path().join("two"));
        let mut runs = Runs::new(Places { current, folder: Some(folder.path().to_owned()) });
        let mut keys: Vec<String> = runs.list().iter().map(|listed| listed.key.clone()).collect();
        assert_eq!(keys.remove(0), "b");
        keys.sort();
        assert_eq!(keys, ["a", "a~2"]);
        for key in ["../one", "one", "", "c", "a~3", "/etc"] {
            assert!(runs.get(Some(key)).is_none(), "{key}");
        }
        assert_eq!(runs.get(None).unwrap().about.run_id, "b");
        assert_eq!(runs.get(Some("a~2")).unwrap().about.run_id, "a");
        // The folder may also be a single run.
        let one = Places { current: None, folder: Some(folder.path().join("one")) };
        assert_eq!(Runs::new(one).list().len(), 1);
    }
}
