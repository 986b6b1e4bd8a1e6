//! Any split of the shards among members on any hosts gives the tree's sum bit by bit, and no
//! float travels needlessly.

#[path = "support/gradients.rs"]
mod gradients;

use collective::{Hosts, Node, Plan, Rank, ShardRange, Share};
use gradients::{bits, gradients, shares, tree_sum};
use proptest::prelude::*;

const SHARDS_MAX: u32 = 24;
const LENGTH_MAX: usize = 700;

/// The partials of one host's nodes, as its members add them up.
fn partials_of_host(hosts: &Hosts, host: usize, gradients: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let members = hosts.members(host).iter();
    let given: Vec<Vec<f32>> = members
        .flat_map(|member| hosts.plan().nodes(*member))
        .map(|node| tree_sum(*node, gradients))
        .collect();
    let mut reducers = hosts.reducers_within(host);
    let mut partials = vec![vec![f32::NAN; hosts.plan().length()]; reducers.len()];
    for (reducer, partial) in reducers.iter_mut().zip(&mut partials) {
        for member in hosts.members(host) {
            for segment in 0..hosts.count() {
                let lane = hosts.lane(*member, segment);
                reducer.add(|index| &given[index][lane.clone()], &mut partial[lane.clone()]);
            }
        }
    }
    partials
}

/// Simulates the whole exchange in one process; gives the sum on each host.
fn exchange(hosts: &Hosts, gradients: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let length = hosts.plan().length();
    let partials: Vec<Vec<Vec<f32>>> =
        (0..hosts.count()).map(|host| partials_of_host(hosts, host, gradients)).collect();
    let mut sums = vec![vec![f32::NAN; length]; hosts.count()];
    for member in 0..hosts.plan().members() {
        let own = hosts.host(member);
        for part in hosts.parts(member) {
            // The other hosts' partials have arrived; the own host's partials are in memory.
            let terms: Vec<&[f32]> = (0..hosts.count())
                .flat_map(|host| partials[host].iter().map(move |partial| (host, partial)))
                .map(|(host, partial)| {
                    let sent = part.sources.iter().any(|source| hosts.host(*source) == host);
                    assert!(sent != (host == own), "each other host sends once");
                    &partial[part.range.clone()]
                })
                .collect();
            let mut sum = vec![f32::NAN; part.range.len()];
            hosts.reducer_between().add(|index| terms[index], &mut sum);
            sums[own][part.range.clone()].copy_from_slice(&sum);
            for source in &part.sources {
                sums[hosts.host(*source)][part.range.clone()].copy_from_slice(&sum);
            }
        }
    }
    sums
}

/// Floats that a host sends in a step: partials of the other hosts' segments, and sums of its own
/// segment.
fn sent(hosts: &Hosts, host: usize) -> usize {
    let to_others = |member: &usize| {
        let to = |other: usize| {
            let partials = hosts.passed(*member, other).len() * hosts.nodes(host).len();
            partials + hosts.passed(other, *member).len()
        };
        hosts.linked(*member).map(to).sum::<usize>()
    };
    hosts.members(host).iter().map(to_others).sum()
}

fn any_hosts() -> impl Strategy<Value = (u32, Hosts)> {
    let cuts = prop::collection::vec(any::<u32>(), 0..8);
    let labels = prop::collection::vec(prop::option::weighted(0.8, 0..4_u32), 9);
    let order = Just((0..9_usize).collect::<Vec<_>>()).prop_shuffle();
    (1..=SHARDS_MAX, cuts, labels, order, 0..LENGTH_MAX).prop_map(
        |(shards, cuts, labels, order, length)| {
            let mut shares = shares(shards, &cuts);
            // The order of the members' shards is arbitrary.
            let ranges: Vec<ShardRange> = shares.iter().map(|share| share.shards).collect();
            let order = order.into_iter().filter(|place| *place < ranges.len());
            shares.iter_mut().zip(order).for_each(|(share, place)| share.shards = ranges[place]);
            (shards, Hosts::new(Plan::new(shards, length, &shares).unwrap(), &labels))
        },
    )
}

