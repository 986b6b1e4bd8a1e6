//! A generation to connect, the same for every transport.

use collective::{Generation, Hosts, Plan, Rank, Share, plan::PlanError};
use secure::{Address, Secret};
use thiserror::Error;

/// A member of a generation, with its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its rank and shards.
    pub share: Share,
    /// The address at which it serves `AllReduce`.
    pub address: Address,
    /// The secret of the stream with it.
    pub secret: Secret,
    /// A number that is the same for members that can share memory; none for a member that cannot.
    pub memory_domain: Option<u32>,
}

/// A generation to connect.
#[derive(Clone, Debug)]
pub struct Group {
    /// The run; members of another run are refused.
    pub run_id: String,
    /// The generation; members of another one are refused.
    pub generation: Generation,
    /// Shards of the run.
    pub shards: u32,
    /// Floats in the flat gradient.
    pub length: usize,
    /// The rank of this member.
    pub rank: Rank,
    /// All members in rank order.
    pub peers: Vec<Peer>,
    /// Whether members that share memory keep one state in it, instead of a sum for each member's own
    /// state.
    pub shares_state: bool,
}

/// The error for a group that cannot be a generation.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum GroupError {
    /// The members do not divide the shards.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// This member is not in the list.
    #[error("rank {0} is not a member of the generation")]
    NotAMember(Rank),
}

impl Group {
    /// The plan, and this member's index in it.
    pub(crate) fn plan(&self) -> Result<(Plan, usize), GroupError> {
        let shares: Vec<Share> = self.peers.iter().map(|peer| peer.share).collect();
        let plan = Plan::new(self.shards, self.length, &shares)?;
        let me = plan.member(self.rank).ok_or(GroupError::NotAMember(self.rank))?;
        Ok((plan, me))
    }

    /// Whether no member with a lower rank shares memory with this one.
    #[must_use]
    pub fn is_first_of_its_host(&self) -> bool {
        let first = self.peers.iter().find(|peer| self.is_near(peer));
        first.is_none_or(|first| first.share.rank == self.rank)
    }

    /// Whether a member shares memory with this one.
    pub(crate) fn is_near(&self, peer: &Peer) -> bool {
        let me = self.peers.iter().find(|peer| peer.share.rank == self.rank);
        let domain = me.and_then(|me| me.memory_domain);
        domain.is_some() && peer.memory_domain == domain
    }

    /// The members by memory domain, and this member's index.
    pub(crate) fn hosts(&self) -> Result<(Hosts, usize), GroupError> {
        let (plan, me) = self.plan()?;
        let domains: Vec<_> = self.peers.iter().map(|peer| peer.memory_domain).collect();
        Ok((Hosts::new(plan, &domains), me))
    }
}
