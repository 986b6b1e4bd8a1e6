//! Members in one process, over real sockets: the sum has the bits of the shard tree's sum.

use std::thread;

use collective::{AllReduce as _, Contribution, Control, Generation, Interrupted, Node, Rank};
use secure::Secret;
use transport::{ConnectError, Endpoint, Group, Grpc, Peer};

use crate::{
    hosts::{Host, RUN, Way},
    stories::{self, Transport},
};

fn connect(host: &Host, group: &Group) -> Result<Grpc, ConnectError> {
    host.runtime.block_on(host.endpoint.connect(group))
}

fn group(hosts: &[Host], ranges: &[(u32, u32)], length: usize, generation: u64) -> Group {
    let peers = hosts.iter().zip(stories::peers(ranges));
    Group {
        run_id: RUN.into(),
        shares_state: false,
        generation: Generation(generation),
        shards: ranges.last().unwrap().1,
        length,
        rank: Rank(0),
        peers: peers.map(|(host, peer)| Peer { address: host.address.clone(), ..peer }).collect(),
    }
}

/// Members on threads, each with its own runtime and endpoint.
struct Over<const LOCAL: bool>;

/// All members share memory, but none listens on a local socket.
type Tcp = Over<false>;
type Local = Over<true>;

impl<const LOCAL: bool> Transport for Over<LOCAL> {
    type Member = Grpc;

