//! Which members share a host, and who adds up and sends what between hosts.
//!
//! The members of a host first add up, in memory, what they can: of the host's shards, one
//! partial for each maximal tree node. These alone travel between hosts, and the sums come back.
//! For that the flat vector has one *segment* for each host, which that host adds up for all;
//! and every member of a host takes a *lane* of each segment: of the segments of other hosts,
//! the part that it sends and takes back, of its own host's, the *span* that it adds up. So all
//! members carry the same share of what travels, and no float travels twice.
//!
//! Where every member is a host of its own, what remains is the plain exchange of segments.

use std::ops::Range;

use crate::{Node, Plan, Reducer, plan::divide};

/// The members of a generation by host.
///
/// Hosts are addressed by their index in the order of their first members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    plan: Plan,
    /// By host, its members in rank order.
    members: Vec<Vec<usize>>,
    /// By member, its host and its place among the members there.
    slots: Vec<(usize, usize)>,
    /// By host, in shard order.
    nodes: Vec<Vec<Node>>,
}

/// A part of a member's span that it adds up from one source on each of the other hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its place in the flat vector.
    pub range: Range<usize>,
    /// The members that send their hosts' partials, one of each other host, in host order.
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

    /// For each node of `host` the order of addition over its members' nodes, those of its
    /// first member first.
    #[must_use]
    pub fn reducers_within(&self, host: usize) -> Vec<Reducer> {
        let members = self.members[host].iter();
        let given: Vec<Node> =
            members.flat_map(|member| self.plan.nodes(*member)).copied().collect();
        self.nodes[host].iter().map(|node| Reducer::new(*node, &given)).collect()
    }

    /// The order of addition over all hosts' nodes, those of the first host first.
    #[must_use]
    pub fn reducer_between(&self) -> Reducer {
        Reducer::new(self.plan.root(), &self.nodes.concat())
    }

    /// The part of the flat vector that `host` adds up for all.
    #[must_use]
    pub fn segment(&self, host: usize) -> Range<usize> {
        divide(0..self.plan.length(), self.count(), host)
    }

    /// What of the segment of `host` is in the hands of `member`, on whichever host.
    #[must_use]
    pub fn lane(&self, member: usize, host: usize) -> Range<usize> {
        let (own, place) = self.slots[member];
        divide(self.segment(host), self.members[own].len(), place)
    }

    /// What `member` adds up for all hosts.
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
        // As fractions of a segment, the lanes overlap.
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
