//! All-reduce over gRPC: one bidirectional stream for each pair of members that exchange floats.
//! The code here works with hosts, whose members add up their partials before. In the plain gRPC
//! transport every member is a host of its own.
//!
//! [`Endpoint`] is the service of every worker; generations connect through it. [`Grpc`] is the
//! training thread's side of one connected generation. Between them, on the communication thread,
//! `exchange` does the rounds over a `link` with each peer. Below, `stream` sends bytes directly
//! from the gradient, and `parser` finds the floats in the bytes that arrive. The wire is ordinary
//! gRPC with ordinary protobuf, so generated stubs can take part.

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

use collective::Rank;
use protocol::door::{KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT};
use secure::Address;
use thiserror::Error;

use crate::GroupError;

pub use endpoint::Endpoint;
pub use handle::{Abort, Grpc};
pub use socket::Listener;

/// HTTP/2 frames of this size let a chunk travel in few pieces; the protocol's default of
/// 16 KiB costs more than twice the time.
const HTTP2_FRAME_BYTES: u32 = 1 << 20;

/// The most bytes in flight before the receiver acknowledges them, per stream and per connection.
const HTTP2_WINDOW_BYTES: u32 = 8 << 20;

/// How long a stream may take to send its hello, how long it may wait for its generation to connect,
/// and how long it may take to end after this side has ended it.
pub(crate) const STREAM_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a generation could not be connected.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The group cannot be a generation.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// A member did not answer.
    #[error("cannot connect to rank {rank} at {address}: {reason}")]
    Unreachable {
        /// The member.
        rank: Rank,
        /// The address at which it should listen.
        address: Address,
        /// The error.
        reason: String,
    },
    /// A member did not open its stream in time.
    #[error("rank {rank} did not connect within {seconds} s")]
    Absent {
        /// The member.
        rank: Rank,
        /// How long this member waited.
        seconds: u64,
    },
}
