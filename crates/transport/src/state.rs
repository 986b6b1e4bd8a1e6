//! State transfer: a worker that is behind takes over the state of one that is not.
//!
//! Served beside the all-reduce, at the same address, by the [`Donor`]. The donor's training
//! thread makes a [`Snapshot`] between two steps; from then on it is not held up. Floats are
//! sent from where the snapshot has them, and copied once where they arrive: no codec is between.

mod donor;

use std::{fmt, future::poll_fn, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use collective::{STATE_VECTORS, StateVectors, Tally};
use protocol::{
    Malformed,
    convert::printable,
    wire::{FetchRequest, StateFrame, StateHeader, state_frame::Body},
};
use secure::{Address, Secret, Security};
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
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(20);

/// How long a donor may send nothing, once the snapshot is made.
const FRAME_PATIENCE: Duration = Duration::from_secs(5);

/// A training state between two steps, to be given away. The state is sent from where it is.
#[derive(Clone)]
pub struct Snapshot {
    /// Updates that it has seen.
    pub step: u64,
    /// What each epoch begun so far has counted.
    pub epochs: Vec<Tally>,
    /// Validation losses after each epoch that was completed.
    pub validation: Vec<f64>,
    /// Parameters, first moments and second moments, flat.
    pub vectors: Arc<dyn StateVectors>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("step", &self.step).finish_non_exhaustive()
    }
}

/// A training state that another worker gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fetched {
    /// Updates that it has seen.
    pub step: u64,
    /// What each epoch begun so far has counted.
    pub epochs: Vec<Tally>,
    /// Validation losses after each epoch that was completed.
    pub validation: Vec<f64>,
    /// Parameters, first moments and second moments, flat.
    pub vectors: [Vec<f32>; STATE_VECTORS],
}

impl Fetched {
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
pub async fn fetch(source: &Source, run_id: &str, length: usize) -> Result<Fetched, FetchError> {
    let patience = SNAPSHOT_PATIENCE + FRAME_PATIENCE;
    let opened = tokio::time::timeout(patience, open(source, run_id)).await;
    let mut inbound = opened.map_err(|_| FetchError::Silent(patience))??;
    let Arrival::Event(Event::Frame(StateFrame { body: Some(Body::Header(header)) })) =
        next(&mut inbound).await?
    else {
        return Err(Malformed("a state without a header".into()).into());
    };
    let epochs = epochs(&header, length)?;
    let vectors = receive(inbound, length).await?;
    let StateHeader { step, validation, .. } = header;
    Ok(Fetched { step, epochs, validation, vectors })
}

/// Asks for the state, and waits until it begins to come.
async fn open(source: &Source, run_id: &str) -> Result<Inbound<StateFrame>, FetchError> {
    let refused = |error: &dyn std::error::Error| FetchError::Refused(printable(&cause(error)));
    let Source { address, secret, security } = source;
    let channel = channel(address, security).await.map_err(|error| refused(&error))?;
    let mut request = BytesMut::new();
    let secret = Bytes::copy_from_slice(secret.bytes());
    frames::put_message(&mut request, &FetchRequest { run_id: run_id.to_owned(), secret });
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
    let next = tokio::time::timeout(FRAME_PATIENCE, poll_fn(|cx| inbound.poll_next(cx))).await;
    next.map_err(|_| FetchError::Silent(FRAME_PATIENCE))
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

/// The vectors of a state, as far as they have come.
struct Arriving {
    vectors: [Vec<f32>; STATE_VECTORS],
    /// Bytes of each.
    length: usize,
    /// Bytes that have come, of all.
    arrived: usize,
}

impl Arriving {
    /// Bytes that the vector in hand has still room for.
    fn room(&self) -> usize {
        if self.arrived == self.length * STATE_VECTORS {
            return 0;
        }
        self.length - self.arrived % self.length
    }

    /// Checks a chunk that is about to come; it lies within one vector.
    fn expect(&self, bytes: usize) -> Result<(), Malformed> {
        let fits = bytes > 0 && bytes.is_multiple_of(FLOAT_BYTES) && bytes <= self.room();
        let wrong = || Malformed(format!("{bytes} bytes where a state has no room"));
        fits.then_some(()).ok_or_else(wrong)
    }

    /// Takes in bytes of a chunk that was checked.
    fn take_in(&mut self, values: &Bytes) {
        let (vector, begin) = (self.arrived / self.length, self.arrived % self.length);
        let vector = self.vectors[vector].as_mut_bytes();
        vector[begin..begin + values.len()].copy_from_slice(values);
        self.arrived += values.len();
    }
}