    fn with_members<T: Send>(
        ranges: &[(u32, u32)],
        length: usize,
        member: impl Fn(Rank, Grpc) -> T + Sync,
    ) -> Vec<T> {
        let way = if LOCAL { Way::Local } else { Way::Tcp };
        let shards = ranges.last().unwrap().1;
        let hosts: Vec<Host> = ranges.iter().map(|_| Host::start(way, shards, length)).collect();
        let group = group(&hosts, ranges, length, 1);
        let run = |(host, rank): (&Host, u32)| {
            let group = Group { rank: Rank(rank), ..group.clone() };
            member(Rank(rank), connect(host, &group).unwrap())
        };
        let run = &run;
        thread::scope(|scope| {
            let threads: Vec<_> =
                hosts.iter().zip(0..).map(|host| scope.spawn(move || run(host))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    fn abort(member: &Grpc) -> Box<dyn FnOnce() + Send> {
        let abort = member.abort_handle();
        Box::new(move || abort.abort())
    }
}

#[test]
fn sums_are_those_of_the_tree_for_any_split_and_length() {
    stories::sums_are_those_of_the_tree_for_any_split_and_length::<Tcp>();
    stories::sums_are_those_of_the_tree_for_any_split_and_length::<Local>();
}

#[test]
fn differing_digests_are_named_on_every_member() {
    stories::differing_digests_are_named_on_every_member::<Tcp>();
    stories::differing_digests_are_named_on_every_member::<Local>();
}

#[test]
fn a_member_that_goes_away_interrupts_the_others_and_is_named() {
    stories::a_member_that_goes_away_interrupts_the_others_and_is_named::<Tcp>();
    stories::a_member_that_goes_away_interrupts_the_others_and_is_named::<Local>();
}

#[test]
fn an_abort_ends_the_wait_for_a_member_that_never_contributes() {
    stories::an_abort_ends_the_wait_for_a_member_that_never_contributes::<Tcp>();
    stories::an_abort_ends_the_wait_for_a_member_that_never_contributes::<Local>();
}

#[test]
fn members_at_different_steps_are_told_apart() {
    stories::members_at_different_steps_are_told_apart::<Tcp>();
    stories::members_at_different_steps_are_told_apart::<Local>();
}

#[test]
fn nobody_on_another_host_is_looked_for_on_this_one() {
    let hosts: Vec<Host> = (0..2).map(|_| Host::start(Way::Local, 2, 10)).collect();
    let mut group = Group { rank: Rank(1), ..group(&hosts, &[(0, 1), (1, 2)], 10, 1) };
    group.peers[0].memory_domain = Some(2);
    let error = connect(&hosts[1], &group).unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { rank: Rank(0), .. }), "{error}");
}

#[test]
fn streams_of_another_run_or_an_old_generation_are_refused() {
    [Way::Tcp, Way::Local].into_iter().for_each(strangers_are_refused);
}

fn strangers_are_refused(way: Way) {
    let hosts: Vec<Host> = (0..2).map(|_| Host::start(way, 2, 10)).collect();
    let ranges = [(0, 1), (1, 2)];
    let stranger =
        Group { rank: Rank(1), run_id: "another".into(), ..group(&hosts, &ranges, 10, 5) };
    let foreign = Endpoint::new("another", 2, 10);
    let error = hosts[1].runtime.block_on(foreign.connect(&stranger)).unwrap_err();
    assert!(error.to_string().contains("another run"), "{error}");

    let alone = Group { peers: vec![], ..group(&hosts, &ranges, 10, 5) };
    assert!(connect(&hosts[0], &alone).is_err());
    let late = Group { rank: Rank(1), ..group(&hosts, &ranges, 10, 6) };
    let first = group(&hosts, &ranges, 10, 6);
    thread::scope(|scope| {
        let other = scope.spawn(|| connect(&hosts[1], &late).unwrap());
        drop(connect(&hosts[0], &first).unwrap());
        drop(other.join().unwrap());
    });
    let stale = Group { rank: Rank(1), ..group(&hosts, &ranges, 10, 3) };
    let error = connect(&hosts[1], &stale).unwrap_err();
    assert!(error.to_string().contains("generation 3 is over"), "{error}");
}

#[test]
fn a_stream_without_the_secret_of_its_rank_is_refused() {
    [Way::Tcp, Way::Local].into_iter().for_each(one_without_the_secret_is_refused);
}

fn one_without_the_secret_is_refused(way: Way) {
    let hosts: Vec<Host> = (0..2).map(|_| Host::start(way, 2, 10)).collect();
    let group = group(&hosts, &[(0, 1), (1, 2)], 10, 1);
    let with = |secret: Secret| {
        let mut group = Group { rank: Rank(1), ..group.clone() };
        group.peers[0].secret = secret;
        group
    };
    let stranger = Endpoint::new(RUN, 2, 10);
    thread::scope(|scope| {
        let first = scope.spawn(|| connect(&hosts[0], &group).unwrap());
        for secret in [Secret::from([8; 32]), Secret::random()] {
            let group = with(secret);
            let attempt = stranger.connect(&group);
            let error = hosts[1].runtime.block_on(attempt).unwrap_err().to_string();
            assert!(error.contains("rank 1 of generation 1, without the secret"), "{error}");
        }
        // The first member still waits for a stream with the right secret.
        drop(connect(&hosts[1], &with(stories::SECRET.into())).unwrap());
        drop(first.join().unwrap());
    });
}

/// Floats of the largest gradient that is exchanged in one hop, and floats of a chunk.
const ONE_HOP: usize = protocol::ONE_HOP_BYTES_MAX / size_of::<f32>();
const CHUNK: usize = 1 << 17;

#[test]
fn sums_are_those_of_the_tree_at_the_edges_of_chunks_and_of_one_hop() {
    for ranges in [&[(0, 1), (1, 2)][..], &[(0, 1), (1, 4), (4, 6)]] {
        let members = ranges.len();
        let edge = members * CHUNK;
        for length in [ONE_HOP, ONE_HOP + 1, edge - 1, edge, edge + 1, edge + 16 * members] {
            let root = Node::root(ranges.last().unwrap().1);
            let expected: Vec<_> =
                (0..2).map(|step| stories::tree_sum(root, step, length)).collect();
            Local::with_members(ranges, length, |_, mut member| {
                for (step, expected) in (0..).zip(&expected) {
                    let contribution =
                        stories::contribute(&mut member, step, length, Control::default());
                    member.all_reduce(stories::train(step), &contribution).unwrap();
                    assert!(stories::same_bits(member.sum(), expected), "{length} floats");
                }
            });
        }
    }
}

fn a_partial_stays_where_it_is<const LOCAL: bool>(ranges: &[(u32, u32)]) {
    Over::<LOCAL>::with_members(ranges, 600_000, |_, mut member| {
        let place = member.partial_mut(0).as_ptr();
        for step in 0..10 {
            let contribution = stories::contribute(&mut member, step, 600_000, Control::default());
            member.all_reduce(stories::train(step), &contribution).unwrap();
            // If the partial were still queued, `partial_mut` would have copied it to another place.
            assert_eq!(member.partial_mut(0).as_ptr(), place, "step {step}");
        }
    });
}

#[test]
fn a_partial_is_sent_from_where_it_is_and_is_free_after_the_round() {
    // In one hop and in two.
    for ranges in [&[(0, 1), (1, 2)][..], &[(0, 1), (1, 2), (2, 3)]] {
        a_partial_stays_where_it_is::<false>(ranges);
        a_partial_stays_where_it_is::<true>(ranges);
    }
}

#[test]
fn a_contribution_that_does_not_fit_the_plan_is_refused() {
    let errors = Tcp::with_members(&[(0, 1), (1, 3)], 10, |rank, mut member| {
        let mut contribution = stories::contribute(&mut member, 0, 10, Control::default());
        if rank == Rank(1) {
            contribution = Contribution::default();
        }
        member.all_reduce(stories::train(0), &contribution).unwrap_err()
    });
    assert!(matches!(errors[1], Interrupted::Protocol { rank: Rank(1), .. }), "{}", errors[1]);
    assert!(matches!(errors[0], Interrupted::Lost { rank: Rank(1), .. }), "{}", errors[0]);
}
