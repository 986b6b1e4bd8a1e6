//! Messages to workers, as they wait to be sent. All members of a generation share one call, and its
//! message is built when it is sent: otherwise a generation of a thousand members would need a
//! thousand lists of a thousand entries at once.

use std::sync::Arc;

use collective::{Generation, Rank};
use protocol::wire::{self, CoordinatorMessage, Transport, coordinator_message::Body};
use secure::Key;

/// A message to a worker.
#[derive(Clone, Debug)]
pub(crate) enum Outbound {
    Plain(Body),
    /// The call to a generation, to its member of this rank.
    Call(Arc<Call>, Rank),
}

impl From<Outbound> for CoordinatorMessage {
    fn from(message: Outbound) -> Self {
        let body = match message {
            Outbound::Plain(body) => body,
            Outbound::Call(call, rank) => Body::Start(call.to(rank)),
        };
        Self { body: Some(body) }
    }
}

/// The call to a generation.
#[derive(Debug)]
pub(crate) struct Call {
    key: Key,
    generation: Generation,
    transport: Transport,
    /// Without the secrets, which differ for each receiver.
    members: Vec<wire::Member>,
    /// The arithmetic of the run so far and now: a fingerprint for each kind.
    arithmetic: Vec<String>,
    /// Whether the state stays on the members' GPUs.
    stays_on_gpus: bool,
}

impl Call {
    pub(super) fn new(
        key: Key,
        generation: Generation,
        transport: Transport,
        members: Vec<wire::Member>,
        arithmetic: Vec<String>,
        stays_on_gpus: bool,
    ) -> Self {
        Self { key, generation, transport, members, arithmetic, stays_on_gpus }
    }

    /// The message for one member.
    fn to(&self, rank: Rank) -> wire::Start {
        let member = |member: &wire::Member| {
            let secret = self.key.stream(self.generation, rank, Rank(member.rank));
            wire::Member { secret: secret.bytes().to_vec().into(), ..member.clone() }
        };
        wire::Start {
            generation: self.generation.0,
            members: self.members.iter().map(member).collect(),
            transport: self.transport.into(),
            rank: rank.0,
            proof: self.key.member(self.generation, rank).bytes().to_vec().into(),
            arithmetic: self.arithmetic.clone(),
            stays_on_gpus: self.stays_on_gpus,
        }
    }
}
