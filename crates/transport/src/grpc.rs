//! All-reduce over gRPC: one bidirectional stream for each pair of members.
//!
//! [`Endpoint`] is the service that every worker hosts, and where generations connect;
//! [`Grpc`] is the training thread's side of one connected generation. Between them, on the
//! communication thread, `exchange` does the rounds over a `link` with each peer; below it,
//! `stream` sends bytes that lie in the gradient and `parser` finds the floats in those that
//! arrive. The wire is ordinary gRPC with ordinary protobuf, so generated stubs can take part.

pub(crate) mod connect;
mod endpoint;
mod exchange;
pub(crate) mod frames;
mod gate;
mod handle;
mod link;
pub(crate) mod parser;
mod pieces;
pub(crate) mod service;
mod socket;
pub(crate) mod stream;

use std::time::Duration;

use collective::{Generation, Rank, Share};
use protocol::door::{KEEP_ALIVE_INTERVAL, KEEP_ALIVE_PATIENCE};
use secure::{Address, Secret};
use thiserror::Error;

pub use endpoint::Endpoint;
pub use handle::{Abort, Grpc};

/// HTTP/2 frames of this size let a chunk travel in few pieces; the protocol's default of
/// 16 KiB costs more than twice the time.
const HTTP2_FRAME_BYTES: u32 = 1 << 20;

/// Bytes in flight before the receiver has to acknowledge, per stream and per connection.
const HTTP2_WINDOW_BYTES: u32 = 8 << 20;

/// How long a stream may take to send its hello, to wait for its generation to connect, and
/// to end after this side has ended it.
pub(crate) const STREAM_PATIENCE: Duration = Duration::from_secs(10);

/// A member of a generation, and where it serves `AllReduce`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its rank and shards.
    pub share: Share,
    /// Where it listens.
    pub address: Address,
    /// What the stream with it has to bring.
    pub secret: Secret,
}

/// A generation to connect.
#[derive(Clone, Debug)]
pub struct Group {
    /// The run; streams of another run are refused.
    pub run_id: String,
    /// The generation; streams of another one are refused.
    pub generation: Generation,
    /// Shards of the run.
    pub shards: u32,
    /// Floats in the flat gradient.
    pub length: usize,
    /// The rank of this member.
    pub rank: Rank,
    /// All members in rank order.
    pub peers: Vec<Peer>,
}

/// Why a generation could not be connected.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The members do not divide the shards.
    #[error(transparent)]
    Plan(#[from] collective::plan::PlanError),
    /// This member is not in the list.
    #[error("rank {0} is not a member of the generation")]
    NotAMember(Rank),
    /// A member did not answer.
    #[error("cannot connect to rank {rank} at {address}: {reason}")]
    Unreachable {
        /// The member.
        rank: Rank,
        /// Where it should listen.
        address: Address,
        /// What went wrong.
        reason: String,
    },
    /// A member did not open its stream in time.
    #[error("rank {rank} did not connect within {seconds} s")]
    Absent {
        /// The member.
        rank: Rank,
        /// How long it was waited for.
        seconds: u64,
    },
}
