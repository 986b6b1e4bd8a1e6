//! Checks that a worker computes the same as the run: its task, its program, and the gradient of the
//! probe before its first step. The engine compares the fingerprints.

use collective::Digest;
use membership::WorkerId;
use protocol::{convert, wire};
use tonic::Status;

use super::{Connection, RunningCoordinator};
use crate::journal::Entry;

/// Bytes of a program's digest that are printed.
const SHOWN_BYTES: usize = 6;

/// The task and program of a worker, from its hello.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trains {
    task: String,
    revision: u32,
    /// SHA-256 of the worker's program; empty if it is not known.
    program: Vec<u8>,
}

impl From<&wire::Hello> for Trains {
    fn from(hello: &wire::Hello) -> Self {
        let (task, revision) = (convert::printable(&hello.task), hello.task_revision);
        Self { task, revision, program: hello.program.to_vec() }
    }
}

impl RunningCoordinator<'_> {
    /// Refuses a worker of another task. Also refuses a worker whose program differs from the first
    /// worker's, unless builds may be mixed.
    pub(super) fn check_program(&mut self, connection: &Connection) -> Result<(), Status> {
        let Trains { task, revision, program } = &connection.trains;
        let ours = &self.launch.config().training.task;
        if (task, *revision) != (&ours.name, ours.revision) {
            return Err(self.turn_away(format!(
                "this worker trains the task {task} (revision {revision}), the run is of the task \
                 {} (revision {}): start the worker from the program of that task",
                ours.name, ours.revision
            )));
        }
        let first = self.program.get_or_insert_with(|| program.clone()).clone();
        let is_known = !first.is_empty() && !program.is_empty();
        if !is_known || first == *program || self.launch.allow_mixed_builds {
            return Ok(());
        }
        Err(self.turn_away(format!(
            "this worker's program (sha256 {}) is not that of the run's first worker (sha256 {}): \
             use one build everywhere, or start the coordinator with --allow-mixed-builds",
            short(program),
            short(&first)
        )))
    }

    /// Refuses a worker whose probe gradient differs from that of the run's first worker, which the
    /// journal keeps. Returns whether the worker was refused.
    pub(super) fn refuses_probe(&mut self, worker: WorkerId, ready: &wire::Ready) -> bool {
        // If devices may be mixed, their gradients may differ.
        if ready.probe.is_empty() || self.launch.allow_mixed_devices {
            return false;
        }
        let found = match convert::digest(&ready.probe) {
            Ok(found) => found,
            Err(malformed) => {
                self.expel(worker, &protocol::status::malformed(&malformed));
                return true;
            }
        };
        let Some(expected) = self.probe else {
            self.keep_probe(found);
            return false;
        };
        if found == expected {
            return false;
        }
        let refused = self.turn_away(format!(
            "this worker computes another gradient than the run (of the same batch at the same \
             parameters: digest {found}, the run's {expected}): its program is of other code; use \
             one build everywhere"
        ));
        self.expel(worker, &refused);
        true
    }

    fn keep_probe(&mut self, probe: Digest) {
        self.probe = Some(probe);
        let noted = self.run_dir.journal().note(&Entry::Probe(probe.to_string()));
        self.stop_if_broken(noted);
    }

    fn turn_away(&mut self, why: String) -> Status {
        tracing::warn!("a worker was turned away: {why}");
        self.turned_away = Some(why.clone());
        Status::failed_precondition(why)
    }
}

fn short(digest: &[u8]) -> String {
    data::hex(&digest[..digest.len().min(SHOWN_BYTES)])
}
