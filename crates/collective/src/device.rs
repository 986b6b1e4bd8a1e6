//! All-reduce between members that keep partials in the memory of devices, such as GPUs: these exchange
//! them directly, and each device adds them up itself.
//!
//! What computes there and what moves the floats are different crates; each sees the other through these
//! traits.

use std::{fmt, sync::Arc};

use crate::{Contribution, Interrupted, Node, Outcome, Round};

/// A device's queue: it does its work in order, and the calling thread does not wait for it.
pub trait DeviceQueue: Send + Sync {
    /// Has the calling thread use the device.
    ///
    /// # Errors
    /// What the device's driver says.
    fn enter(&self) -> Result<(), String>;

    /// The queue, as the driver has it: an address.
    fn handle(&self) -> usize;

    /// Whether all work in the queue is done.
    ///
    /// # Errors
    /// As [`DeviceQueue::enter`].
    fn is_idle(&self) -> Result<bool, String>;
}

/// Memory of the host that stays where it is for as long as this value: a device that was told so copies
/// to and from there by itself.
pub trait HostMemory: Send + Sync {
    /// The address of its first byte.
    fn address(&self) -> usize;

    /// How many bytes there are.
    fn bytes(&self) -> usize;
}

impl fmt::Debug for dyn HostMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostMemory").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

/// Floats in a device's memory, which stay allocated for as long as this value.
pub trait DeviceMemory: DeviceQueue {
    /// The address of the first one there.
    fn address(&self) -> usize;

    /// How many there are.
    fn floats(&self) -> usize;
}

impl fmt::Debug for dyn DeviceMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceMemory").field("floats", &self.floats()).finish_non_exhaustive()
    }
}

/// The exchange of partials between the members' devices.
///
/// A generation opens it once. Then each round of kind [`Train`](crate::Kind::Train) is a
/// [`begin`](Self::begin) and a [`finish`](Self::finish), after which each device has the partials of all
/// members; rounds of other kinds are all-reduces as ever.
pub trait DeviceExchange {
    /// The nodes of all members in shard order, which is the order of their partials in the memory.
    fn all_nodes(&mut self) -> Vec<Node>;

    /// Connects the devices. The memory has room for a partial of each of all nodes; a member that has
    /// none exchanges partials by way of the host.
    ///
    /// # Errors
    /// [`Interrupted`] when a library refuses, a member does not come in time, or the generation ended.
    fn open(
        &mut self,
        round: Round,
        memory: Option<Arc<dyn DeviceMemory>>,
    ) -> Result<(), Interrupted>;

    /// Puts the exchange of partials into the device's queue, behind what computes this member's.
    ///
    /// # Errors
    /// [`Interrupted`]; what was begun has then been ended.
    fn begin(&mut self, round: Round) -> Result<(), Interrupted>;

    /// Exchanges what travels beside the partials, and waits until these are there. When all members
    /// have contributed the same round and nothing has failed, the state may be advanced.
    ///
    /// # Errors
    /// As [`AllReduce::all_reduce`](crate::AllReduce::all_reduce); nothing writes to the memory any more.
    fn finish(&mut self, round: Round, contribution: &Contribution)
    -> Result<Outcome, Interrupted>;

    /// Disconnects the devices in agreement with all members, after their last round. An exchange that is
    /// dropped without this call is ended at once, whatever the other members do.
    fn close(&mut self);
}
