//! Members in one process, each with its own mapping: the sum has the bits of the shard tree's sum,
//! and only the generation's own segment is accepted.

#![cfg(target_os = "linux")]

#[path = "support/shm_state.rs"]
mod shm_state;
#[path = "support/stories.rs"]
mod stories;

use std::{
    fs::File,
    os::fd::AsRawFd as _,
    sync::{Barrier, mpsc},
    thread,
};

use collective::{AllReduce as _, Contribution, Control, Generation, Interrupted, Node, Rank};
use rustix::fs::{MemfdFlags, Mode, SealFlags};
use stories::Transport;
use transport::{
    Group,
    shm::{Abort, Rendezvous, Segment, SegmentError, Shm},
};

fn group(ranges: &[(u32, u32)], length: usize) -> Group {
    Group {
        run_id: "test".into(),
        shares_state: false,
        generation: Generation(1),
        shards: ranges.last().unwrap().1,
        length,
        rank: Rank(0),
        peers: stories::peers(ranges),
    }
}

/// Every member has its own mapping.
struct Shared;

impl Transport for Shared {
    type Member = Shm;

    fn with_members<T: Send>(
        ranges: &[(u32, u32)],
        length: usize,
        member: impl Fn(Rank, Shm) -> T + Sync,
    ) -> Vec<T> {
        let group = group(ranges, length);
        let (leader, rendezvous) = Segment::create(&group).unwrap();
        let text = rendezvous.to_string();
        let opened = ranges.iter().zip(0..).skip(1).map(|(_, rank)| {
            let group = Group { rank: Rank(rank), ..group.clone() };
            Segment::open(&group, &text.parse().unwrap()).unwrap()
        });
        let segments: Vec<Segment> = std::iter::once(leader).chain(opened).collect();
        let member = &member;
        thread::scope(|scope| {
            let start = |(segment, rank): (Segment, u32)| {
                scope.spawn(move || member(Rank(rank), segment.into_all_reduce().unwrap()))
            };
            let threads: Vec<_> = segments.into_iter().zip(0..).map(start).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    fn abort(member: &Shm) -> Box<dyn FnOnce() + Send> {
        let abort = member.abort_handle();
        Box::new(move || abort.abort())
    }
}

#[test]
fn sums_are_those_of_the_tree_for_any_split_and_length() {
    stories::sums_are_those_of_the_tree_for_any_split_and_length::<Shared>();
}

#[test]
fn differing_digests_are_named_on_every_member() {
    stories::differing_digests_are_named_on_every_member::<Shared>();
}

#[test]
fn a_member_that_goes_away_interrupts_the_others_and_is_named() {
    stories::a_member_that_goes_away_interrupts_the_others_and_is_named::<Shared>();
}

#[test]
fn an_abort_ends_the_wait_for_a_member_that_never_contributes() {
    stories::an_abort_ends_the_wait_for_a_member_that_never_contributes::<Shared>();
}

#[test]
fn members_at_different_steps_are_told_apart() {
    stories::members_at_different_steps_are_told_apart::<Shared>();
}

/// Mixed kinds of rounds, so that members reach every allowed distance from each other.
#[test]
fn thousands_of_rounds_of_both_kinds_keep_their_bits() {
    const ROUNDS: u64 = 4_000;
    const LENGTH: usize = 200;
    let ranges = [(0, 1), (1, 2), (2, 3), (3, 4)];
    Shared::with_members(&ranges, LENGTH, |rank, mut shm| {
        for step in 0..ROUNDS {
            let control = Control(1 << (step % 16 * 2 + u64::from(rank.0 % 2)));
            let contribution = stories::contribute(&mut shm, step, LENGTH, control);
            let round = if step.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 62 == 0 {
                stories::train(step)
            } else {
                stories::evaluate(step)
            };
            let outcome = shm.all_reduce(round, &contribution).unwrap();
            assert_eq!(outcome.control, Control(3 << (step % 16 * 2)), "{round}");
            assert_eq!(outcome.tally.examples, 4);
            if round == stories::train(step) {
                let expected = stories::tree_sum(Node::root(4), step, LENGTH);
                assert!(stories::same_bits(shm.sum(), &expected), "{round}");
            }
        }
    });
}

#[test]
fn whoever_goes_is_the_one_that_is_named() {
    let errors = Shared::with_members(&[(0, 1), (1, 2), (2, 3)], 1000, |rank, mut shm| {
        (rank != Rank(1)).then(|| {
            let contribution = stories::contribute(&mut shm, 0, 1000, Control::default());
            shm.all_reduce(stories::train(0), &contribution).unwrap_err()
        })
    });
    for error in errors.into_iter().flatten() {
        assert!(matches!(error, Interrupted::Lost { rank: Rank(1), .. }), "{error}");
    }
}

#[test]
fn a_member_that_goes_after_a_round_does_not_take_it_from_the_others() {
    const REPEATS: usize = 200;
    for _ in 0..REPEATS {
        Shared::with_members(&[(0, 1), (1, 2), (2, 3)], 100, |_, mut shm| {
            let contribution = stories::contribute(&mut shm, 0, 100, Control::default());
            shm.all_reduce(stories::train(0), &contribution).unwrap();
            let expected = stories::tree_sum(Node::root(3), 0, 100);
            assert!(stories::same_bits(shm.sum(), &expected));
        });
    }
}

#[test]
fn an_abort_reaches_all_members_and_stays() {
    let (sender, receiver) = mpsc::channel::<Abort>();
    let aborter = thread::spawn(move || receiver.recv().unwrap().abort());
    let both = Barrier::new(2);
    Shared::with_members(&[(0, 1), (1, 2), (2, 3)], 10, |rank, mut shm| {
        if rank == Rank(2) {
            // This member contributes only after the abort.
            sender.send(shm.abort_handle()).unwrap();
            both.wait();
        }
        let contribution = stories::contribute(&mut shm, 0, 10, Control::default());
        for step in 0..3 {
            let error = shm.all_reduce(stories::train(step), &contribution).unwrap_err();
            assert_eq!(error, Interrupted::Aborted);
        }
        if rank == Rank(1) {
            both.wait();
        }
    });
    aborter.join().unwrap();
}

#[test]
fn a_contribution_that_does_not_fit_the_plan_is_refused_here_and_told_to_the_others() {
    let errors = Shared::with_members(&[(0, 1), (1, 3)], 10, |rank, mut shm| {
        let mut contribution = stories::contribute(&mut shm, 0, 10, Control::default());
        if rank == Rank(1) {
            contribution = Contribution::default();
        }
        shm.all_reduce(stories::train(0), &contribution).unwrap_err()
    });
    for error in errors {
        assert!(matches!(error, Interrupted::Protocol { rank: Rank(1), .. }), "{error}");
    }
}

fn refused(group: &Group, rendezvous: &Rendezvous) -> String {
    Segment::open(group, rendezvous).unwrap_err().to_string()
}

#[test]
fn a_segment_of_another_run_generation_or_plan_is_refused() {
    let ranges = [(0, 1), (1, 4)];
    let first = group(&ranges, 10);
    let (_leader, rendezvous) = Segment::create(&first).unwrap();
    let mine = Group { rank: Rank(1), ..first.clone() };
    let cases = [
        (Group { run_id: "another".into(), ..mine.clone() }, "another run"),
        (Group { generation: Generation(2), ..mine.clone() }, "generation 1"),
        (Group { length: 100_000, ..mine.clone() }, "bytes instead of"),
        // The same number of bytes, with other shards.
        (Group { peers: stories::peers(&[(0, 3), (3, 4)]), ..mine.clone() }, "another plan"),
        (Group { length: 9, ..mine.clone() }, "another plan"),
        (Group { rank: Rank(7), ..mine.clone() }, "not a member"),
        (Group { rank: Rank(0), ..mine.clone() }, "has opened the segment before"),
        (Group { run_id: "x".repeat(1000), ..mine.clone() }, "128 bytes"),
    ];
    for (group, reason) in cases {
        let refused = refused(&group, &rendezvous);
        assert!(refused.contains(reason), "{refused}");
    }
    let mut wrong_nonce = rendezvous.to_string();
    let last = if wrong_nonce.pop() == Some('0') { '1' } else { '0' };
    wrong_nonce.push(last);
    assert!(refused(&mine, &wrong_nonce.parse().unwrap()).contains("nonce"));
    let _second = Segment::open(&mine, &rendezvous).unwrap();
    assert!(matches!(Segment::open(&mine, &rendezvous), Err(SegmentError::Taken(Rank(1)))));
    assert!(matches!(Segment::create(&mine), Err(SegmentError::NotTheFirst(Rank(1)))));
}

fn rendezvous_at(descriptor: i32) -> Rendezvous {
    format!("lockstep-shm/1 {} {descriptor} {:032x}", std::process::id(), 5).parse().unwrap()
}

#[test]
fn what_is_no_segment_is_refused() {
    let mine = Group { rank: Rank(1), ..group(&[(0, 1), (1, 2)], 10) };
    assert!(refused(&mine, &rendezvous_at(1 << 20)).contains("cannot open"));

    let plain = File::open("/proc/self/exe").unwrap();
    let error = refused(&mine, &rendezvous_at(plain.as_raw_fd()));
    assert!(error.contains("cannot open") || error.contains("not sealed"), "{error}");

    let file = rustix::fs::memfd_create("hostile", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR).unwrap();
    let at = rendezvous_at(file.as_raw_fd());
    assert!(refused(&mine, &at).contains("not sealed"));
    rustix::fs::ftruncate(&file, 1 << 13).unwrap();
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals).unwrap();
    assert!(refused(&mine, &at).contains("magic"), "{}", refused(&mine, &at));
    let long = Group { length: 10_000, ..mine.clone() };
    assert!(refused(&long, &at).contains("has 8192 bytes"));
    rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR | Mode::ROTH).unwrap();
    assert!(refused(&mine, &at).contains("mode 604"));
}
