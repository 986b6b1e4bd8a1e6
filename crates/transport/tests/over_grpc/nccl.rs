//! Members in one process over a stand-in for NCCL (`examples/nccl_stand_in.rs`): the sum is
//! bitwise that of the shard tree, and whatever goes wrong is named. What the real library does
//! is for machines that have GPUs to show.

use std::{env, path::PathBuf, sync::OnceLock, thread};

use collective::{AllReduce as _, Control, Generation, Interrupted, Rank};
use transport::{
    Group, Peer,
    nccl::{self, Libraries, Nccl, NcclError, UniqueId},
};

use crate::{
    hosts::{Host, RUN, Way},
    stories::{self, Transport},
};

/// The library that stands in, which is built beside the tests.
fn libraries() -> Libraries {
    let test = env::current_exe().unwrap();
    let built: PathBuf = test.parent().unwrap().parent().unwrap().join("examples");
    Libraries::at(&built.join("libnccl_stand_in.so")).unwrap()
}

/// Every member has a GPU of its own.
struct Gpus;

impl Transport for Gpus {
    type Member = Nccl;

    fn with_members<T: Send>(
        ranges: &[(u32, u32)],
        length: usize,
        member: impl Fn(Rank, Nccl) -> T + Sync,
    ) -> Vec<T> {
        with_members_on(|rank| rank as usize, ranges, length, member)
    }

    fn abort(member: &Nccl) -> Box<dyn FnOnce() + Send> {
        let abort = member.abort_handle();
        Box::new(move || abort.abort())
    }
}

/// Members whose GPUs are chosen by their ranks.
fn with_members_on<T: Send>(
    gpu: impl Fn(u32) -> usize + Sync,
    ranges: &[(u32, u32)],
    length: usize,
    member: impl Fn(Rank, Nccl) -> T + Sync,
) -> Vec<T> {
    let shards = ranges.last().unwrap().1;
    let hosts: Vec<Host> = ranges.iter().map(|_| Host::start(Way::Tcp, shards, 0)).collect();
    let peers = hosts.iter().zip(stories::peers(ranges));
    let group = Group {
        run_id: RUN.into(),
        shares_state: false,
        generation: Generation(1),
        shards,
        length,
        rank: Rank(0),
        peers: peers.map(|(host, peer)| Peer { address: host.address.clone(), ..peer }).collect(),
    };
    let id = UniqueId::new(libraries()).unwrap();
    let run = |(host, rank): (&Host, u32)| {
        let group = Group { rank: Rank(rank), ..group.clone() };
        let headers = Group { length: 0, ..group.clone() };
        let headers = host.runtime.block_on(host.endpoint.connect(&headers)).unwrap();
        let joined = Nccl::join(libraries(), gpu(rank), &group, &id, headers);
        member(Rank(rank), joined.unwrap())
    };
    let run = &run;
    thread::scope(|scope| {
        let threads: Vec<_> =
            hosts.iter().zip(0..).map(|host| scope.spawn(move || run(host))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// A member's GPU fails while it copies. Its memory is not freed before the copies are done, which
/// the stand-in looks after; the other member waits until its generation is aborted.
fn fails_in_the_middle_of_an_exchange(gpu: usize) {
    let (length, others) = (5_000, OnceLock::new());
    let gpu_of = |rank| if rank == 1 { gpu } else { 0 };
    with_members_on(gpu_of, &[(0, 2), (2, 4)], length, |rank, mut member| {
        if rank == Rank(0) {
            others.set(member.abort_handle()).unwrap();
        }
        let contribution = stories::contribute(&mut member, 0, length, Control::default());
        let interrupted = member.all_reduce(stories::train(0), &contribution).unwrap_err();
        drop(member);
        if rank == Rank(0) {
            assert_eq!(interrupted, Interrupted::Aborted);
        } else {
            let reason = interrupted.to_string();
            assert!(reason.contains("cudaStreamQuery: unspecified launch failure"), "{reason}");
            others.wait().abort();
        }
    });
}

#[test]
fn memory_outlives_the_copies_of_a_gpu_that_fails() {
    fails_in_the_middle_of_an_exchange(8);
}

#[test]
fn memory_of_a_gpu_that_is_lost_is_never_freed() {
    fails_in_the_middle_of_an_exchange(9);
}

#[test]
fn sums_are_those_of_the_tree_for_any_split_and_length() {
    stories::sums_are_those_of_the_tree_for_any_split_and_length::<Gpus>();
}

#[test]
fn differing_digests_are_named_on_every_member() {
    stories::differing_digests_are_named_on_every_member::<Gpus>();
}

#[test]
fn a_member_that_goes_away_interrupts_the_others_and_is_named() {
    stories::a_member_that_goes_away_interrupts_the_others_and_is_named::<Gpus>();
}

#[test]
fn an_abort_ends_the_wait_for_a_member_that_never_contributes() {
    stories::an_abort_ends_the_wait_for_a_member_that_never_contributes::<Gpus>();
}

#[test]
fn members_at_different_steps_are_told_apart() {
    stories::members_at_different_steps_are_told_apart::<Gpus>();
}

#[test]
fn gpus_have_names_and_ids_travel_as_text() {
    assert_eq!(nccl::name_of_gpu(libraries(), 3).unwrap(), "0000:03:00.0");
    let id = UniqueId::new(libraries()).unwrap();
    assert_eq!(id.to_string().parse(), Ok(id));
    for wrong in ["", "12", &id.to_string()[1..], &id.to_string().replace('0', "x")] {
        assert!(wrong.parse::<UniqueId>().is_err(), "{wrong}");
    }
}

#[test]
fn what_is_not_there_is_named() {
    let nowhere = Libraries::at("/nowhere/libnccl.so.2".as_ref()).unwrap_err();
    assert!(nowhere.to_string().contains("/nowhere/libnccl.so.2"), "{nowhere}");
    let no_gpu = nccl::name_of_gpu(libraries(), 99).unwrap_err();
    assert!(matches!(no_gpu, NcclError::Refused { .. }), "{no_gpu}");
    assert!(no_gpu.to_string().contains("invalid device"), "{no_gpu}");
}
