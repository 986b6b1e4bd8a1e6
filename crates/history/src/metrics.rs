//! Writes the metrics of a run: of many members at most one row about steps a second, in which
//! nothing is missing.

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

/// Members of which every report is a row of its own.
const MEMBERS_MAX: u64 = 16;

/// Time between two rows of more members.
const INTERVAL: Duration = Duration::from_secs(1);

/// Writes the metrics of a run.
#[derive(Debug)]
pub struct MetricsWriter {
    writer: Writer,
    /// Reports that are to become one row.
    pending: Option<StepsRow>,
    /// When the last row about steps was written.
    written: Option<Instant>,
}

impl MetricsWriter {
    /// Opens the metrics in a run directory, begun now if there are none.
    ///
    /// # Errors
    /// When the file cannot be opened, or its last line not be mended.
    pub fn open(run_dir: &Path, limits: Limits) -> Result<Self, HistoryError> {
        let writer = Writer::open(run_dir, METRICS, limits, thin_metrics)?;
        Ok(Self { writer, pending: None, written: None })
    }

    /// Takes in a row about steps. Of more than 16 members, it may be written with the next one.
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

    /// Writes a row about an epoch, after those about its steps.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn epoch(&mut self, row: EpochRow, now: Instant) -> Result<(), HistoryError> {
        self.flush(now)?;
        self.writer.append(&MetricsRow::Epoch(row))
    }

    /// Writes what has waited long enough. To be called now and then.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn pass_time(&mut self, now: Instant) -> Result<(), HistoryError> {
        if self.is_due(now) { self.flush(now) } else { Ok(()) }
    }

    /// Writes what waits.
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
