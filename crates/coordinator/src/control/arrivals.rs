//! Who comes to the run, and what follows when the process of a worker that was started here ends.

use collective::{Generation, Rank};
use config::task::Precision;
use history::Event as Happened;
use membership::{Event, Join, WorkerId};
use protocol::wire;
use tonic::Status;

use super::{Connection, Control};
use crate::spawn::{Exit, Verdict};

impl Control<'_> {
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
        // How a worker computes bf16 products says nothing about a run in f32.
        if self.launch.config().training.task.precision == Precision::F32 {
            join.fingerprint.precision = "f32".into();
        }
        connection.arithmetic = join.fingerprint.to_string();
        self.connections.insert(worker, connection);
        self.decide(Event::Joined(worker, join));
    }

    /// Whether a worker that comes back was called to the rank and generation that it names,
    /// by this coordinator or the one before it.
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
