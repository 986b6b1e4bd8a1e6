//! The `AllReduce` service of a worker: accepts the streams of higher ranks, and keeps each stream
//! until its generation connects.

use std::{
    collections::HashMap,
    future,
    sync::{Arc, Mutex, PoisonError},
};

use collective::{Generation, Rank};
use protocol::{door, status, wire::PeerHello};
use secure::{
    Security,
    connection::{self, BoxFuture, Connection},
};
use tokio::sync::Notify;
use tokio_stream::StreamExt as _;
use tonic::{Status, transport::Server};

use super::{
    HTTP2_FRAME_BYTES, HTTP2_WINDOW_BYTES, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT, Listener,
    STREAM_TIMEOUT, frames, gate::Gate, service::Service, socket, stream::PeerStream,
};
use crate::{Group, state::Donor};

/// The most streams that wait for a generation that has not connected yet; further streams are refused.
const WAITING_STREAMS_MAX: usize = 4096;

/// Rounds whose bytes may be queued at the same time: one that a peer has not received yet, and the
/// next, which this member has begun.
const ROUNDS_QUEUED: usize = 2;

/// The streams that wait for their generation.
#[derive(Default)]
struct Lobby {
    waiting: HashMap<(Generation, Rank), PeerStream>,
    /// Streams of generations below this are stale.
    current: Generation,
}

/// The endpoint through which a worker's generations connect. Clones share the same streams.
#[derive(Clone)]
pub struct Endpoint {
    run_id: Arc<str>,
    lobby: Arc<Mutex<Lobby>>,
    arrived: Arc<Notify>,
    queued_max: usize,
    donor: Option<Donor>,
    gate: Arc<Gate>,
    security: Security,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("run_id", &self.run_id).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// An endpoint for the run's generations, whose flat gradients have `length` floats and
    /// come from `shards` shards.
    #[must_use]
    pub fn new(run_id: &str, shards: u32, length: usize) -> Self {
        Self {
            run_id: run_id.into(),
            lobby: Arc::default(),
            arrived: Arc::default(),
            queued_max: frames::queued_max(shards, length) * ROUNDS_QUEUED,
            donor: None,
            gate: Arc::default(),
            security: Security::default(),
        }
    }

    /// Sets the security settings with which this endpoint listens and connects. The default is
    /// without TLS, on loopback only.
    #[must_use]
    pub fn secured(self, security: Security) -> Self {
        Self { security, ..self }
    }

    /// Lets this endpoint also give the worker's state to others.
    #[must_use]
    pub fn donating(self, donor: Donor) -> Self {
        Self { donor: Some(donor), ..self }
    }

    /// Serves this endpoint's streams on `listener`, until the future is dropped. Call it on a runtime.
    ///
    /// # Errors
    /// The future fails if a listener breaks.
    pub fn serve(
        self,
        listener: Listener,
    ) -> BoxFuture<'static, Result<(), tonic::transport::Error>> {
        let Listener { far, near } = listener;
        let mut incoming = self.security.accept(door::guarded(socket::incoming(far)));
        if let Some(near) = near {
            let near = door::guarded(socket::incoming_near(near));
            incoming = Box::pin(incoming.merge(near.map(|near| near.map(Connection::new))));
        }
        let router = Server::builder()
            .max_frame_size(HTTP2_FRAME_BYTES)
            .initial_stream_window_size(HTTP2_WINDOW_BYTES)
            .initial_connection_window_size(HTTP2_WINDOW_BYTES)
            .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
            .add_optional_service(self.donor.clone())
            .add_service(Service::new(self));
        connection::serve(router, incoming, Box::pin(future::pending()))
    }

    pub(super) fn run_id(&self) -> &str {
        &self.run_id
    }

    /// The most pieces of bytes that may wait to be sent over one stream.
    pub(super) fn queued_max(&self) -> usize {
        self.queued_max
    }

    pub(super) fn security(&self) -> &Security {
        &self.security
    }

    /// Makes every earlier generation stale, and closes the streams that wait for it.
    pub(super) fn enter(&self, group: &Group) {
        let generation = group.generation;
        let secrets = group.peers.iter().map(|peer| (peer.share.rank, peer.secret)).collect();
        self.gate.expect(generation, secrets);
        let mut lobby = self.lobby.lock().unwrap_or_else(PoisonError::into_inner);
        lobby.current = generation;
        lobby.waiting.retain(|(waiting, _), _| *waiting >= generation);
    }

    /// Waits for the stream of `rank`; none if it does not come in time.
    pub(super) async fn take(&self, generation: Generation, rank: Rank) -> Option<PeerStream> {
        let found = async {
            loop {
                let arrived = self.arrived.notified();
                tokio::pin!(arrived);
                arrived.as_mut().enable();
                if let Some(stream) = self.remove(generation, rank) {
                    return stream;
                }
                arrived.await;
            }
        };
        tokio::time::timeout(STREAM_TIMEOUT, found).await.ok()
    }

    fn remove(&self, generation: Generation, rank: Rank) -> Option<PeerStream> {
        let mut lobby = self.lobby.lock().unwrap_or_else(PoisonError::into_inner);
        lobby.waiting.remove(&(generation, rank))
    }

    /// Refuses a peer that is not a member of the current generation of this run.
    pub(super) async fn vouch(&self, hello: &PeerHello) -> Result<(), Status> {
        if hello.run_id != *self.run_id {
            return Err(status::stale("this worker takes part in another run"));
        }
        self.gate.pass(hello).await
    }

    /// Keeps a stream that has passed [`Endpoint::vouch`], for its generation.
    pub(super) fn admit(&self, hello: &PeerHello, stream: PeerStream) -> Result<(), Status> {
        let (generation, rank) = (Generation(hello.generation), Rank(hello.rank));
        let mut lobby = self.lobby.lock().unwrap_or_else(PoisonError::into_inner);
        if generation < lobby.current {
            let current = lobby.current;
            return Err(status::stale(format!("generation {generation} is over, now {current}")));
        }
        if lobby.waiting.len() >= WAITING_STREAMS_MAX {
            return Err(Status::resource_exhausted("too many streams wait for a generation"));
        }
        lobby.waiting.insert((generation, rank), stream);
        drop(lobby);
        self.arrived.notify_waiters();
        Ok(())
    }
}
