//! The arithmetic of an all-reduce, without any way to move bytes.
//!
//! A step's gradient is the sum over `S` shards, added along one fixed binary tree
//! ([`tree`]), so that the bits of the sum do not depend on who computed which shard.
//! Members own contiguous shard ranges, contribute one partial per maximal tree node inside
//! their range, and each adds up one segment of the flat gradient for all ([`plan`]). Members that
//! share a host first add up their partials there, so that fewer bytes travel ([`hosts`]).
//! Besides the gradient, every step carries a few numbers ([`round`]).
//!
//! Start reading at [`AllReduce`], the one trait through which a training thread reaches the
//! other members. The crate `transport` moves the bytes; [`Local`] is the all-reduce of a
//! single member, for examples and tests.

pub mod device;
pub mod digest;
pub mod hosts;
pub mod ids;
pub mod local;
pub mod plan;
pub mod round;
pub mod shared;
pub mod tree;
pub mod vectors;

use std::sync::Arc;

pub use device::{DeviceExchange, DeviceMemory, DeviceQueue, HostMemory};
pub use digest::Digest;
pub use hosts::Hosts;
pub use ids::{Generation, Rank, ShardRange, Step};
pub use local::Local;
pub use plan::{Plan, Reducer, Share};
pub use round::{
    Contribution, Control, Divergence, Header, Interrupted, Kind, Outcome, Round, TERMS_MAX, Tally,
    Timing,
};
pub use shared::SharedState;
pub use tree::Node;
pub use vectors::{STATE_VECTORS, StateVectors};

/// Sums partial gradients over the members of one generation.
///
/// The implementation owns the memory of the partials and of the sum, so that a transport
/// can share it between processes instead of copying.
pub trait AllReduce {
    /// The tree nodes whose partials this member contributes, in shard order.
    fn nodes(&self) -> &[Node];

    /// The flat gradient buffer, `length` floats, of the partial at `index` in
    /// [`nodes`](Self::nodes). The caller fills the buffer before every call of
    /// [`all_reduce`](Self::all_reduce) of kind [`Kind::Train`].
    fn partial_mut(&mut self, index: usize) -> &mut [f32];

    /// Adds up all members' partials and tallies. Blocks until every member has contributed to
    /// the same round.
    ///
    /// # Errors
    /// [`Interrupted`] when the generation ended, a peer was lost or broke the protocol, or
    /// the members' digests differ. The partials and the sum are then undefined.
    fn all_reduce(
        &mut self,
        round: Round,
        contribution: &Contribution,
    ) -> Result<Outcome, Interrupted>;

    /// Every member's contribution to the last successful round, in rank order.
    fn contributions(&self) -> &[Contribution];

    /// The summed flat gradient of the last successful round of kind [`Kind::Train`].
    fn sum(&self) -> &[f32];

    /// The state that the members keep in shared memory; none if every member has its own. With
    /// a shared state, [`SharedState::gather`] and [`SharedState::advance`] replace the
    /// all-reduce of kind [`Kind::Train`], and [`sum`](Self::sum) is not used.
    fn shared_state(&mut self) -> Option<&mut dyn SharedState> {
        None
    }

    /// The memory of the partials and the sum, if its address is fixed.
    fn memory(&self) -> Option<Arc<dyn HostMemory>> {
        None
    }

    /// The exchange between the members' devices; none if the transport has none. The caller opens
    /// it before the first round.
    fn device_exchange(&mut self) -> Option<&mut dyn DeviceExchange> {
        None
    }
}
