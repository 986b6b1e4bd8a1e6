//! Members in one process that act as members on several hosts. The members of one host share memory;
//! between hosts they use real sockets. The sum has the bits of the shard tree's sum.

use std::{sync::mpsc, thread};

use collective::{AllReduce as _, Control, Generation, Interrupted, Node, Rank, STATE_VECTORS};
use transport::{
    Group, Peer,
    shm::{Segment, SegmentError},
    two_level::TwoLevel,
};

use crate::{
    hosts::{Host, RUN, Way},
    stories::{self, Transport},
};

/// The host of each member, by the member's index.
trait Placing {
    fn host(member: u32) -> Option<u32>;
}

macro_rules! placing {
    ($($name:ident: $member:ident => $host:expr;)*) => {
        $(
            struct $name;
            impl Placing for $name {
                fn host($member: u32) -> Option<u32> { $host }
            }
        )*
    };
}

placing! {
    // Two members on each host; with an odd number, the last member is alone.
    Pairs: member => Some(member / 2);
    // Three members on one host and the others on a second one, so that a lane of one host meets
    // several lanes of the other.
    Uneven: member => Some(u32::from(member > 2));
    // Neighbours are on different hosts, as may happen when users choose the ranks.
    Interleaved: member => Some(member % 2);
    // All members on one host: nothing is sent.
    Together: _member => Some(1);
    // Every member on its own host.
    Alone: _member => None;
}

struct Hosts<P>(std::marker::PhantomData<P>);

fn group(
    ranges: &[(u32, u32)],
    length: usize,
    hosts: &[Host],
    place: fn(u32) -> Option<u32>,
    shares_state: bool,
) -> Group {
    let peers = stories::peers(ranges).into_iter().zip(hosts).zip(0..);
    let peer = |((peer, host), member): ((Peer, &Host), u32)| Peer {
        address: host.address.clone(),
        memory_domain: place(member),
        ..peer
    };
    Group {
        run_id: RUN.into(),
        shares_state,
        generation: Generation(1),
        shards: ranges.last().unwrap().1,
        length,
        rank: Rank(0),
        peers: peers.map(peer).collect(),
    }
}

/// The segments of all members; the first member of each host creates it.
fn segments(group: &Group) -> Vec<Segment> {
    let mut rendezvous = Vec::new();
    let mut segment = |peer: &Peer| {
        let group = Group { rank: peer.share.rank, ..group.clone() };
        let domain = peer.memory_domain;
        match rendezvous.iter().find(|(other, _)| domain.is_some() && *other == domain) {
            Some((_, rendezvous)) => Segment::open(&group, rendezvous).unwrap(),
            None => {
                let (segment, found) = Segment::create(&group).unwrap();
                rendezvous.push((domain, found));
                segment
            }
        }
    };
    group.peers.iter().map(&mut segment).collect()
}

