//! Members in one process that meet over gRPC; one program, for each that uses gRPC takes long to
//! compile.

mod hosts;
mod nccl;
mod sockets;
mod state;
#[path = "../support/stories.rs"]
mod stories;
#[cfg(target_os = "linux")]
mod two_level;
mod wire;
