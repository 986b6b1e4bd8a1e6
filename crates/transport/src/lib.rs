//! Moves partials and sums between the members of a generation.
//!
//! A transport implements [`collective::AllReduce`] for a blocking training thread, while
//! the bytes move on a tokio runtime. The crate `collective` alone decides what is added, and in
//! which order.
//!
//! Start reading at [`grpc`], for members on any hosts, or at [`shm`], for members on one host.
//! [`two_level`] combines the two for several members on each of several hosts, and [`nccl`] is for
//! members that compute on GPUs. All transports connect a [`Group`]. With [`state`], a worker that is
//! behind copies the state of another worker.

mod allocator;
mod group;
pub mod grpc;
pub mod nccl;
#[cfg(target_os = "linux")]
pub mod shm;
pub mod state;
#[cfg(target_os = "linux")]
pub mod two_level;

use collective::AllReduce;

pub use allocator::{keep_freed_blocks, release_freed_blocks};
pub use group::{Group, GroupError, Peer};
pub use grpc::{ConnectError, Endpoint, Grpc, Listener};

/// A generation that this member is connected to.
pub struct Connected {
    /// The all-reduce, for the training thread.
    pub collective: Box<dyn AllReduce + Send>,
    /// Ends the generation from another thread.
    pub abort: Abort,
}

impl std::fmt::Debug for Connected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connected").field("abort", &self.abort).finish_non_exhaustive()
    }
}

/// Ends a generation from outside its training thread, for any transport.
#[derive(Clone, Debug)]
pub enum Abort {
    /// Aborts a generation connected by streams.
    Grpc(grpc::Abort),
    /// Aborts a generation that shares memory.
    #[cfg(target_os = "linux")]
    Shm(shm::Abort),
    /// Aborts a generation that uses both.
    #[cfg(target_os = "linux")]
    TwoLevel(two_level::Abort),
    /// Aborts a generation whose members compute on GPUs.
    Nccl(nccl::Abort),
}

impl Abort {
    /// Makes the current round, or else the next one, end with
    /// [`collective::Interrupted::Aborted`].
    pub fn abort(&self) {
        match self {
            Self::Grpc(abort) => abort.abort(),
            #[cfg(target_os = "linux")]
            Self::Shm(abort) => abort.abort(),
            #[cfg(target_os = "linux")]
            Self::TwoLevel(abort) => abort.abort(),
            Self::Nccl(abort) => abort.abort(),
        }
    }
}

impl From<Grpc> for Connected {
    fn from(grpc: Grpc) -> Self {
        Self { abort: Abort::Grpc(grpc.abort_handle()), collective: Box::new(grpc) }
    }
}

#[cfg(target_os = "linux")]
impl From<shm::Shm> for Connected {
    fn from(shm: shm::Shm) -> Self {
        Self { abort: Abort::Shm(shm.abort_handle()), collective: Box::new(shm) }
    }
}

#[cfg(target_os = "linux")]
impl From<two_level::TwoLevel> for Connected {
    fn from(two_level: two_level::TwoLevel) -> Self {
        let abort = Abort::TwoLevel(two_level.abort_handle());
        Self { abort, collective: Box::new(two_level) }
    }
}

impl From<nccl::Nccl> for Connected {
    fn from(nccl: nccl::Nccl) -> Self {
        Self { abort: Abort::Nccl(nccl.abort_handle()), collective: Box::new(nccl) }
    }
}
