//! The wire: the code generated from `proto/`, its conversion to domain types, and the table
//! from errors to gRPC codes.
//!
//! Every message of a peer passes through [`convert`] before any other code uses it. There a
//! missing field, a wrong length or an unknown kind becomes a [`Malformed`], never a panic.

pub mod codec;
pub mod convert;
pub mod door;
pub mod status;

/// The generated messages, clients and servers.
#[allow(missing_docs, unreachable_pub, missing_debug_implementations)]
#[allow(clippy::all, clippy::too_many_lines)]
pub mod wire {
    tonic::include_proto!("lockstep.v1");
}

pub use convert::Malformed;

/// The descriptors of `proto/`, for gRPC server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The health service's name for "members compute". The coordinator's readiness for workers has the
/// name of its gRPC service.
pub const TRAINING_HEALTH: &str = "lockstep.v1.Training";

/// Version of the protocol that this build speaks.
pub const PROTOCOL_VERSION: u32 = 6;

/// Most bytes of a message on the control stream. The `Start` message of thousands of members fits.
pub const CONTROL_MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Most bytes of file content in one chunk of the data set.
pub const FILE_CHUNK_BYTES: usize = 1 << 18;

/// Most bytes of a message to a board that follows a run: a picture, or rows.
pub const FOLLOW_MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Most bytes of a gradient for one-hop exchange: every member receives all partials and adds up the
/// whole gradient itself. See `worker.proto`.
pub const ONE_HOP_BYTES_MAX: usize = 32 << 10;

/// Most nodes of all members together for which a gradient of any size is exchanged in one hop.
pub const ONE_HOP_NODES_MAX: usize = 2;

/// Most floats in one chunk of an all-reduce.
pub const CHUNK_FLOATS: usize = 1 << 18;

/// Most bytes of a frame of an all-reduce: a full chunk, or a header with thousands of
/// tallies.
pub const FRAME_BYTES_MAX: usize = 4 * CHUNK_FLOATS + (1 << 16);
