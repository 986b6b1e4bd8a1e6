//! Which peer may open a stream: the member that holds a rank in the current generation, as the
//! secret proves that the coordinator gave to it and to this worker alone.

use std::collections::HashMap;

use collective::{Generation, Rank};
use protocol::{status, wire::PeerHello};
use secure::Secret;
use tokio::sync::{Semaphore, watch};
use tonic::Status;

use super::STREAM_TIMEOUT;

/// Streams that wait for their generation to be known here; one more is refused.
const WAITING_STREAMS_MAX: usize = 4096;

/// What streams have to bring.
#[derive(Debug, Default)]
struct Expected {
    generation: Generation,
    secrets: HashMap<Rank, Secret>,
}

/// Lets streams pass that bring what they have to.
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
    /// Expects the streams of a generation from now on, and of none before.
    pub(super) fn expect(&self, generation: Generation, secrets: HashMap<Rank, Secret>) {
        self.expected.send_replace(Expected { generation, secrets });
    }

    /// Waits, within a bound, for the generation of a stream to be known here, and looks at
    /// what the stream brings.
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
