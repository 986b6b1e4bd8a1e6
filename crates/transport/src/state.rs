//! State transfer: a worker that is behind copies the state of a worker that is ahead.
//!
//! The [`Donor`] serves the state at the address of the all-reduce. The donor's training thread makes
//! a [`Snapshot`] between two steps, and then goes on. Floats are sent directly from the snapshot and
//! copied once on arrival, without a codec.
//!
//! If the donor's state is in shared memory, the donor sends only its place to a worker of the same
//! host. The worker copies the state from there, and the donor does not wait.

mod donor;
#[cfg(target_os = "linux")]
mod near;

use std::{fmt, future::poll_fn, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use collective::{STATE_VECTORS, StateVectors, Tally};
use protocol::{
    Malformed,
    convert::printable,
    wire::{FetchRequest, StateFrame, StateHeader, state_frame::Body},
};
use secure::{Address, Secret, Security, connection::BoxFuture};
use thiserror::Error;
use tokio::sync::oneshot;
use tower::ServiceExt as _;
use zerocopy::IntoBytes as _;

pub use self::donor::Donor;
use crate::grpc::{
    connect::{accepted, call, cause, channel},
    frames::{self, FLOAT_BYTES},
    parser::Event,
    stream::{self, Arrival, Inbound, Side},
};

/// How long a donor may take to make the snapshot, which it does between two steps.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a donor may send nothing, once the snapshot is made.
const FRAME_TIMEOUT: Duration = Duration::from_secs(5);

/// A training state between two steps, to be sent without a copy.
#[derive(Clone)]
pub struct Snapshot {
    /// Updates applied to the state.
    pub step: u64,
    /// Floats of each vector.
    pub length: usize,
    /// The counts of each epoch that has begun.
    pub epochs: Vec<Tally>,
    /// The validation loss after each completed epoch.
    pub validation: Vec<f64>,
    /// Parameters, first moments and second moments, flat.
    pub vectors: Vectors,
}

/// Where the vectors of a snapshot are.
#[derive(Clone)]
pub enum Vectors {
    /// In this process, for as long as this value is held.
    Held(Arc<dyn StateVectors>),
    /// In shared memory, for one or two steps: see [`StateVectors::place`].
    Place(String),
}

impl fmt::Debug for Vectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(_) => f.write_str("Held"),
            Self::Place(place) => f.debug_tuple("Place").field(place).finish(),
        }
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("step", &self.step).finish_non_exhaustive()
    }
}

/// A training state received from another worker.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fetched {
    /// Updates applied to the state.
    pub step: u64,
    /// The counts of each epoch that has begun.
    pub epochs: Vec<Tally>,
    /// The validation loss after each completed epoch.
    pub validation: Vec<f64>,
    /// Parameters, first moments and second moments, flat.
    pub vectors: [Vec<f32>; STATE_VECTORS],
    /// Bytes of the vectors that were sent; 0 if the vectors were copied from shared memory.
    pub bytes_sent: u64,
}

/// A worker's request for a snapshot.
#[derive(Debug)]
pub struct Recipient {
    /// Whether the worker can read this host's shared memory.
    pub is_near: bool,
    answer: oneshot::Sender<Arc<Snapshot>>,
}

impl Recipient {
    /// Whether the worker still waits.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.answer.is_closed()
    }

    /// Gives the snapshot to the worker, if it still waits.
    pub fn give(self, snapshot: Arc<Snapshot>) {
        let _gone = self.answer.send(snapshot);
    }
}

/// Why a state could not be fetched.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The donor cannot be reached, or refuses to give its state.
    #[error("{0}")]
    Refused(String),
    /// The other side sends nothing.
    #[error("nothing came within {} s", .0.as_secs())]
    Silent(Duration),
    /// The received bytes are not a state of this model.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// The donor from which a state is fetched, and the way to it.
#[derive(Clone, Debug)]
pub struct Source {
    /// The address at which the donor listens.
    pub address: Address,
    /// The secret that the donor demands.
    pub secret: Secret,
    /// The security settings of the connection.
    pub security: Security,
    /// The name of the memory domain of this process; empty if it can share memory with no other.
    pub memory_domain: String,
}

/// Fetches the state of another worker, whose flat vectors have `length` floats.
///
/// # Errors
/// [`FetchError`]; every wait in it has a bound.
pub fn fetch<'a>(
    source: &'a Source,
    run_id: &'a str,
    length: usize,
) -> BoxFuture<'a, Result<Fetched, FetchError>> {
    Box::pin(async move {
        #[cfg(target_os = "linux")]
        if !source.memory_domain.is_empty() {
            return near::fetch(source, run_id, length).await;
        }
        let (header, inbound) = open(source, run_id, String::new()).await?;
        receive_all(header, inbound, length).await
    })
}

/// Receives a state that is sent after its header.
async fn receive_all(
    header: StateHeader,
    inbound: Inbound<StateFrame>,
    length: usize,
) -> Result<Fetched, FetchError> {
    let epochs = epochs(&header, length)?;
    let vectors = receive(inbound, length).await?;
    let bytes_sent = (STATE_VECTORS * length * FLOAT_BYTES) as u64;
    let StateHeader { step, validation, .. } = header;
    Ok(Fetched { step, epochs, validation, vectors, bytes_sent })
}

