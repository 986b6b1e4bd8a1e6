//! Which members share a host, and which part of the flat vector each member adds up and sends.
//!
//! The members of a host first add up their partials in memory, to one partial for each maximal
//! tree node of the host's shards. Only these partials travel between hosts, and the sums come
//! back. The flat vector has one *segment* for each host, which the host adds up for all hosts.
//! Every member has a *lane* of each segment. In the segment of another host, the lane is the
//! part that the member sends, and gets back as a sum. In the segment of its own host, the lane
//! is the *span* that the member adds up. So all members send equally much, and no float
//! travels twice.
//!
//! If every member is alone on its host, this is the plain exchange of segments.

use std::ops::Range;

use crate::{Node, Plan, Reducer, plan::divide};

/// The members of a generation by host.
///
/// Hosts are addressed by their index in the order of their first members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    plan: Plan,
    /// For each host, its members in rank order.
    members: Vec<Vec<usize>>,
    /// For each member, its host and its place among the members of this host.
    slots: Vec<(usize, usize)>,
    /// For each host, its nodes in shard order.
    nodes: Vec<Vec<Node>>,
}

/// A part of a member's span. The member adds it up from one source on each of the other hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The range of the part in the flat vector.
    pub range: Range<usize>,
    /// The members that send their hosts' partials: one member of each other host, in host order.
    pub sources: Vec<usize>,
}

impl Hosts {
    /// The members of `plan` by host: those with equal labels share one. A member without a
    /// label is a host of its own.
    #[must_use]
    pub fn new<T: PartialEq>(plan: Plan, labels: &[Option<T>]) -> Self {
        let mut members: Vec<Vec<usize>> = Vec::new();
        let mut slots = Vec::new();
        for member in 0..plan.members() {
            let label = labels.get(member).and_then(Option::as_ref);
            let shares = |host: &Vec<usize>| label.is_some() && labels[host[0]].as_ref() == label;
            let host = members.iter().position(shares).unwrap_or(members.len());
            if host == members.len() {
                members.push(Vec::new());
            }
            slots.push((host, members[host].len()));
            members[host].push(member);
        }
        let nodes = |members: &Vec<usize>| {
            let ranges: Vec<_> = members.iter().map(|member| plan.shards(*member)).collect();
            plan.root().maximal_within(&ranges)
        };
        Self { nodes: members.iter().map(nodes).collect(), members, slots, plan }
    }

    /// Every member of `plan` as a host of its own.
    #[must_use]
    pub fn apart(plan: Plan) -> Self {
        Self::new::<()>(plan, &[])
    }

    /// The plan of all members.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The number of hosts.
    #[must_use]
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// Whether no host has more than one member.
    #[must_use]
    pub fn are_apart(&self) -> bool {
        self.count() == self.plan.members()
    }

    /// The host of `member`.
    #[must_use]
    pub fn host(&self, member: usize) -> usize {
        self.slots[member].0
    }

    /// The members of `host`, in rank order.
    #[must_use]
    pub fn members(&self, host: usize) -> &[usize] {
        &self.members[host]
    }

    /// The maximal tree nodes of the shards of `host`, in shard order.
    #[must_use]
    pub fn nodes(&self, host: usize) -> &[Node] {
        &self.nodes[host]
    }

    /// The plan of the members of `host` among themselves.
    #[must_use]
    pub fn plan_within(&self, host: usize) -> Plan {
        self.plan.among(&self.members[host])
    }

    /// For each node of `host`, the order of addition over its members' nodes; the first member's
    /// nodes come first.
    #[must_use]
    pub fn reducers_within(&self, host: usize) -> Vec<Reducer> {
        let members = self.members[host].iter();
        let given: Vec<Node> =
            members.flat_map(|member| self.plan.nodes(*member)).copied().collect();
        self.nodes[host].iter().map(|node| Reducer::new(*node, &given)).collect()
    }

    /// The order of addition over all hosts' nodes; the first host's nodes come first.
    #[must_use]
    pub fn reducer_between(&self) -> Reducer {
        Reducer::new(self.plan.root(), &self.nodes.concat())
    }

    /// The part of the flat vector that `host` adds up for all.
    #[must_use]
    pub fn segment(&self, host: usize) -> Range<usize> {
        divide(0..self.plan.length(), self.count(), host)
    }

    /// The lane of `member` in the segment of `host`; the member may be on any host.
    #[must_use]
    pub fn lane(&self, member: usize, host: usize) -> Range<usize> {
        let (own, place) = self.slots[member];
        divide(self.segment(host), self.members[own].len(), place)
    }

    /// The part of the flat vector that `member` adds up for all hosts.
    #[must_use]
    pub fn span(&self, member: usize) -> Range<usize> {
        self.lane(member, self.host(member))
    }

    /// The part of the flat vector that goes from `sender` to `receiver`, a member of another host, as
    /// partials, and comes back as the sum.
    #[must_use]
    pub fn passed(&self, sender: usize, receiver: usize) -> Range<usize> {
        let (lane, span) = (self.lane(sender, self.host(receiver)), self.span(receiver));
        let start = lane.start.max(span.start);
        start..lane.end.min(span.end).max(start)
    }

    /// Whether two members exchange anything. Every member is linked to at least one of each
    /// other host.
    #[must_use]
    pub fn are_linked(&self, one: usize, other: usize) -> bool {
        let ((host, place), (other_host, other_place)) = (self.slots[one], self.slots[other]);
        let (lanes, other_lanes) = (self.members[host].len(), self.members[other_host].len());
        // The members are linked if their lanes, as fractions of a segment, overlap.
        host != other_host
            && place * other_lanes < (other_place + 1) * lanes
            && other_place * lanes < (place + 1) * other_lanes
    }

    /// The members that `member` is linked to, in rank order.
    pub fn linked(&self, member: usize) -> impl Iterator<Item = usize> {
        (0..self.plan.members()).filter(move |other| self.are_linked(member, *other))
    }

    /// The span of `member`, cut where its sources change.
    #[must_use]
    pub fn parts(&self, member: usize) -> Vec<Part> {
        let span = self.span(member);
        let inner = self.linked(member).map(|source| self.passed(source, member).start);
        let mut cuts: Vec<usize> = inner.filter(|cut| span.contains(cut)).collect();
        cuts.extend([span.start, span.end]);
        cuts.sort_unstable();
        cuts.dedup();
        let part = |cut: &[usize]| {
            let brings = |source: &usize| self.passed(*source, member).contains(&cut[0]);
            let mut sources: Vec<usize> = self.linked(member).filter(brings).collect();
            sources.sort_unstable_by_key(|source| self.host(*source));
            Part { range: cut[0]..cut[1], sources }
        };
        cuts.windows(2).map(part).collect()
    }
}
