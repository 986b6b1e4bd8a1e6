//! The `StateTransfer` service of a worker: sends its state to others directly from memory.

use std::{
    convert::Infallible,
    future::poll_fn,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    vec,
};

use bytes::{Bytes, BytesMut};
use collective::{STATE_VECTORS, StateVectors};
use http::{Request, Response, header};
use protocol::{
    status,
    wire::{
        FetchRequest, NodeTally, StateFrame, StateHeader, state_frame::Body as Part,
        state_transfer_server,
    },
};
use secure::{Secret, connection::BoxFuture};
use tokio::sync::{mpsc, oneshot};
use tonic::{Status, body::Body, server::NamedService};
use zerocopy::IntoBytes as _;

use super::{Recipient, SNAPSHOT_TIMEOUT, Snapshot, Vectors};
use crate::grpc::{
    STREAM_TIMEOUT,
    frames::{self, CHUNK_FLOATS},
    parser::Event,
    service::CONTENT_TYPE,
    stream::{self, Arrival, Inbound, Side},
};

/// The path of the service's only call.
pub(super) const FETCH_PATH: &str = "/lockstep.v1.StateTransfer/Fetch";

/// The most epochs whose counts a state may have.
const EPOCHS_MAX: usize = 1 << 20;

/// Gives the state of this worker to others.
#[derive(Clone, Debug)]
pub struct Donor {
    run_id: Arc<str>,
    memory_domain: Arc<str>,
    recipients: mpsc::Sender<Recipient>,
    /// The secret that a request must have; none while every request is refused.
    secret: Arc<Mutex<Option<Secret>>>,
}

impl Donor {
    /// A donor whose snapshots are made by the receiver of `recipients`.
    #[must_use]
    pub fn new(run_id: &str, recipients: mpsc::Sender<Recipient>) -> Self {
        let memory_domain = Arc::default();
        Self { run_id: run_id.into(), memory_domain, recipients, secret: Arc::default() }
    }

    /// Sets the memory domain. Workers of this domain copy a state in shared memory themselves.
    #[must_use]
    pub fn within(self, memory_domain: &str) -> Self {
        Self { memory_domain: memory_domain.into(), ..self }
    }

    /// From now on, gives the state only to workers with this secret.
    pub fn demand(&self, secret: Secret) {
        *self.secret.lock().unwrap_or_else(PoisonError::into_inner) = Some(secret);
    }

    fn is_known(&self, brought: &[u8]) -> bool {
        let secret = *self.secret.lock().unwrap_or_else(PoisonError::into_inner);
        secret.is_some_and(|secret| secret.is(brought))
    }

    async fn snapshot(&self, memory_domain: &str) -> Result<Arc<Snapshot>, Status> {
        let is_near = !memory_domain.is_empty() && *memory_domain == *self.memory_domain;
        let (answer, snapshot) = oneshot::channel();
        self.recipients
            .try_send(Recipient { is_near, answer })
            .map_err(|_| Status::resource_exhausted("too many workers ask for this state"))?;
        let made = tokio::time::timeout(SNAPSHOT_TIMEOUT, snapshot).await;
        match made {
            Ok(Ok(snapshot)) if snapshot.epochs.len() <= EPOCHS_MAX => Ok(snapshot),
            Ok(_) => Err(Status::unavailable("this worker has no state to give")),
            Err(_) => Err(Status::deadline_exceeded("this worker did not finish a step in time")),
        }
    }

    /// Reads the request and answers it with the state.
    async fn fetch(self, request: Request<Body>) -> Result<Response<Body>, Status> {
        if request.uri().path() != FETCH_PATH {
            return Err(Status::unimplemented("no such call"));
        }
        let mut inbound = Inbound::<FetchRequest>::new(request.into_body());
        let arrival = tokio::time::timeout(STREAM_TIMEOUT, poll_fn(|cx| inbound.poll_next(cx)));
        let arrival = arrival.await.map_err(|_| Status::deadline_exceeded("no request came"))?;
        let request = match arrival {
            Arrival::Event(Event::Frame(request)) => request,
            Arrival::Malformed(malformed) => return Err(status::malformed(&malformed)),
            Arrival::Event(_) | Arrival::Closed(_) => {
                return Err(Status::invalid_argument("a call without a request"));
            }
        };
        if request.run_id != *self.run_id {
            return Err(status::stale("this worker takes part in another run"));
        }
        if !self.is_known(&request.secret) {
            let message = "a request for this worker's state, without the secret for it";
            secure::turned_away(message);
            return Err(Status::permission_denied(message));
        }
        let pieces = pieces(&*self.snapshot(&request.memory_domain).await?);
        let pieces = pieces.inspect(|_| crashpoint::reach!("transfer.donating"));
        let pieces = tokio_stream::iter(pieces);
        let mut response = Response::new(stream::body(Side::Server, pieces));
        response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
        Ok(response)
    }
}

/// The messages of a snapshot as pieces of bytes: heads, and floats that are not copied.
fn pieces(snapshot: &Snapshot) -> vec::IntoIter<Bytes> {
    let Snapshot { step, length, epochs, validation, vectors } = snapshot;
    let length = *length;
    let place = match vectors {
        Vectors::Held(_) => String::new(),
        Vectors::Place(place) => place.clone(),
    };
    let header = StateHeader {
        step: *step,
        length: length as u64,
        epochs: epochs.iter().map(NodeTally::from).collect(),
        validation: validation.clone(),
        place,
    };
    let mut head = BytesMut::new();
    frames::put_message(&mut head, &StateFrame { body: Some(Part::Header(header)) });
    let mut pieces = vec![head.split().freeze()];
    let Vectors::Held(vectors) = vectors else { return pieces.into_iter() };
    for index in 0..STATE_VECTORS {
        for start in (0..length).step_by(CHUNK_FLOATS) {
            let end = (start + CHUNK_FLOATS).min(length);
            frames::put_state_head(&mut head, end - start);
            pieces.push(head.split().freeze());
            let vectors = Arc::clone(vectors);
            pieces.push(Bytes::from_owner(Chunk { vectors, index, range: start..end }));
        }
    }
    pieces.into_iter()
}

/// A part of one of a state's vectors. It keeps the state alive until it is sent.
struct Chunk {
    vectors: Arc<dyn StateVectors>,
    index: usize,
    range: Range<usize>,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self.vectors.vectors()[self.index][self.range.clone()].as_bytes()
    }
}

impl NamedService for Donor {
    const NAME: &'static str = state_transfer_server::SERVICE_NAME;
}

impl tower::Service<Request<Body>> for Donor {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let donor = self.clone();
        Box::pin(async move { Ok(donor.fetch(request).await.unwrap_or_else(Status::into_http)) })
    }
}
