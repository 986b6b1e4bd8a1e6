//! Answers requests for the status of the run.

use membership::WorkerId;
use protocol::{
    convert::path_to_wire,
    wire::{self, StatusReply, WorkerStatus},
};

use super::{Connection, RunningCoordinator};

impl RunningCoordinator<'_> {
    pub(super) fn status(&self) -> StatusReply {
        let computing = self.engine.members();
        let worker = |(worker, connection): (&WorkerId, &Connection)| {
            let last = connection.last;
            let silent = last.map_or(connection.joined, |(_, heard)| heard).elapsed();
            WorkerStatus {
                rank: connection.rank.map(|rank| rank.0),
                host: connection.process.host.clone(),
                process: connection.process.id,
                member: computing.contains(worker),
                step: last.map(|(progress, _)| progress.step.0),
                phase: last.map(|(progress, _)| wire::Phase::from(progress.phase).into()),
                silent_seconds: silent.as_secs_f64(),
                memory_bytes: connection.memory_bytes,
                device: connection.device.clone(),
            }
        };
        let mut connected: Vec<WorkerStatus> = self.connections.iter().map(worker).collect();
        connected.sort_by_key(|worker| (worker.rank.is_none(), worker.rank, worker.process));
        let mut status = StatusReply {
            run_id: self.launch.info.run_id.clone(),
            run_directory: path_to_wire(self.run_dir.path()),
            phase: self.engine.state_name().into(),
            generation: self.engine.generation().0,
            connected,
            recent_errors: self.recovery.errors().to_vec(),
            configuration_json: self.launch.info.configuration_json(),
            ..StatusReply::default()
        };
        let seen = status.connected.iter().filter(|worker| worker.member);
        let seen = seen.filter_map(|worker| worker.step).max().unwrap_or_default();
        let training = self.engine.is_training() && !computing.is_empty();
        let training = training.then_some(status.generation);
        self.record.describe(&mut status, seen, training);
        if let Some((text, waited)) = self.waits_for() {
            (status.waiting_for, status.waiting_seconds) = (text, waited.as_secs_f64());
        }
        status
    }
}
