//! The epochs and steps that the metrics file already holds, written by this coordinator or by an
//! earlier one. So each epoch and each step is recorded once, even if it is reported again.

use std::{collections::BTreeSet, path::Path};

use history::{HistoryError, Item, Metrics, MetricsRow};
use protocol::wire;

/// The recorded epochs and steps of a run.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    epochs: BTreeSet<u64>,
    /// Every epoch up to this one is recorded.
    complete: u64,
    /// Generation and step of the last row about steps.
    steps: (u64, u64),
}

impl Recorded {
    /// Reads the metrics in a run directory; an invalid row is ignored.
    pub(crate) fn read(run_dir: &Path) -> Result<Self, HistoryError> {
        let mut recorded = Self::default();
        let mut metrics = Metrics::open(run_dir);
        while let Some(item) = metrics.next_item()? {
            match item {
                Item::Row(MetricsRow::Epoch(row)) => drop(recorded.add_epoch(row.epoch)),
                Item::Row(MetricsRow::Steps(row)) => {
                    recorded.add_steps(row.generation, row.step);
                }
                Item::Rewound { .. } | Item::Restarted => {}
            }
        }
        Ok(recorded)
    }

    /// Marks an epoch, from 1, as recorded. Returns whether it is new.
    pub(crate) fn add_epoch(&mut self, epoch: u64) -> bool {
        let is_new = self.epochs.insert(epoch);
        while self.epochs.contains(&(self.complete + 1)) {
            self.complete += 1;
        }
        is_new
    }

    /// Generation and step of the last row about steps.
    pub(crate) fn last_steps(&self) -> (u64, u64) {
        self.steps
    }

    pub(crate) fn has_epoch(&self, epoch: u64) -> bool {
        self.epochs.contains(&epoch)
    }

    /// Marks the steps of a generation up to `step` as recorded. Returns whether they are new. Only
    /// one worker at a time reports steps, and later generations report later.
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
        let rows = r#"{"kind":"steps","step":94,"epoch":1,"generation":2,"loss":1.5}
{"kind":"epoch","step":94,"epoch":1,"generation":2}
{"kind":"epoch","step":188,"epoch":2,"generation":null}
nonsense
{"kind":"steps","step":90,"epoch":1,"generation":3}
{"kind":"epoch","step":376,"epoch":4,"generation":3}
{"kind":"epoch","ste"#;
        std::fs::write(folder.path().join(history::METRICS), rows).unwrap();
        let mut recorded = Recorded::read(folder.path()).unwrap();
        let sent = wire::Recorded::from(&recorded);
        assert_eq!((sent.epoch, sent.generation, sent.step), (2, 3, 90));
        assert!(recorded.has_epoch(4) && !recorded.has_epoch(3));
        assert!(!recorded.add_epoch(4) && recorded.add_epoch(3));
        assert_eq!(wire::Recorded::from(&recorded).epoch, 4);
        assert!(!recorded.add_steps(2, 999) && !recorded.add_steps(3, 90));
        assert!(recorded.add_steps(3, 91) && recorded.add_steps(4, 1));
    }
}
