//! Tests with a hostile peer: it has mapped the segment, and writes values that no member writes.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::Ordering::SeqCst,
    thread,
    time::{Duration, Instant},
};

use collective::{
    AllReduce as _, Contribution, Generation, Interrupted, Kind, Rank, Round, ShardRange, Share,
    Step, Tally,
};

use super::*;
use crate::Peer;

/// The bound for all waits: a lost wake costs only a timeout of a sleep.
const PROMPTLY: Duration = Duration::from_secs(20);

const ROUND: Round = Round { step: Step(3), kind: Kind::Train };

// The indices of a slot's words, as in `barrier`.
const ARRIVALS: usize = 0;
const STATE: usize = 1;
const PID: usize = 2;
const STARTED: usize = 3;

fn pair() -> (Segment, Segment) {
    let share =
        |rank| Share { rank: Rank(rank), shards: ShardRange { start: rank, end: rank + 1 } };
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let peer = |rank| Peer {
        share: share(rank),
        address: address.into(),
        secret: [7; 32].into(),
        memory_domain: Some(1),
    };
    let group = Group {
        run_id: "hostile".into(),
        shares_state: false,
        generation: Generation(1),
        shards: 2,
        length: 100,
        rank: Rank(0),
        peers: vec![peer(0), peer(1)],
    };
    let (leader, rendezvous) = Segment::create(&group).unwrap();
    let other = Segment::open(&Group { rank: Rank(1), ..group }, &rendezvous).unwrap();
    (leader, other)
}

fn contribution() -> Contribution {
    Contribution { tallies: vec![Tally::default()], ..Contribution::default() }
}

/// The error that a correct leader gives after the peer has done `worst`.
fn met_with(worst: impl FnOnce(&Segment)) -> Interrupted {
    let (leader, hostile) = pair();
    worst(&hostile);
    let begun = Instant::now();
    let error = leader.into_all_reduce().unwrap().all_reduce(ROUND, &contribution()).unwrap_err();
    assert!(begun.elapsed() < PROMPTLY);
    drop(hostile);
    error
}

fn slot(segment: &Segment, member: usize) -> &[AtomicU64] {
    &segment.vectors.memory().words()[segment.layout.slot(member)]
}

fn assert_protocol(error: &Interrupted, what: &str) {
    let Interrupted::Protocol { rank: Rank(1), round: ROUND, reason } = error else {
        panic!("{error}")
    };
    assert!(reason.contains(what), "{reason}");
}

#[test]
fn counts_and_headers_that_no_member_writes_are_named() {
    let arrive = |segment: &Segment| slot(segment, 1)[ARRIVALS].store(1, SeqCst);
    let header = |segment: &Segment, kind, index: usize, value| {
        let words = &segment.vectors.memory().words()[segment.layout.header(1, 0)];
        super::super::header::write(words, Round { kind, ..ROUND }, &contribution());
        words[index].store(value, SeqCst);
        arrive(segment);
    };
    assert_protocol(&met_with(|s| slot(s, 1)[ARRIVALS].store(9, SeqCst)), "wrote");
    assert_protocol(&met_with(|s| slot(s, 1)[STATE].store(77, SeqCst)), "wrote");
    assert_protocol(&met_with(|s| slot(s, 1)[PID].store(u64::MAX, SeqCst)), "wrote");
    assert_protocol(&met_with(arrive), "kind 0");
    assert_protocol(&met_with(|s| header(s, Kind::Train, 0, 4)), "it is at step 4");
    assert_protocol(&met_with(|s| header(s, Kind::Evaluate, 0, 3)), "evaluation after step 3");
    assert_protocol(&met_with(|s| header(s, Kind::Train, 3, 2)), "2 digests");
}

#[test]
fn a_cause_that_no_member_writes_ends_the_generation_all_the_same() {
    for cause in [7, u64::MAX, 2 << 32, 2 << 32 | 99, 1 << 40] {
        let error = met_with(|s| s.vectors.memory().words()[s.layout.cause].store(cause, SeqCst));
        assert_eq!(error, Interrupted::Aborted, "{cause:x}");
    }
}

#[test]
fn a_process_that_is_gone_is_lost_though_it_never_said_so() {
    // Its slot says that it is present, but with another start time than the process with this id.
    let error = met_with(|segment| {
        slot(segment, 1)[STARTED].fetch_add(1, SeqCst);
    });
    let Interrupted::Lost { rank: Rank(1), reason, .. } = error else { panic!("{error}") };
    assert!(reason.contains("process is gone"), "{reason}");
}

#[test]
fn wakes_that_are_lost_are_made_up_for() {
    let (leader, other) = pair();
    // The arriving member must believe that no other member sleeps.
    let sleepers = leader.layout.sleepers;
    let memory = leader.vectors.memory().clone();
    let mut members = [leader, other].map(|segment| segment.into_all_reduce().unwrap());
    let [first, second] = &mut members;
    let begun = Instant::now();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| first.all_reduce(ROUND, &contribution()));
        while memory.words()[sleepers].load(SeqCst) == 0 {
            thread::yield_now();
        }
        memory.words()[sleepers].store(0, SeqCst);
        second.all_reduce(ROUND, &contribution()).unwrap();
        waiting.join().unwrap().unwrap();
    });
    assert!(begun.elapsed() < PROMPTLY);
}

#[test]
fn a_member_that_never_comes_is_lost() {
    let (leader, other) = pair();
    slot(&other, 1)[STATE].store(0, SeqCst);
    let error = leader.into_all_reduce().unwrap().all_reduce(ROUND, &contribution()).unwrap_err();
    let Interrupted::Lost { rank: Rank(1), reason, .. } = error else { panic!("{error}") };
    assert!(reason.contains("did not open"), "{reason}");
    drop(other);
}