proptest! {
    #[test]
    fn any_split_over_any_hosts_gives_the_bits_of_the_tree(
        (shards, hosts) in any_hosts(),
        seed in any::<u32>(),
    ) {
        let gradients = gradients(shards, hosts.plan().length(), seed);
        let expected = bits(&tree_sum(Node::root(shards), &gradients));
        for sum in exchange(&hosts, &gradients) {
            prop_assert_eq!(bits(&sum), expected.clone());
        }
    }

    #[test]
    fn spans_partition_the_vector_and_parts_partition_a_span((_, hosts) in any_hosts()) {
        let members = || 0..hosts.plan().members();
        let mut spans: Vec<_> = members().map(|member| hosts.span(member)).collect();
        spans.sort_unstable_by_key(|span| (span.start, span.end));
        prop_assert!(spans.windows(2).all(|pair| pair[0].end == pair[1].start));
        prop_assert_eq!(spans.last().unwrap().end, hosts.plan().length());
        for member in members() {
            let parts = hosts.parts(member);
            let lengths: usize = parts.iter().map(|part| part.range.len()).sum();
            prop_assert_eq!(lengths, hosts.span(member).len());
            prop_assert!(parts.windows(2).all(|pair| pair[0].range.end == pair[1].range.start));
        }
    }

    #[test]
    fn what_passes_between_two_passes_over_a_link((_, hosts) in any_hosts()) {
        let members = || 0..hosts.plan().members();
        for (one, other) in members().flat_map(|one| members().map(move |other| (one, other))) {
            prop_assert_eq!(hosts.are_linked(one, other), hosts.are_linked(other, one));
            if hosts.host(one) != hosts.host(other) && !hosts.are_linked(one, other) {
                prop_assert!(hosts.passed(one, other).is_empty());
            }
        }
        for member in members() {
            for host in (0..hosts.count()).filter(|host| *host != hosts.host(member)) {
                let is_there = |other: usize| hosts.host(other) == host;
                prop_assert!(hosts.linked(member).any(is_there), "{member} hears nothing of {host}");
            }
        }
    }

    #[test]
    fn members_apart_exchange_the_segments_of_the_plan((_, hosts) in any_hosts()) {
        let plan = hosts.plan().clone();
        let apart = Hosts::apart(plan.clone());
        prop_assert!(apart.are_apart());
        for member in 0..plan.members() {
            prop_assert_eq!(apart.span(member), plan.segment(member));
            prop_assert_eq!(apart.nodes(member), plan.nodes(member));
            prop_assert_eq!(apart.linked(member).count(), plan.members() - 1);
        }
    }
}

/// `count` hosts with `members` members each; every member has one shard, and neighbours share a
/// host.
fn even(count: usize, members: usize, length: usize) -> Hosts {
    let all = u32::try_from(count * members).unwrap();
    let share =
        |rank| Share { rank: Rank(rank), shards: ShardRange { start: rank, end: rank + 1 } };
    let shares: Vec<Share> = (0..all).map(share).collect();
    let labels: Vec<_> = (0..count * members).map(|member| Some(member / members)).collect();
    Hosts::new(Plan::new(all, length, &shares).unwrap(), &labels)
}

#[test]
fn even_hosts_send_the_least_that_an_all_reduce_can_and_each_lane_its_share() {
    const LENGTH: usize = 16 * 960;
    for (count, members) in [(2, 2), (2, 4), (4, 2), (8, 8)] {
        let hosts = even(count, members, LENGTH);
        for host in 0..count {
            assert_eq!(sent(&hosts, host), 2 * (count - 1) * LENGTH / count, "{count}x{members}");
        }
        for member in 0..count * members {
            // The lanes are equal, so a member has one link to each other host.
            assert_eq!(hosts.linked(member).count(), count - 1);
            assert_eq!(hosts.span(member).len(), LENGTH / count / members);
        }
    }
}

#[test]
fn uneven_hosts_send_a_partial_for_each_of_their_nodes() {
    const LENGTH: usize = 960;
    let ranges = [(0, 1), (1, 2), (2, 3), (3, 4)];
    let shares: Vec<Share> = (0..)
        .zip(ranges)
        .map(|(rank, (start, end))| Share { rank: Rank(rank), shards: ShardRange { start, end } })
        .collect();
    let labels = [Some(0), Some(0), Some(0), Some(1)];
    let hosts = Hosts::new(Plan::new(4, LENGTH, &shares).unwrap(), &labels);
    // The shards 0..3 are two nodes, 0..2 and 2..3.
    assert_eq!([sent(&hosts, 0), sent(&hosts, 1)], [3 * LENGTH / 2, LENGTH]);
}
