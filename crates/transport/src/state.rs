//! State transfer: a worker that is behind takes over the state of one that is not.
//!
//! Served beside the all-reduce, at the same address. The donor's training thread makes a
//! [`Snapshot`] between two steps; from then on it is not held up.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use collective::Tally;
use protocol::{
    CHUNK_FLOATS, FRAME_BYTES_MAX, Malformed,
    convert::printable,
    status,
    wire::{
        FetchRequest, NodeTally, StateFrame, StateHeader, state_frame::Body,
        state_transfer_client::StateTransferClient, state_transfer_server::StateTransfer,
    },
};
use secure::{Address, Secret, Security};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::grpc::{FLOAT_BYTES, bytes_of, cause, channel};

/// The flat vectors of a state: parameters, first and second moments.
const VECTORS: usize = 3;

/// Epochs whose counts a state may bring along.
const EPOCHS_MAX: usize = 1 << 20;

/// How long a donor may take to make the snapshot, which it does between two steps.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(20);

/// How long a donor may send nothing, once the snapshot is made.
const FRAME_PATIENCE: Duration = Duration::from_secs(5);

/// A training state between two steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Updates that it has seen.
    pub step: u64,
    /// What each epoch begun so far has counted.
    pub epochs: Vec<Tally>,
    /// Parameters, first moments and second moments, flat.
    pub vectors: [Arc<Vec<f32>>; VECTORS],
}

impl Snapshot {
    /// Bytes of its vectors.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.vectors.iter().map(|vector| vector.len() * FLOAT_BYTES).sum()
    }
}

/// Carries a snapshot to the worker that asked for it.
pub type Recipient = oneshot::Sender<Arc<Snapshot>>;

/// Why a state could not be taken over.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The donor cannot be reached, or does not give its state.
    #[error("{0}")]
    Refused(String),
    /// Nothing comes.
    #[error("nothing came within {} s", .0.as_secs())]
    Silent(Duration),
    /// What came is no state of this model.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl From<Status> for FetchError {
    fn from(status: Status) -> Self {
        Self::Refused(printable(status.message()))
    }
}

/// A worker to take over a state from.
#[derive(Clone, Debug)]
pub struct Source {
    /// Where it listens.
    pub address: Address,
    /// What has to be brought there.
    pub secret: Secret,
    /// How to get there.
    pub security: Security,
}

/// Takes over the state of another worker, whose flat vectors have `length` floats.
///
/// # Errors
/// [`FetchError`]; every wait in it has a bound.
pub async fn fetch(source: &Source, run_id: &str, length: usize) -> Result<Snapshot, FetchError> {
    let Source { address, secret, security } = source;
    let secret = Bytes::copy_from_slice(secret.bytes());
    let request = FetchRequest { run_id: run_id.to_owned(), secret };
    let call = async {
        let channel = channel(address, security).await;
        let channel = channel.map_err(|error| Status::unavailable(cause(&error)))?;
        let client = StateTransferClient::new(channel).max_decoding_message_size(FRAME_BYTES_MAX);
        let mut frames = { client }.fetch(request).await?.into_inner();
        Ok::<_, Status>((frames.message().await?, frames))
    };
    let patience = SNAPSHOT_PATIENCE + FRAME_PATIENCE;
    let called = tokio::time::timeout(patience, call).await;
    let (first, frames) = called.map_err(|_| FetchError::Silent(patience))??;
    let Some(StateFrame { body: Some(Body::Header(header)) }) = first else {
        return Err(Malformed("a state without a header".into()).into());
    };
    let epochs = epochs(&header, length)?;
    let vectors = receive(frames, length).await?;
    Ok(Snapshot { step: header.step, epochs, vectors: vectors.map(Arc::new) })
}

fn epochs(header: &StateHeader, length: usize) -> Result<Vec<Tally>, Malformed> {
    if usize::try_from(header.length) != Ok(length) {
        let found = header.length;
        return Err(Malformed(format!("a state of {found} floats instead of {length}")));
    }
    header.epochs.iter().map(Tally::try_from).collect()
}

async fn receive(
    mut frames: Streaming<StateFrame>,
    length: usize,
) -> Result<[Vec<f32>; VECTORS], FetchError> {
    let mut vectors: [Vec<f32>; VECTORS] = std::array::from_fn(|_| Vec::with_capacity(length));
    let mut filled = 0;
    loop {
        let next = tokio::time::timeout(FRAME_PATIENCE, frames.message()).await;
        match next.map_err(|_| FetchError::Silent(FRAME_PATIENCE))?? {
            Some(StateFrame { body: Some(Body::Values(values)) }) => {
                take_in(&values, &mut vectors, &mut filled, length)?;
            }
            Some(_) => return Err(Malformed("a state with two headers".into()).into()),
            None if filled == VECTORS => return Ok(vectors),
            None => return Err(FetchError::Refused("the state was cut off".into())),
        }
    }
}

