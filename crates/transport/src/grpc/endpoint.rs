//! The `AllReduce` service of a worker: takes in the streams of higher ranks and keeps each
//! until the generation that it belongs to connects.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use collective::{Generation, Rank};
use protocol::{
    FRAME_BYTES_MAX, status,
    wire::{
        Frame, PeerHello,
        all_reduce_server::{AllReduce, AllReduceServer},
        frame,
    },
};
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};

use super::{HTTP2_FRAME_BYTES, HTTP2_WINDOW_BYTES};

/// How long a stream may take to send its hello, and may wait for its generation to connect.
pub(super) const STREAM_PATIENCE: Duration = Duration::from_secs(10);

/// Streams kept for generations that have not connected yet; one more is refused.
const WAITING_STREAMS_MAX: usize = 4096;

/// A stream of a peer, both directions.
pub(super) struct PeerStream {
    pub(super) outbound: mpsc::Sender<Result<Frame, Status>>,
    pub(super) inbound: Streaming<Frame>,
}

/// The streams that wait for their generation.
#[derive(Default)]
struct Lobby {
    waiting: HashMap<(Generation, Rank), PeerStream>,
    /// Streams of generations below this are stale.
    current: Generation,
}

/// Where a worker's generations connect. Clones share the same streams.
#[derive(Clone)]
pub struct Endpoint {
    run_id: Arc<str>,
    lobby: Arc<Mutex<Lobby>>,
    arrived: Arc<Notify>,
    outbound_frames: usize,
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
            outbound_frames: super::frames::per_round_max(shards, length) * 2,
        }
    }

    /// Serves this endpoint's streams on `listener` until `shutdown`.
    ///
    /// # Errors
    /// What the listener says when it breaks.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), tonic::transport::Error> {
        let service = AllReduceServer::new(self).max_decoding_message_size(FRAME_BYTES_MAX);
        Server::builder()
            .max_frame_size(HTTP2_FRAME_BYTES)
            .initial_stream_window_size(HTTP2_WINDOW_BYTES)
            .initial_connection_window_size(HTTP2_WINDOW_BYTES)
            .add_service(service)
            // Without NODELAY the end of a chunk waits for the acknowledgement of its beginning.
            .serve_with_incoming_shutdown(
                TcpIncoming::from(listener).with_nodelay(Some(true)),
                shutdown,
            )
            .await
    }

    pub(super) fn run_id(&self) -> &str {
        &self.run_id
    }

    pub(super) fn outbound_frames(&self) -> usize {
        self.outbound_frames
    }

    /// Declares every earlier generation stale, and its waiting streams closed.
    pub(super) fn enter(&self, generation: Generation) {
        let mut lobby = self.lobby.lock().unwrap_or_else(PoisonError::into_inner);
        lobby.current = generation;
        lobby.waiting.retain(|(waiting, _), _| *waiting >= generation);
    }

    /// Waits for the stream of `rank`.
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
        tokio::time::timeout(STREAM_PATIENCE, found).await.ok()
    }

    fn remove(&self, generation: Generation, rank: Rank) -> Option<PeerStream> {
        let mut lobby = self.lobby.lock().unwrap_or_else(PoisonError::into_inner);
        lobby.waiting.remove(&(generation, rank))
    }

    fn admit(&self, hello: &PeerHello, stream: PeerStream) -> Result<(), Status> {
        if hello.run_id != *self.run_id {
            return Err(status::stale("this worker takes part in another run"));
        }
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

#[tonic::async_trait]
impl AllReduce for Endpoint {
    type ExchangeStream = ReceiverStream<Result<Frame, Status>>;

    async fn exchange(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let mut inbound = request.into_inner();
        let first = tokio::time::timeout(STREAM_PATIENCE, inbound.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the stream sent no hello"))??;
        let Some(Frame { body: Some(frame::Body::Hello(hello)) }) = first else {
            return Err(Status::invalid_argument("the first frame of a stream is its hello"));
        };
        let (outbound, frames) = mpsc::channel(self.outbound_frames);
        self.admit(&hello, PeerStream { outbound, inbound })?;
        Ok(Response::new(ReceiverStream::new(frames)))
    }
}
