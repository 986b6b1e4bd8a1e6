//! What the metrics file holds already, written by this coordinator or by one before it: so each
//! epoch and each step is recorded once, whoever reports it again.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use protocol::wire;
use serde::Deserialize;

/// Most bytes of a row: one of 64 ranks takes a few thousand.
const ROW_BYTES_MAX: u64 = 1 << 20;

/// What is recorded of a run.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    epochs: BTreeSet<u64>,
    /// Every epoch up to this one is among them.
    complete: u64,
    /// Generation and step of the last row about steps.
    steps: (u64, u64),
}

/// What a row says of its place in the run.
#[derive(Deserialize)]
struct Row {
    kind: String,
    #[serde(default)]
    epoch: u64,
    #[serde(default)]
    step: u64,
    generation: Option<u64>,
}

impl Recorded {
    /// Reads the metrics in `path`; a row that is none says nothing.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let context = || format!("cannot read {}", path.display());
        let file = File::open(path).with_context(context)?;
        let mut recorded = Self::default();
        if !file.metadata().with_context(context)?.is_file() {
            return Ok(recorded);
        }
        let mut rows = BufReader::new(file);
        let mut row = Vec::new();
        loop {
            row.clear();
            let mut bounded = (&mut rows).take(ROW_BYTES_MAX);
            if bounded.read_until(b'\n', &mut row).with_context(context)? == 0 {
                return Ok(recorded);
            }
            if let Ok(row) = serde_json::from_slice::<Row>(&row) {
                recorded.take_in(&row);
            }
        }
    }

    fn take_in(&mut self, row: &Row) {
        match &row.kind[..] {
            "epoch" => drop(self.add_epoch(row.epoch)),
            "steps" => drop(self.add_steps(row.generation.unwrap_or_default(), row.step)),
            _ => {}
        }
    }

    /// Notes that an epoch, from 1, is recorded; whether it was not.
    pub(crate) fn add_epoch(&mut self, epoch: u64) -> bool {
        let is_new = self.epochs.insert(epoch);
        while self.epochs.contains(&(self.complete + 1)) {
            self.complete += 1;
        }
        is_new
    }

    pub(crate) fn has_epoch(&self, epoch: u64) -> bool {
        self.epochs.contains(&epoch)
    }

    /// Notes that the steps of a generation up to `step` are recorded; whether they were not.
    /// Only one worker at a time reports steps, and a later generation's come later.
    pub(crate) fn add_steps(&mut self, generation: u64, step: u64) -> bool {
        let is_new = (generation, step) > self.steps;
        self.steps = self.steps.max((generation, step));
        is_new
    }
}

impl From<&Recorded> for wire::Recorded {
    fn from(recorded: &Recorded) -> Self {
        let (generation, step) = recorded.steps;
        Self { epoch: recorded.complete, generation, step }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_back_and_what_is_no_row_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let rows = r#"{"kind":"steps","step":94,"epoch":1,"generation":2,"loss":1.5}
{"kind":"epoch","step":94,"epoch":1,"generation":2}
{"kind":"epoch","step":188,"epoch":2,"generation":null}
nonsense
{"kind":"steps","step":90,"epoch":1,"generation":3}
{"kind":"epoch","step":376,"epoch":4,"generation":3}
{"kind":"epoch","ste"#;
        std::fs::write(&path, rows).unwrap();
        let mut recorded = Recorded::read(&path).unwrap();
        let sent = wire::Recorded::from(&recorded);
        assert_eq!((sent.epoch, sent.generation, sent.step), (2, 3, 90));
        assert!(recorded.has_epoch(4) && !recorded.has_epoch(3));
        assert!(!recorded.add_epoch(4) && recorded.add_epoch(3));
        assert_eq!(wire::Recorded::from(&recorded).epoch, 4);
        assert!(!recorded.add_steps(2, 999) && !recorded.add_steps(3, 90));
        assert!(recorded.add_steps(3, 91) && recorded.add_steps(4, 1));
    }
}
