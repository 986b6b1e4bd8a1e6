//! Workers that join the run, and the reaction to the end of a worker's process that was started here.

use collective::{Generation, Rank};
use config::task::Precision;
use history::Event as Happened;
use membership::{Event, Fingerprint, Join, WorkerId};
use protocol::wire;
use tonic::Status;

use super::{Connection, RunningCoordinator};
use crate::spawn::{Exit, Verdict};

/// Replaces a part of a fingerprint that does not matter.
const ANY: &str = "any";

impl RunningCoordinator<'_> {
    pub(super) fn joined(
        &mut self,
        worker: WorkerId,
        mut join: Join,
        mut connection: Connection,
        returning: Option<&wire::Returning>,
    ) {
        if returning.is_some_and(|returning| returning.run_id != self.launch.info.run_id) {
            let message = "this coordinator carries out another run";
            return connection.send(Err(Status::failed_precondition(message)));
        }
        if returning.is_some_and(|returning| !self.is_proven(&join, returning)) {
            let message = "it cannot prove that it is a member of the generation it names";
            secure::turned_away(&format!("a worker: {message}"));
            return connection.send(Err(Status::permission_denied(message)));
        }
        if let Err(refused) = self.check_program(&connection) {
            return connection.send(Err(refused));
        }
        self.keep_what_counts(&mut join.fingerprint);
        connection.arithmetic = join.fingerprint.to_string();
        self.connections.insert(worker, connection);
        self.decide(Event::Joined(worker, join));
    }

    /// Keeps only the parts of a fingerprint that the bits of this run's task depend on.
    fn keep_what_counts(&self, fingerprint: &mut Fingerprint) {
        let task = &self.launch.config().training.task;
        if task.precision == Precision::F32 {
            fingerprint.precision = "f32".into();
        }
        let is_same_everywhere = match (fingerprint.device.as_str(), task.precision) {
            ("cpu", _) | ("cuda", Precision::F32) => task.portable,
            _ => false,
        };
        if !is_same_everywhere {
            return;
        }
        fingerprint.instruction_set = format!("revision {}", task.revision);
        fingerprint.libtorch = ANY.into();
        match task.precision {
            Precision::F32 => fingerprint.device = ANY.into(),
            // GPUs add the products of bf16 in another order.
            Precision::Bf16 => fingerprint.precision = "bf16".into(),
        }
    }

    /// Whether a worker that reconnects can prove that this coordinator or an earlier one gave it the
    /// rank and generation that it names.
    fn is_proven(&self, join: &Join, returning: &wire::Returning) -> bool {
        let generation = Generation(returning.generation);
        let proof = join.rank.map(|rank| self.key.member(generation, rank));
        returning.generation == 0 || proof.is_some_and(|proof| proof.is(&returning.proof))
    }

    pub(super) fn child_exited(&mut self, slot: u32, exit: &Exit) {
        let verdict = self.children.exited(slot, exit);
        if verdict == Verdict::Left {
            return;
        }
        let status = &self.deaths.explain(slot, exit);
        match verdict {
            Verdict::Left => {}
            Verdict::Again(after) => {
                let after = after.as_secs_f64();
                tracing::warn!("worker {slot} {status}; starting it again in {after:.1} s");
                self.note(Happened::Restarting { slot, status: status.clone() });
            }
            Verdict::GivenUp => {
                tracing::warn!("worker {slot} {status}; it is not started again");
                self.note(Happened::GivenUp { slot, status: status.clone() });
                self.decide(Event::GivenUp(Rank(slot), status.clone()));
            }
        }
    }
}
