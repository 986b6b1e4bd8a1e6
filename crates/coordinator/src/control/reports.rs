//! Passes the workers' reports on to the console and the metrics.
//!
//! Reports may come late: a worker that reconnects sends the reports that the coordinator lacks.

use std::{collections::BTreeMap, time::Instant};

use history::StepsRow;
use membership::WorkerId;
use protocol::wire;

use super::RunningCoordinator;
use crate::record::EpochNews;

impl RunningCoordinator<'_> {
    pub(super) fn report(&mut self, worker: WorkerId, report: &wire::Report) {
        let current = self.engine.generation().0;
        if report.generation > current {
            return;
        }
        if self.is_member(worker)
            && report.generation == current
            && let Some(recovered) = self.recovery.first_step()
        {
            self.recovered(&recovered, report.step);
        }
        if let Some((progress, mut row)) = self.record.report(report) {
            self.add_memory(&mut row);
            self.waits.note_step();
            self.console.progress(&progress);
            self.live.steps(&row, self.run_dir.path());
            let written = self.run_dir.metrics().steps(row, Instant::now());
            self.stop_if_broken(written.map_err(Into::into));
        }
    }

    /// Adds the memory of the members, from their heartbeats.
    fn add_memory(&self, row: &mut StepsRow) {
        let told = |worker: &WorkerId| self.connections.get(worker)?.memory_bytes;
        let members = self.members.iter().map(|(rank, worker)| (rank.0, told(worker)));
        let members: BTreeMap<u32, Option<u64>> = members.collect();
        for rank in &mut row.ranks {
            rank.memory_bytes = members.get(&rank.rank).copied().flatten();
        }
    }

    pub(super) fn epoch_report(&mut self, report: &wire::EpochReport) {
        crashpoint::reach!("coordinator.epoch-received");
        let rows = self.record.epoch_report(report);
        self.write_epochs(rows);
        self.note_checkpoint();
    }

    /// Notes that the run directory holds a checkpoint, so that a missing one is missed later.
    pub(super) fn note_checkpoint(&mut self) {
        let noted = self.run_dir.note_checkpoint();
        self.stop_if_broken(noted);
    }

    /// Records the epochs before `epoch` that no worker will report any more.
    pub(super) fn record_unreported(&mut self, epoch: u64) {
        let rows = self.record.unreported_before(epoch);
        self.write_epochs(rows);
    }

    fn write_epochs(&mut self, news: Vec<EpochNews>) {
        for EpochNews { text, row } in news {
            self.console.line(&text);
            self.live.epoch(&row);
            let written = self.run_dir.metrics().epoch(row, Instant::now());
            self.stop_if_broken(written.map_err(Into::into));
        }
    }

    /// Writes the rows that have waited long enough.
    pub(super) fn pass_time_of_metrics(&mut self) {
        self.live.pass_time();
        let written = self.run_dir.metrics().pass_time(Instant::now());
        self.stop_if_broken(written.map_err(Into::into));
    }

    /// Writes the rows that wait.
    pub(super) fn flush_metrics(&mut self) {
        let written = self.run_dir.metrics().flush(Instant::now());
        self.stop_if_broken(written.map_err(Into::into));
    }
}
