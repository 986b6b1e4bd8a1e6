//! Members whose partials stay in their GPUs' memory: every GPU gets the partials of all members, and adds
//! them up itself.

use std::{
    mem,
    ops::Range,
    sync::{Arc, atomic::AtomicBool},
};

use collective::{DeviceMemory, DeviceQueue, Node, Plan};

use super::{
    communicator::{Communicator, Transfer, UniqueId},
    library::{Collectives, NcclError},
};

/// The nodes of all members in shard order, and the range of each member's among them.
pub(super) struct Nodes {
    pub(super) all: Vec<Node>,
    by_member: Vec<Range<usize>>,
}

impl Nodes {
    pub(super) fn of(plan: &Plan) -> Self {
        let members = 0..plan.members();
        let mut all: Vec<Node> =
            members.clone().flat_map(|member| plan.nodes(member)).copied().collect();
        all.sort_unstable_by_key(|node| node.start);
        // A member's shards follow each other, and so do its nodes.
        let place = |member: usize| {
            let nodes = plan.nodes(member);
            let first = all.iter().position(|node| Some(node) == nodes.first()).unwrap_or_default();
            first..first + nodes.len()
        };
        Self { by_member: members.map(place).collect(), all }
    }
}

/// A member's connection to the others.
pub(super) struct OnDevice {
    memory: Arc<dyn DeviceMemory>,
    transfers: Vec<Transfer>,
    /// None once a round has failed, or the members have left.
    communicator: Option<Communicator>,
}

impl OnDevice {
    /// Waits for all members.
    pub(super) fn join(
        nccl: Collectives,
        memory: Arc<dyn DeviceMemory>,
        (plan, me): (&Plan, usize),
        id: &UniqueId,
        aborted: &AtomicBool,
    ) -> Result<Self, NcclError> {
        let (nodes, length) = (Nodes::of(plan), plan.length());
        assert_eq!(memory.floats(), nodes.all.len() * length, "a partial for each node");
        let transfer = |of: usize, member: usize, goes: bool| {
            let Range { start, end } = nodes.by_member[of];
            let address = memory.address() + start * length * size_of::<f32>();
            Transfer { member, address, floats: (end - start) * length, goes }
        };
        let others = (0..plan.members()).filter(|member| *member != me);
        let transfers =
            others.flat_map(|other| [transfer(me, other, true), transfer(other, other, false)]);
        let transfers = transfers.collect();
        let queue: Arc<dyn DeviceQueue> = Arc::clone(&memory) as _;
        let communicator = Communicator::join(nccl, queue, id, plan.members(), me, aborted)?;
        Ok(Self { memory, transfers, communicator: Some(communicator) })
    }

    /// Puts the exchange into the queue.
    pub(super) fn begin(&self) -> Result<(), NcclError> {
        self.memory.enter().map_err(NcclError::Gpu)?;
        self.communicator.as_ref().ok_or(NcclError::Aborted)?.begin(&self.transfers)
    }

    /// Waits until all partials are there.
    pub(super) fn finish(&self, aborted: &AtomicBool) -> Result<(), NcclError> {
        self.memory.enter().map_err(NcclError::Gpu)?;
        self.communicator.as_ref().ok_or(NcclError::Aborted)?.finish(aborted)
    }

    /// Ends the communicator by `end`: [`Communicator::leave`] or [`Communicator::close`]. Memory that the
    /// GPU may still use is not freed.
    pub(super) fn end(&mut self, end: impl FnOnce(Communicator) -> bool) {
        if self.communicator.take().is_some_and(|communicator| !end(communicator)) {
            mem::forget(Arc::clone(&self.memory));
        }
    }
}

impl Drop for OnDevice {
    fn drop(&mut self) {
        self.end(Communicator::close);
    }
}
