//! Members in one process that connect over gRPC. All tests are one program, because each program
//! with gRPC takes long to compile.

mod hosts;
mod nccl;
mod sockets;
mod state;
#[path = "../support/stories.rs"]
mod stories;
#[cfg(target_os = "linux")]
mod two_level;
mod wire;
