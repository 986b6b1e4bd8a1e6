//! Moves partials and sums between the members of a generation.
//!
//! A transport implements [`collective::AllReduce`] for a blocking training thread, while
//! the bytes move on a tokio runtime. What is added to what, and in which order, is decided
//! in `collective` alone.
//!
//! Start reading at [`grpc`], for members anywhere, or at [`shm`], for those on one host.

pub mod grpc;
#[cfg(target_os = "linux")]
pub mod shm;

pub use grpc::{Abort, ConnectError, Endpoint, Group, Grpc, Peer};