/// Appends floats; a chunk lies within one vector.
fn take_in(
    values: &Bytes,
    vectors: &mut [Vec<f32>; VECTORS],
    filled: &mut usize,
    length: usize,
) -> Result<(), Malformed> {
    let (floats, rest) = values.as_chunks::<FLOAT_BYTES>();
    let vector = vectors.get_mut(*filled);
    let room = vector.as_ref().map_or(0, |vector| length - vector.len());
    let (Some(vector), [], true) = (vector, rest, !floats.is_empty() && floats.len() <= room)
    else {
        return Err(Malformed(format!("{} bytes where a state has no room", values.len())));
    };
    vector.extend(floats.iter().map(|bytes| f32::from_le_bytes(*bytes)));
    *filled += usize::from(vector.len() == length);
    Ok(())
}

/// Gives the state of this worker to others.
#[derive(Clone, Debug)]
pub struct Donor {
    run_id: Arc<str>,
    recipients: mpsc::Sender<Recipient>,
    /// None while nobody may ask.
    secret: Arc<Mutex<Option<Secret>>>,
}

impl Donor {
    /// A donor whose snapshots are made by whoever receives from the other end.
    #[must_use]
    pub fn new(run_id: &str, recipients: mpsc::Sender<Recipient>) -> Self {
        Self { run_id: run_id.into(), recipients, secret: Arc::default() }
    }

    /// From now on, gives the state to those who bring this secret, and to nobody else.
    pub fn demand(&self, secret: Secret) {
        *self.secret.lock().unwrap_or_else(PoisonError::into_inner) = Some(secret);
    }

    fn is_known(&self, brought: &[u8]) -> bool {
        let secret = *self.secret.lock().unwrap_or_else(PoisonError::into_inner);
        secret.is_some_and(|secret| secret.is(brought))
    }

    async fn snapshot(&self) -> Result<Arc<Snapshot>, Status> {
        let (recipient, snapshot) = oneshot::channel();
        self.recipients
            .try_send(recipient)
            .map_err(|_| Status::resource_exhausted("too many workers ask for this state"))?;
        let made = tokio::time::timeout(SNAPSHOT_PATIENCE, snapshot).await;
        match made {
            Ok(Ok(snapshot)) if snapshot.epochs.len() <= EPOCHS_MAX => Ok(snapshot),
            Ok(_) => Err(Status::unavailable("this worker has no state to give")),
            Err(_) => Err(Status::deadline_exceeded("this worker is between no two steps")),
        }
    }
}

#[tonic::async_trait]
impl StateTransfer for Donor {
    type FetchStream = Frames;

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<Frames>, Status> {
        if request.get_ref().run_id != *self.run_id {
            return Err(status::stale("this worker takes part in another run"));
        }
        if !self.is_known(&request.get_ref().secret) {
            let message = "a request for this worker's state, without the secret for it";
            secure::turned_away(message);
            return Err(Status::permission_denied(message));
        }
        Ok(Response::new(Frames { snapshot: self.snapshot().await?, next: Next::Header }))
    }
}

/// The frames of a snapshot, made as they are sent.
#[derive(Debug)]
pub struct Frames {
    snapshot: Arc<Snapshot>,
    next: Next,
}

/// The frame that is sent next.
#[derive(Clone, Copy, Debug)]
enum Next {
    Header,
    Values { vector: usize, start: usize },
}

impl Frames {
    fn header(&self) -> StateHeader {
        let Snapshot { step, epochs, vectors } = &*self.snapshot;
        StateHeader {
            step: *step,
            length: vectors[0].len() as u64,
            epochs: epochs.iter().map(NodeTally::from).collect(),
        }
    }
}

impl Iterator for Frames {
    type Item = StateFrame;

    fn next(&mut self) -> Option<StateFrame> {
        let (body, next) = match self.next {
            Next::Header => (Body::Header(self.header()), Next::Values { vector: 0, start: 0 }),
            Next::Values { vector: index, start } => {
                let vector = self.snapshot.vectors.get(index)?;
                let end = (start + CHUNK_FLOATS).min(vector.len());
                let next = if end < vector.len() { (index, end) } else { (index + 1, 0) };
                let values = bytes_of(vector, start..end);
                (Body::Values(values), Next::Values { vector: next.0, start: next.1 })
            }
        };
        self.next = next;
        Some(StateFrame { body: Some(body) })
    }
}

impl Stream for Frames {
    type Item = Result<StateFrame, Status>;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(self.get_mut().next().map(Ok))
    }
}
