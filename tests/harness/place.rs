//! A temporary folder for one run, and access to the files in its run directory.

use std::{fs, path::PathBuf};

use checkpoint::{Checkpoint, Directory};
use serde_json::Value;
use tempfile::TempDir;

/// A folder with a run directory, which is removed at the end of the test.
#[derive(Debug)]
pub(crate) struct Place {
    folder: TempDir,
    pub(crate) run_dir: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("lockstep-").tempdir().unwrap();
        let run_dir = folder.path().join("run");
        Self { folder, run_dir }
    }

    /// A path beside the run directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.run_dir.join(name)
    }

    pub(crate) fn json(&self, name: &str) -> Value {
        let path = self.file(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    pub(crate) fn summary(&self) -> Value {
        self.json("summary.json")
    }

    pub(crate) fn digest(&self) -> String {
        self.summary()["digest"].as_str().unwrap().to_owned()
    }

    /// The complete lines of one kind in the metrics; none if the file does not exist yet.
    pub(crate) fn metrics(&self, kind: &str) -> Vec<Value> {
        self.lines("metrics.jsonl", kind)
    }

    /// The lines of one kind in the event log.
    pub(crate) fn events(&self, kind: &str) -> Vec<Value> {
        self.lines("events.jsonl", kind)
    }

    fn lines(&self, file: &str, kind: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.file(file)).unwrap_or_default();
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let lines = whole.lines().map(|line| serde_json::from_str::<Value>(line).expect(line));
        lines.filter(|line| line["kind"] == kind).collect()
    }

    /// The last step in the metrics.
    pub(crate) fn step(&self) -> u64 {
        self.metrics("steps").last().map_or(0, |line| line["step"].as_u64().unwrap())
    }

    pub(crate) fn checkpoints(&self) -> Vec<PathBuf> {
        let list = Directory::open(self.file("checkpoints")).list().unwrap();
        list.into_iter().map(|(_, path)| path).collect()
    }

    /// The step of the newest checkpoint; 0 if there is none.
    pub(crate) fn newest_step(&self) -> u64 {
        let list = Directory::open(self.file("checkpoints")).list().unwrap();
        list.last().map_or(0, |(step, _)| *step)
    }

    /// The newest checkpoint, which must verify.
    pub(crate) fn newest(&self) -> Checkpoint {
        let path = self.checkpoints().pop().expect("there is a checkpoint");
        checkpoint::read(&path).unwrap()
    }

    /// The checkpoint of a step, which must verify.
    pub(crate) fn checkpoint(&self, step: u64) -> Checkpoint {
        checkpoint::read(&self.file("checkpoints").join(checkpoint::file_name(step))).unwrap()
    }
}

/// Asserts that two checkpoints hold the same step and the same tensors, bit for bit.
#[track_caller]
pub(crate) fn assert_same_tensors(ours: &Checkpoint, theirs: &Checkpoint) {
    assert_eq!(ours.metadata.step, theirs.metadata.step);
    assert!(ours.tensors.keys().eq(theirs.tensors.keys()));
    for (name, tensor) in &ours.tensors {
        let other = &theirs.tensors[name];
        let bits = |data: &[f32]| data.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(tensor.shape, other.shape, "{name}");
        assert!(bits(&tensor.data) == bits(&other.data), "the bits of {name} differ");
    }
    assert_eq!(ours.sha256, theirs.sha256);
}