/// Runs each member on its own thread, and gives the results.
fn on_hosts<T: Send>(
    ranges: &[(u32, u32)],
    length: usize,
    place: fn(u32) -> Option<u32>,
    shares_state: bool,
    member: impl Fn(Rank, TwoLevel) -> T + Sync,
) -> Vec<T> {
    let shards = ranges.last().unwrap().1;
    let hosts: Vec<Host> = ranges.iter().map(|_| Host::start(Way::Tcp, shards, length)).collect();
    let group = group(ranges, length, &hosts, place, shares_state);
    let run = |((host, segment), rank): ((&Host, Segment), u32)| {
        let group = Group { rank: Rank(rank), ..group.clone() };
        let connect = TwoLevel::connect(&host.endpoint, &group, segment);
        member(Rank(rank), host.runtime.block_on(connect).unwrap())
    };
    let run = &run;
    thread::scope(|scope| {
        let threads: Vec<_> = hosts
            .iter()
            .zip(segments(&group))
            .zip(0..)
            .map(|host| scope.spawn(move || run(host)))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

impl<P: Placing> Transport for Hosts<P> {
    type Member = TwoLevel;

    fn with_members<T: Send>(
        ranges: &[(u32, u32)],
        length: usize,
        member: impl Fn(Rank, TwoLevel) -> T + Sync,
    ) -> Vec<T> {
        on_hosts(ranges, length, P::host, false, member)
    }

    fn abort(member: &TwoLevel) -> Box<dyn FnOnce() + Send> {
        let abort = member.abort_handle();
        Box::new(move || abort.abort())
    }
}

#[test]
fn sums_are_those_of_the_tree_for_any_split_length_and_placing() {
    stories::sums_are_those_of_the_tree_for_any_split_and_length::<Hosts<Pairs>>();
    stories::sums_are_those_of_the_tree_for_any_split_and_length::<Hosts<Uneven>>();
    stories::sums_are_those_of_the_tree_for_any_split_and_length::<Hosts<Interleaved>>();
    stories::sums_are_those_of_the_tree_for_any_split_and_length::<Hosts<Together>>();
    stories::sums_are_those_of_the_tree_for_any_split_and_length::<Hosts<Alone>>();
}

#[test]
fn differing_digests_are_named_on_every_member() {
    stories::differing_digests_are_named_on_every_member::<Hosts<Pairs>>();
    stories::differing_digests_are_named_on_every_member::<Hosts<Together>>();
}

#[test]
fn a_member_that_goes_away_interrupts_the_others_and_is_named() {
    stories::a_member_that_goes_away_interrupts_the_others_and_is_named::<Hosts<Together>>();
}

#[test]
fn an_abort_ends_the_wait_for_a_member_that_never_contributes() {
    stories::an_abort_ends_the_wait_for_a_member_that_never_contributes::<Hosts<Together>>();
    stories::an_abort_ends_the_wait_for_a_member_that_never_contributes::<Hosts<Alone>>();
}

#[test]
fn members_at_different_steps_are_told_apart() {
    stories::members_at_different_steps_are_told_apart::<Hosts<Together>>();
    stories::members_at_different_steps_are_told_apart::<Hosts<Alone>>();
}

/// Three members on one host and two on the other do many rounds of two kinds. Chunks end within
/// parts, and parts end within chunks.
#[test]
fn many_rounds_over_uneven_lanes_keep_their_bits() {
    const ROUNDS: u64 = 60;
    const LENGTH: usize = 1_300_000;
    const GRADIENTS: u64 = 3;
    let ranges = [(0, 1), (1, 2), (2, 3), (3, 5), (5, 6)];
    let expected: Vec<_> =
        (0..GRADIENTS).map(|step| stories::tree_sum(Node::root(6), step, LENGTH)).collect();
    Hosts::<Uneven>::with_members(&ranges, LENGTH, |rank, mut member| {
        for step in 0..ROUNDS {
            let of = step % GRADIENTS;
            let control = Control(1 << rank.0);
            let contribution = stories::contribute(&mut member, of, LENGTH, control);
            let train = step % 4 != 3;
            let round = if train { stories::train(step) } else { stories::evaluate(step) };
            let outcome = member.all_reduce(round, &contribution).unwrap();
            assert_eq!((outcome.control, outcome.tally.examples), (Control(31), 6), "{round}");
            assert!(!train || stories::same_bits(member.sum(), &expected[of as usize]), "{round}");
        }
    });
}

#[test]
fn a_member_that_goes_interrupts_all_on_its_host_and_on_others() {
    let ranges = [(0, 1), (1, 2), (2, 3), (3, 4)];
    for goes in (0..4).map(Rank) {
        let errors = Hosts::<Pairs>::with_members(&ranges, 100_000, |rank, mut member| {
            for step in 0..3 {
                let contribution =
                    stories::contribute(&mut member, step, 100_000, Control::default());
                let outcome = member.all_reduce(stories::train(step), &contribution);
                assert_eq!(outcome.is_ok(), step < 2, "{outcome:?}");
                if step == 1 && rank == goes {
                    return None;
                }
                if let Err(error) = outcome {
                    // Every later round gives the same error.
                    let again = member.all_reduce(stories::train(step + 1), &contribution);
                    assert_eq!(again, Err(error.clone()));
                    return Some(error);
                }
            }
            unreachable!("the third round cannot be completed")
        });
        let lost = |error: &Option<Interrupted>| matches!(error, Some(Interrupted::Lost { .. }));
        // At least the neighbour, and the member that exchanges with it, report a lost member.
        assert!(errors.iter().filter(|error| lost(error)).count() >= 2, "{errors:?}");
    }
}

#[test]
fn an_abort_of_one_member_ends_the_round_of_all() {
    let ranges = [(0, 1), (1, 2), (2, 3), (3, 4)];
    let (sender, receiver) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
    let aborter = thread::spawn(move || receiver.recv().unwrap()());
    let errors = Hosts::<Pairs>::with_members(&ranges, 100, |rank, mut member| {
        let contribution = stories::contribute(&mut member, 0, 100, Control::default());
        if rank == Rank(3) {
            // This member does not contribute to step 0: it finds its generation aborted.
            sender.send(Hosts::<Pairs>::abort(&member)).unwrap();
        }
        let steps = if rank == Rank(3) { 7 } else { 0 };
        let failed = |step| member.all_reduce(stories::train(step), &contribution).err();
        (steps..steps + 1).find_map(failed)
    });
    aborter.join().unwrap();
    assert!(errors.iter().all(Option::is_some), "{errors:?}");
}

type State = [Vec<f32>; STATE_VECTORS];

/// The update of some floats of a state.
fn advance(sum: &[f32], old: [&[f32]; STATE_VECTORS], new: [&mut [f32]; STATE_VECTORS]) {
    for (index, (old, new)) in old.into_iter().zip(new).enumerate() {
        for ((new, old), sum) in new.iter_mut().zip(old).zip(sum) {
            *new = old * 0.5 + sum * (index + 1) as f32;
        }
    }
}

fn advanced(sum: &[f32], old: &State) -> State {
    let mut new = old.clone();
    advance(sum, old.each_ref().map(Vec::as_slice), new.each_mut().map(Vec::as_mut_slice));
    new
}

/// Brings a state in, advances it step by step, and gives this member's state after each step.
fn states_of(mut member: TwoLevel, initial: &State, steps: u64, length: usize) -> Vec<State> {
    let mut states = vec![initial.clone()];
    if let Some(shared) = member.shared_state() {
        shared.bring_in(stories::train(0), initial.each_ref().map(Vec::as_slice)).unwrap();
    }
    for step in 0..steps {
        let contribution = stories::contribute(&mut member, step, length, Control::default());
        let next = match member.shared_state() {
            Some(shared) => {
                shared.gather(stories::train(step), &contribution).unwrap();
                let mut sum = vec![0.0; length];
                shared.add_up(0, &mut sum);
                shared.advance(&mut |parts| parts.for_each(|part| part.each(advance))).unwrap();
                let next = shared.held().vectors().map(<[f32]>::to_vec);
                let expected = advanced(&sum, &states[states.len() - 1]);
                assert!(next.iter().zip(&expected).all(|(a, b)| stories::same_bits(a, b)));
                next
            }
            None => {
                member.all_reduce(stories::train(step), &contribution).unwrap();
                advanced(member.sum(), &states[states.len() - 1])
            }
        };
        states.push(next);
        // An evaluation does not change the state.
        member.all_reduce(stories::evaluate(step), &contribution).unwrap();
    }
    states
}

/// Each host with several members applies the sum once, to a shared state. A single member of a host
/// has its own state.
#[test]
fn the_members_of_each_host_advance_one_state_together() {
    const LENGTH: usize = 40_003;
    const STEPS: u64 = 4;
    let initial: State = [0.25, 0.5, 0.75].map(|salt| vec![salt; LENGTH]);
    let mut expected = vec![initial.clone()];
    for step in 0..STEPS {
        let sum = stories::tree_sum(Node::root(6), step, LENGTH);
        expected.push(advanced(&sum, &expected[expected.len() - 1]));
    }
    let ranges = [(0, 1), (1, 2), (2, 3), (3, 5), (5, 6)];
    for place in [Pairs::host, Uneven::host, Interleaved::host] {
        let found = on_hosts(&ranges, LENGTH, place, true, |rank, mut member| {
            let has_neighbours = (0..5).filter(|other| place(*other) == place(rank.0)).count() > 1;
            assert_eq!(member.shared_state().is_some(), has_neighbours, "rank {rank}");
            states_of(member, &initial, STEPS, LENGTH)
        });
        for states in found {
            for (found, expected) in states.iter().flatten().zip(expected.iter().flatten()) {
                assert!(stories::same_bits(found, expected));
            }
        }
    }
}

/// The neighbour gets an error, and its state does not change.
#[test]
fn a_member_that_goes_in_an_update_leaves_the_state_whole() {
    const LENGTH: usize = 40_003;
    let initial: State = [1.0, 2.0, 3.0].map(|value| vec![value; LENGTH]);
    let ranges = [(0, 1), (1, 2), (2, 3), (3, 4)];
    let left = on_hosts(&ranges, LENGTH, Pairs::host, true, |rank, mut member| {
        let shared = member.shared_state().unwrap();
        shared.bring_in(stories::train(0), initial.each_ref().map(Vec::as_slice)).unwrap();
        let contribution = stories::contribute(&mut member, 0, LENGTH, Control::default());
        let shared = member.shared_state().unwrap();
        if shared.gather(stories::train(0), &contribution).is_err() {
            assert!(rank > Rank(1), "its host has all that it needs");
            return false;
        }
        if rank == Rank(1) {
            return true;
        }
        let advanced =
            shared.advance(&mut |parts| parts.for_each(|part| part.each(advance))).is_ok();
        if rank == Rank(0) {
            let held = shared.held();
            assert!(held.vectors().iter().zip(&initial).all(|(a, b)| stories::same_bits(a, b)));
        }
        advanced
    });
    // The other host may have completed this step.
    assert!(!left[0] && left[2] == left[3], "{left:?}");
}

#[test]
fn a_segment_of_several_hosts_is_no_all_reduce_of_its_own() {
    let ranges = [(0, 1), (1, 2)];
    let hosts: Vec<Host> = ranges.iter().map(|_| Host::start(Way::Tcp, 2, 10)).collect();
    let group = group(&ranges, 10, &hosts, Alone::host, false);
    let (segment, _) = Segment::create(&group).unwrap();
    assert!(matches!(segment.into_all_reduce(), Err(SegmentError::SeveralHosts(2))));
}
