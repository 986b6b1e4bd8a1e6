//! The arithmetic of an all-reduce, without any way to move bytes.
//!
//! A step's gradient is the sum over `S` shards, added along one fixed binary tree
//! ([`tree`]), so that the bits of the sum do not depend on who computed which shard.
//! Members own contiguous shard ranges, contribute one partial per maximal tree node inside
//! their range, and each adds up one segment of the flat gradient for all ([`plan`]). Where
//! several members share a host, they add up what they can there, and less travels ([`hosts`]).
//! Besides the gradient, every step carries a few numbers ([`round`]).
//!
//! Start reading at [`AllReduce`], the one trait through which a training thread sees the
//! world. How bytes travel is the business of the crate `transport`; [`Local`] is the
//! all-reduce of a lone member, for examples and tests.

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
    /// [`nodes`](Self::nodes). To be filled before every call of
    /// [`all_reduce`](Self::all_reduce) of kind [`Kind::Train`].
    fn partial_mut(&mut self, index: usize) -> &mut [f32];

    /// Adds up all members' partials and what travels with them. Blocks until every member
    /// has contributed the same round.
    ///
    /// # Errors
    /// [`Interrupted`] when the generation ended, a peer was lost or broke the protocol, or
    /// the members' digests differ. The partials and the sum are then undefined.
    fn all_reduce(
        &mut self,
        round: Round,
        contribution: &Contribution,
    ) -> Result<Outcome, Interrupted>;

    /// What every member brought to the last successful round, in rank order.
    fn contributions(&self) -> &[Contribution];

    /// The summed flat gradient of the last successful round of kind [`Kind::Train`].
    fn sum(&self) -> &[f32];

    /// The state that the members hold together, where they do. There is no sum then, and no
    /// all-reduce of kind [`Kind::Train`]; the state takes their place.
    fn shared_state(&mut self) -> Option<&mut dyn SharedState> {
        None
    }

    /// The memory that partials and sum are in, where it lasts.
    fn memory(&self) -> Option<Arc<dyn HostMemory>> {
        None
    }

    /// The exchange between the members' devices, where there is one: to be opened before the first
    /// round.
    fn device_exchange(&mut self) -> Option<&mut dyn DeviceExchange> {
        None
    }
}
