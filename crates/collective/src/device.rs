//! All-reduce between members whose partials are in the memory of devices, such as GPUs. The devices
//! exchange the partials directly, and each device adds them up itself.
//!
//! One crate computes on the device, another crate moves the floats. The two crates know each other only
//! through these traits.

use std::{fmt, sync::Arc};

use crate::{Contribution, Interrupted, Node, Outcome, Round};

/// A device's queue (a CUDA stream). The device does the queued work in order; the calling thread does
/// not wait.
pub trait DeviceQueue: Send + Sync {
    /// Makes the device the current one of the calling thread.
    ///
    /// # Errors
    /// The message of the device's driver.
    fn enter(&self) -> Result<(), String>;

    /// The driver's handle of the queue, as an address.
    fn handle(&self) -> usize;

    /// Whether all work in the queue is done.
    ///
    /// # Errors
    /// As [`DeviceQueue::enter`].
    fn is_idle(&self) -> Result<bool, String>;
}

/// Host memory whose address does not change while this value lives. A device can register the memory, and
/// then copies to and from it directly.
pub trait HostMemory: Send + Sync {
    /// The address of its first byte.
    fn address(&self) -> usize;

    /// The number of bytes.
    fn bytes(&self) -> usize;
}

impl fmt::Debug for dyn HostMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostMemory").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

/// Floats in a device's memory, allocated for as long as this value lives.
pub trait DeviceMemory: DeviceQueue {
    /// The device address of the first float.
    fn address(&self) -> usize;

    /// The number of floats.
    fn floats(&self) -> usize;
}

impl fmt::Debug for dyn DeviceMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceMemory").field("floats", &self.floats()).finish_non_exhaustive()
    }
}

/// The exchange of partials between the members' devices.
///
/// A generation opens the exchange once. Then each round of kind [`Train`](crate::Kind::Train) is a
/// [`begin`](Self::begin) and a [`finish`](Self::finish), after which each device has the partials of all
/// members. Rounds of other kinds are ordinary all-reduces.
pub trait DeviceExchange {
    /// The nodes of all members in shard order, which is the order of their partials in the memory.
    fn all_nodes(&mut self) -> Vec<Node>;

    /// Connects the devices. `memory` has room for one partial of every node of all members; a member
    /// without device memory gives `None` and exchanges its partials through the host.
    ///
    /// # Errors
    /// [`Interrupted`] when a library call fails, a member does not connect in time, or the generation
    /// ended.
    fn open(
        &mut self,
        round: Round,
        memory: Option<Arc<dyn DeviceMemory>>,
    ) -> Result<(), Interrupted>;

    /// Puts the exchange of partials into the device's queue, behind the work that computes this member's
    /// partials.
    ///
    /// # Errors
    /// [`Interrupted`]; the queued work has then been ended.
    fn begin(&mut self, round: Round) -> Result<(), Interrupted>;

    /// Exchanges the contributions, and waits until the partials of all members have arrived. After a
    /// success all members have contributed to the same round, and the state may be advanced.
    ///
    /// # Errors
    /// As [`AllReduce::all_reduce`](crate::AllReduce::all_reduce). Nothing writes to the memory after an
    /// error.
    fn finish(&mut self, round: Round, contribution: &Contribution)
    -> Result<Outcome, Interrupted>;

    /// Disconnects the devices in agreement with all members, after their last round. An exchange that is
    /// dropped without this call is ended at once, whatever the other members do.
    fn close(&mut self);
}
