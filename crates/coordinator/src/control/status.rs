//! How the run stands, for those who ask.

use membership::WorkerId;
use protocol::wire::{self, StatusReply, WorkerStatus};

use super::{Connection, Control};

impl Control<'_> {
    pub(super) fn status(&self) -> StatusReply {
        let computing = self.engine.members();
        let worker = |(worker, connection): (&WorkerId, &Connection)| {
            let last = connection.last;
            WorkerStatus {
                rank: connection.rank.map(|rank| rank.0),
                host: connection.process.host.clone(),
                process: connection.process.id,
                member: computing.contains(worker),
                step: last.map_or(0, |(progress, _)| progress.step.0),
                phase: last.map_or(0, |(progress, _)| wire::Phase::from(progress.phase).into()),
                silent_seconds: last.map_or(0.0, |(_, heard)| heard.elapsed().as_secs_f64()),
            }
        };
        let mut connected: Vec<WorkerStatus> = self.connections.iter().map(worker).collect();
        connected.sort_by_key(|worker| (worker.rank.is_none(), worker.rank, worker.process));
        let mut status = StatusReply {
            run_id: self.launch.info.run_id.clone(),
            run_directory: self.run_dir.path().to_string_lossy().into_owned(),
            phase: self.engine.state_name().into(),
            generation: self.engine.generation().0,
            connected,
            recent_errors: self.recovery.errors().to_vec(),
            ..StatusReply::default()
        };
        self.record.describe(&mut status);
        status
    }
}
