//! Writes the metrics of a run. With many members, reports are merged, so that there is at most one
//! row about steps a second.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    HistoryError, METRICS,
    merge::{are_neighbours, merge_steps},
    row::{EpochRow, MetricsRow, StepsRow},
    writer::{Limits, Writer, thin_metrics},
};

/// Up to this number of members, every report is a row.
const MEMBERS_MAX: u64 = 16;

/// Time between two rows with more members.
const INTERVAL: Duration = Duration::from_secs(1);

/// Writes the metrics of a run.
#[derive(Debug)]
pub struct MetricsWriter {
    writer: Writer,
    /// The merged reports that are not written yet.
    pending: Option<StepsRow>,
    /// When the last row about steps was written.
    written: Option<Instant>,
}

impl MetricsWriter {
    /// Opens the metrics in a run directory; makes the file if there is none.
    ///
    /// # Errors
    /// When the file cannot be opened, or a last line that was cut off cannot be removed.
    pub fn open(run_dir: &Path, limits: Limits) -> Result<Self, HistoryError> {
        let writer = Writer::open(run_dir, METRICS, limits, thin_metrics)?;
        Ok(Self { writer, pending: None, written: None })
    }

    /// Adds a row about steps. With more than 16 members, it may be merged with the next one before
    /// it is written.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn steps(&mut self, row: StepsRow, now: Instant) -> Result<(), HistoryError> {
        let is_bounded = row.members() > MEMBERS_MAX;
        let row = match self.pending.take() {
            Some(pending) if are_neighbours(&pending, &row) => merge_steps(pending, row),
            Some(pending) => {
                self.write(pending, now)?;
                row
            }
            None => row,
        };
        if is_bounded && !self.is_due(now) {
            self.pending = Some(row);
            return Ok(());
        }
        self.write(row, now)
    }

    /// Writes a row about an epoch, after the rows about its steps.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn epoch(&mut self, row: EpochRow, now: Instant) -> Result<(), HistoryError> {
        self.flush(now)?;
        self.writer.append(&MetricsRow::Epoch(row))
    }

    /// Writes the pending row if it has waited long enough. To be called regularly.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn pass_time(&mut self, now: Instant) -> Result<(), HistoryError> {
        if self.is_due(now) { self.flush(now) } else { Ok(()) }
    }

    /// Writes the pending row.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn flush(&mut self, now: Instant) -> Result<(), HistoryError> {
        self.pending.take().map_or(Ok(()), |row| self.write(row, now))
    }

    #[cfg(test)]
    pub(crate) fn inner(&mut self) -> &mut Writer {
        &mut self.writer
    }

    fn is_due(&self, now: Instant) -> bool {
        self.written.is_none_or(|written| now.duration_since(written) >= INTERVAL)
    }

    fn write(&mut self, row: StepsRow, now: Instant) -> Result<(), HistoryError> {
        self.written = Some(now);
        self.writer.append(&MetricsRow::Steps(row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Item, Metrics, RankRow};

    fn row(step: u64, ranks: u32) -> StepsRow {
        let ranks = (0..ranks).map(|rank| RankRow { rank, ..RankRow::default() }).collect();
        let (generation, epoch) = (1, 1);
        StepsRow { generation, epoch, step, examples: 64, ranks, ..StepsRow::default() }
    }

    fn rows(run_dir: &Path) -> Vec<(u64, u64)> {
        let mut metrics = Metrics::open(run_dir);
        let mut rows = Vec::new();
        while let Some(item) = metrics.next_item().unwrap() {
            match item {
                Item::Row(MetricsRow::Steps(row)) => rows.push((row.step, row.examples)),
                Item::Row(MetricsRow::Epoch(row)) => rows.push((row.step, 0)),
                other => panic!("{other:?}"),
            }
        }
        rows
    }

    #[test]
    fn of_many_members_there_is_a_row_a_second_and_nothing_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = MetricsWriter::open(folder.path(), Limits::METRICS).unwrap();
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        writer.steps(row(1, 17), at(0)).unwrap();
        writer.steps(row(2, 17), at(250)).unwrap();
        writer.steps(row(3, 17), at(500)).unwrap();
        assert_eq!(rows(folder.path()), [(1, 64)]);
        writer.pass_time(at(999)).unwrap();
        assert_eq!(rows(folder.path()), [(1, 64)]);
        writer.steps(row(4, 17), at(1000)).unwrap();
        writer.steps(row(5, 17), at(1100)).unwrap();
        writer.pass_time(at(2000)).unwrap();
        assert_eq!(rows(folder.path()), [(1, 64), (4, 192), (5, 64)]);
        // Another generation, and the end of an epoch.
        writer.steps(row(6, 17), at(2100)).unwrap();
        writer.steps(StepsRow { generation: 2, ..row(7, 17) }, at(2200)).unwrap();
        let epoch = EpochRow { epoch: 1, step: 7, ..EpochRow::default() };
        writer.epoch(epoch, at(2300)).unwrap();
        let all = [(1, 64), (4, 192), (5, 64), (6, 64), (7, 64), (7, 0)];
        assert_eq!(rows(folder.path()), all);
    }

    #[test]
    fn of_few_members_every_report_is_a_row() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = MetricsWriter::open(folder.path(), Limits::METRICS).unwrap();
        let now = Instant::now();
        for step in 1..=5 {
            writer.steps(row(step, 16), now).unwrap();
        }
        assert_eq!(rows(folder.path()).len(), 5);
    }
}
