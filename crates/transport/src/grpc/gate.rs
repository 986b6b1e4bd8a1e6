//! Decides which peer may open a stream: only the member that has its rank in the current generation.
//! A secret proves it, which the coordinator has given only to this member and to this worker.

use std::collections::HashMap;

use collective::{Generation, Rank};
use protocol::{status, wire::PeerHello};
use secure::Secret;
use tokio::sync::{Semaphore, watch};
use tonic::Status;

use super::STREAM_TIMEOUT;

/// The most streams that wait until their generation begins here; further streams are refused.
const WAITING_STREAMS_MAX: usize = 4096;

/// The generation and the secrets that streams must have.
#[derive(Debug, Default)]
struct Expected {
    generation: Generation,
    secrets: HashMap<Rank, Secret>,
}

/// Lets only streams with the right secret pass.
#[derive(Debug)]
pub(super) struct Gate {
    expected: watch::Sender<Expected>,
    waiting: Semaphore,
}

impl Default for Gate {
    fn default() -> Self {
        Self { expected: watch::Sender::default(), waiting: Semaphore::new(WAITING_STREAMS_MAX) }
    }
}

impl Gate {
    /// Accepts only streams of this generation from now on.
    pub(super) fn expect(&self, generation: Generation, secrets: HashMap<Rank, Secret>) {
        self.expected.send_replace(Expected { generation, secrets });
    }

    /// Waits, within a bound, until the stream's generation begins here, and checks the stream's secret.
    pub(super) async fn pass(&self, hello: &PeerHello) -> Result<(), Status> {
        let waiting = self.waiting.try_acquire();
        let _waiting = waiting.map_err(|_| Status::resource_exhausted("too many streams wait"))?;
        let (generation, rank) = (Generation(hello.generation), Rank(hello.rank));
        let mut expected = self.expected.subscribe();
        let known = expected.wait_for(|expected| expected.generation >= generation);
        let known = tokio::time::timeout(STREAM_TIMEOUT, known).await;
        let Ok(Ok(expected)) = known else {
            return Err(status::stale(format!("generation {generation} has not begun here")));
        };
        if expected.generation > generation {
            let now = expected.generation;
            return Err(status::stale(format!("generation {generation} is over, now {now}")));
        }
        if expected.secrets.get(&rank).is_some_and(|secret| secret.is(&hello.secret)) {
            return Ok(());
        }
        let message = format!(
            "a stream as rank {rank} of generation {generation}, without the secret for it"
        );
        secure::turned_away(&message);
        Err(Status::permission_denied(message))
    }
}