/// Requests the state, and waits for its header.
async fn open(
    source: &Source,
    run_id: &str,
    memory_domain: String,
) -> Result<(StateHeader, Inbound<StateFrame>), FetchError> {
    let timeout = SNAPSHOT_TIMEOUT + FRAME_TIMEOUT;
    let asked = tokio::time::timeout(timeout, ask(source, run_id, memory_domain)).await;
    let mut inbound = asked.map_err(|_| FetchError::Silent(timeout))??;
    match next(&mut inbound).await? {
        Arrival::Event(Event::Frame(StateFrame { body: Some(Body::Header(header)) })) => {
            Ok((header, inbound))
        }
        _ => Err(Malformed("a state without a header".into()).into()),
    }
}

/// Requests the state, and waits until the donor answers.
async fn ask(
    source: &Source,
    run_id: &str,
    memory_domain: String,
) -> Result<Inbound<StateFrame>, FetchError> {
    let refused = |error: &dyn std::error::Error| FetchError::Refused(printable(&cause(error)));
    let Source { address, secret, security, .. } = source;
    let channel = channel(address, security).await.map_err(|error| refused(&error))?;
    let mut request = BytesMut::new();
    let secret = Bytes::copy_from_slice(secret.bytes());
    let wanted = FetchRequest { run_id: run_id.to_owned(), secret, memory_domain };
    frames::put_message(&mut request, &wanted);
    let body = stream::body(Side::Client, tokio_stream::once(request.freeze()));
    let call = call(address, donor::FETCH_PATH, body).map_err(FetchError::Refused)?;
    let response = channel.oneshot(call).await.map_err(|error| refused(&error))?;
    Ok(Inbound::new(accepted(response).map_err(FetchError::Refused)?))
}

fn epochs(header: &StateHeader, length: usize) -> Result<Vec<Tally>, Malformed> {
    if usize::try_from(header.length) != Ok(length) {
        let found = header.length;
        return Err(Malformed(format!("a state of {found} floats instead of {length}")));
    }
    header.epochs.iter().map(Tally::try_from).collect()
}

async fn next(inbound: &mut Inbound<StateFrame>) -> Result<Arrival<StateFrame>, FetchError> {
    let next = tokio::time::timeout(FRAME_TIMEOUT, poll_fn(|cx| inbound.poll_next(cx))).await;
    next.map_err(|_| FetchError::Silent(FRAME_TIMEOUT))
}

async fn receive(
    mut inbound: Inbound<StateFrame>,
    length: usize,
) -> Result<[Vec<f32>; STATE_VECTORS], FetchError> {
    let mut arriving = Arriving {
        vectors: std::array::from_fn(|_| vec![0.0; length]),
        length: length * FLOAT_BYTES,
        arrived: 0,
    };
    while arriving.room() > 0 {
        match next(&mut inbound).await? {
            Arrival::Event(Event::Chunk(bytes)) => arriving.expect(bytes)?,
            Arrival::Event(Event::Values(values)) => {
                arriving.take_in(&values);
                crashpoint::reach!("transfer.receiving");
            }
            Arrival::Event(Event::Frame(StateFrame { body: Some(Body::Values(values)) })) => {
                arriving.expect(values.len())?;
                arriving.take_in(&values);
            }
            Arrival::Event(Event::Frame(_)) => {
                return Err(Malformed("a state with two headers".into()).into());
            }
            Arrival::Malformed(malformed) => return Err(malformed.into()),
            Arrival::Closed(reason) => {
                return Err(FetchError::Refused(format!("the state was cut off: {reason}")));
            }
        }
    }
    Ok(arriving.vectors)
}

/// The vectors of a state, as far as they have arrived.
struct Arriving {
    vectors: [Vec<f32>; STATE_VECTORS],
    /// Bytes of each vector.
    length: usize,
    /// Bytes of all vectors that have arrived.
    arrived: usize,
}

impl Arriving {
    /// The bytes still missing in the current vector.
    fn room(&self) -> usize {
        if self.arrived == self.length * STATE_VECTORS {
            return 0;
        }
        self.length - self.arrived % self.length
    }

    /// Checks the size of the next chunk; a chunk lies within one vector.
    fn expect(&self, bytes: usize) -> Result<(), Malformed> {
        let fits = bytes > 0 && bytes.is_multiple_of(FLOAT_BYTES) && bytes <= self.room();
        let wrong = || Malformed(format!("{bytes} bytes where a state has no room"));
        fits.then_some(()).ok_or_else(wrong)
    }

    /// Copies bytes of a checked chunk.
    fn take_in(&mut self, values: &Bytes) {
        let (vector, begin) = (self.arrived / self.length, self.arrived % self.length);
        let vector = self.vectors[vector].as_mut_bytes();
        vector[begin..begin + values.len()].copy_from_slice(values);
        self.arrived += values.len();
    }
}
