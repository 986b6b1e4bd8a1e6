//! The end of a run: waits until all workers have disconnected, longer for a worker that still stores
//! the last checkpoint.

use std::time::Duration;

use protocol::{
    convert::printable,
    wire::{self, worker_message::Body as WorkerMsg},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tonic::Status;

use super::{DRAIN_TIMEOUT, Input, RunningCoordinator, waiting::Wait};

/// The longest time between two updates of the printed wait.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long the coordinator waits for a worker that reports that it saves. The worker itself gives up
/// earlier.
const SAVING_TIMEOUT: Duration = Duration::from_secs(11 * 60);

impl RunningCoordinator<'_> {
    /// Waits, within a bound, for the workers to end their streams.
    pub(super) async fn drain(&mut self, inputs: &mut mpsc::Receiver<Input>) {
        let last = Instant::now() + SAVING_TIMEOUT;
        let mut deadline = Instant::now() + DRAIN_TIMEOUT;
        let mut storing = false;
        let mut wait = Wait::default();
        while !self.connections.is_empty() {
            let look = deadline.min(Instant::now() + LOOK_INTERVAL);
            let input = tokio::select! {
                input = timeout_at(look, inputs.recv()) => input,
                Ok(()) = self.asked.changed() => {
                    if self.asked.borrow_and_update().must_end_now() {
                        self.is_cut_short = true;
                        return;
                    }
                    self.console.line(
                        "The run has ended, and waits for its workers to finish; a second signal \
                         ends those that were started here",
                    );
                    continue;
                }
            };
            wait.tell(&self.console, &self.still_here(storing));
            let Ok(input) = input else {
                if Instant::now() < deadline {
                    continue;
                }
                let workers = self.connections.len();
                tracing::warn!(workers, "some workers did not disconnect in time");
                return;
            };
            match input {
                Some(Input::Lost(worker, _)) => drop(self.connections.remove(&worker)),
                Some(Input::Joined(_, _, connection, _)) => {
                    connection.send(Err(Status::aborted("the run has ended")));
                }
                Some(Input::Message(_, WorkerMsg::Heartbeat(alive)))
                    if alive.phase() == wire::Phase::Saving =>
                {
                    deadline = last.min(Instant::now() + DRAIN_TIMEOUT);
                    let url = self.launch.config().operation.checkpoint_url.as_ref();
                    if let (Some(url), false) = (url, std::mem::replace(&mut storing, true)) {
                        self.console.line(&format!("Storing the last checkpoint at {url} ..."));
                    }
                }
                Some(Input::Message(worker, WorkerMsg::Failed(failed))) => {
                    let who = self.name(worker);
                    if let Some(connection) = self.connections.remove(&worker) {
                        let (host, why) = (connection.process.host, printable(&failed.message));
                        self.unfinished.get_or_insert(format!("{who} on {host}: {why}"));
                    }
                }
                // A board that gets no status takes the run as ended, so it is answered until the end.
                Some(status @ Input::Status(_)) => self.take_in(status),
                Some(_) => {}
                None => return,
            }
        }
    }

    /// What the coordinator waits for, in words.
    fn still_here(&self, storing: bool) -> String {
        match &self.launch.config().operation.checkpoint_url {
            Some(url) if storing => format!("Storing the last checkpoint at {url}"),
            _ => {
                let workers = stdout::counted(self.connections.len() as u64, "worker");
                format!("Waiting for {workers} to end")
            }
        }
    }
}
