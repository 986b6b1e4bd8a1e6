//! Processes that die at the worst moments: between any two operations on the disk, in the middle
//! of an exchange, of a transfer or of an announcement. The remaining processes continue, or the
//! run is resumed, and its bytes are those of an undisturbed run.
//!
//! The moments are the crash points in the code, named there and here. A crash point that is never
//! reached fails the test, because the process does not die.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    chaos::half_written,
    harness::{
        ENDLESS, Fleet, MIXED_BUILDS, Place, Process, SMALL, armed_coordinator, armed_programs,
        assert_same_tensors, coordinator, coordinator_at, programs, reference,
    },
    stop::stopped_with_the_same_bits,
};

const EPOCHS: u64 = 3;

/// A name that all armed programs contain, and no other program.
const VARIABLE: &[u8] = b"LOCKSTEP_CRASH_POINT";

/// A name that every armed program with the checkpoint writer contains.
const POINT: &[u8] = b"checkpoint.renamed";

fn three_epochs(more: &str) -> String {
    format!("{SMALL} --epochs {EPOCHS} {MIXED_BUILDS} {more}")
}

/// Asserts that the run has ended as if nothing had happened.
#[track_caller]
fn undisturbed(place: &Place) {
    assert_same_tensors(&place.newest(), &reference(EPOCHS));
    assert_eq!(place.summary()["examples_counted"], Value::from(vec![6000; EPOCHS as usize]));
    assert_eq!(half_written(place), [] as [String; 0]);
    assert_no_number_twice(place);
}

/// Asserts that no two generations have the same number.
#[track_caller]
fn assert_no_number_twice(place: &Place) {
    let journal = fs::read_to_string(place.file("journal.jsonl")).unwrap();
    let lines = journal.lines().map(|line| serde_json::from_str::<Value>(line).expect(line));
    let numbers = lines.filter_map(|line| line["generation"]["number"].as_u64());
    let numbers: Vec<u64> = numbers.collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
}

/// Starts a coordinator again at the same address, for the remaining workers.
fn started_again(place: &Place, url: &str, workers: Vec<Process>, flags: &str) -> Fleet {
    let run_dir = place.run_dir.display();
    let again = coordinator(place, &format!("--resume --run-dir {run_dir} {flags}"));
    let fleet = Fleet::of(again, None);
    assert_eq!(fleet.url, url);
    Fleet { workers, ..fleet }
}

#[test]
fn what_people_get_has_no_crash_points() {
    let holds = |program: &std::path::Path, name: &[u8]| {
        memchr::memmem::find(&fs::read(program).unwrap(), name).is_some()
    };
    for name in ["vae-coordinator", "vae-worker", "vae"] {
        let program = programs().join(name);
        assert!(!holds(&program, VARIABLE) && !holds(&program, POINT), "{name}");
    }
    assert!(holds(&armed_programs().join("vae-coordinator"), VARIABLE));
    assert!(holds(&armed_programs().join("vae-worker"), VARIABLE));
    assert!(holds(&armed_programs().join("vae-worker"), POINT));
}

/// All processes die while the second checkpoint is written, and the run is resumed from the files
/// on the disk.
fn dies_while_writing(point: &str) {
    let place = Place::new();
    let mut fleet =
        Fleet::without_workers(&place, &three_epochs("--workers 1 --keep-checkpoints 1"));
    fleet.add_armed("--threads 1", point);
    fleet.workers.remove(0).wait().killed();
    fleet.coordinator.signal(Signal::KILL);
    fleet.coordinator.wait();
    coordinator_at(&place, "--resume --workers 2 --spawn").wait().succeeded();
    undisturbed(&place);
    assert_eq!(place.checkpoints().len(), 1);
}

#[test]
fn all_die_while_a_checkpoint_is_written() {
    dies_while_writing("checkpoint.created 2 kill");
    dies_while_writing("checkpoint.half-written 2 kill");
    dies_while_writing("checkpoint.written 2 kill");
    dies_while_writing("checkpoint.synced 2 kill");
}

#[test]
fn all_die_once_a_checkpoint_has_its_name() {
    dies_while_writing("checkpoint.renamed 2 kill");
    dies_while_writing("checkpoint.durable 2 kill");
    dies_while_writing("checkpoint.retired 1 kill");
}

/// The next member becomes the leader, and writes the checkpoint.
#[test]
fn the_leader_dies_while_it_writes_the_last_checkpoint() {
    let place = Place::new();
    let mut fleet = Fleet::without_workers(&place, &three_epochs("--workers 2"));
    fleet.add_armed("--rank 0 --threads 1", "checkpoint.synced 3 kill");
    fleet.add("--rank 1 --threads 1");
    fleet.workers.remove(0).wait().killed();
    fleet.completed();
    undisturbed(&place);
}

/// Three members die one after the other, and the fourth computes everything.
fn die_in_an_all_reduce(collective: &str, orders: [&str; 3]) {
    let place = Place::new();
    let flags = three_epochs(&format!("--workers 4 --collective {collective}"));
    let mut fleet = Fleet::without_workers(&place, &flags);
    for (rank, order) in orders.iter().enumerate() {
        fleet.add_armed(&format!("--rank {rank} --threads 1"), order);
    }
    fleet.add("--rank 3 --threads 1");
    for victim in fleet.workers.drain(..orders.len()) {
        victim.wait().killed();
    }
    fleet.completed();
    undisturbed(&place);
}

#[test]
fn members_die_in_the_middle_of_an_all_reduce_over_grpc() {
    // The first two members die after sending some bytes, the third after receiving some.
    let middle =
        ["grpc.sending 400 kill", "grpc.sending 997 kill", "all-reduce.grpc.received 250 kill"];
    die_in_an_all_reduce("grpc", middle);
    // The member that dies has finished the step; perhaps no other member has.
    let end = [
        "all-reduce.grpc.done 30 kill",
        "all-reduce.grpc.done 70 kill",
        "all-reduce.grpc.done 120 kill",
    ];
    die_in_an_all_reduce("grpc", end);
}

#[test]
fn members_die_in_the_middle_of_an_all_reduce_through_shared_memory() {
    let points = [
        "all-reduce.shm.contributed 30 kill",
        "all-reduce.shm.added 70 kill",
        "all-reduce.shm.done 120 kill",
    ];
    die_in_an_all_reduce("shm", points);
}

/// Members that share one state die after writing some blocks of the next state.
#[test]
fn members_die_in_the_middle_of_an_update_of_the_shared_state() {
    // The first block that the first member writes, and blocks in the middle.
    let blocks =
        ["trainer.updating 1 kill", "trainer.updating 1700 kill", "trainer.updating 3000 kill"];
    die_in_an_all_reduce("shm", blocks);
    let begin_and_end = [
        "all-reduce.shm.brought-in 1 kill",
        "all-reduce.shm.brought-in 2 kill",
        "all-reduce.shm.added 1 kill",
    ];
    die_in_an_all_reduce("shm", begin_and_end);
}

/// A member that shares the state freezes after writing some blocks of the next state, and wakes
/// when the others have continued without it.
#[test]
fn a_member_freezes_in_the_middle_of_an_update_of_the_shared_state_and_wakes() {
    for (rank, order) in [(0, "trainer.updating 1700 freeze"), (2, "trainer.updating 900 freeze")] {
        let place = Place::new();
        let flags = format!(
            "{SMALL} {ENDLESS} {MIXED_BUILDS} --workers 3 --dead-after-seconds 4 --collective shm"
        );
        let mut fleet = Fleet::without_workers(&place, &flags);
        for other in 0..3 {
            let flags = format!("--rank {other} --threads 1");
            if other == rank { fleet.add_armed(&flags, order) } else { fleet.add(&flags) }
        }
        fleet.wait_for_event(&place, "lost", 1);
        assert_eq!(place.events("lost")[0]["rank"], rank);
        fleet.wait_for_event(&place, "generation_started", 2);
        fleet.wait_for_progress(&place);
        fleet.workers[rank].signal(Signal::CONT);
        fleet.wait_for_event(&place, "joined", 4);
        fleet.wait_for_event(&place, "generation_started", 3);
        fleet.wait_for_progress(&place);
        stopped_with_the_same_bits(&place, fleet);
    }
}

/// A new worker dies with half of the state received, and the next new worker receives the whole
/// state.
#[test]
fn a_worker_dies_while_it_takes_over_a_state() {
    let place = Place::new();
    let mut fleet =
        Fleet::without_workers(&place, &format!("{SMALL} {ENDLESS} {MIXED_BUILDS} --workers 2"));
    fleet.add("--rank 0 --threads 1");
    fleet.add_armed("--rank 1 --threads 1", "trainer.step 30 kill");
    fleet.workers.remove(1).wait().killed();
    fleet.add_armed("--threads 1", "transfer.receiving 2 kill");
    fleet.workers.remove(1).wait().killed();
    fleet.add("--threads 1");
    fleet.workers[1].wait_for_line("training rank=1");
    fleet.wait_for_progress(&place);
    stopped_with_the_same_bits(&place, fleet);
}

/// The donor dies with half of the state sent, and the new worker asks another donor.
#[test]
fn a_donor_dies_while_it_gives_its_state() {
    let place = Place::new();
    let flags = format!("{SMALL} {ENDLESS} {MIXED_BUILDS} --workers 3 --collective grpc");
    let mut fleet = Fleet::without_workers(&place, &flags);
    fleet.add("--rank 0 --threads 1");
    // The last member that has the state is asked first.
    fleet.add_armed("--rank 1 --threads 1", "transfer.donating 2 kill");
    fleet.add_armed("--rank 2 --threads 1", "trainer.step 30 kill");
    fleet.workers.remove(2).wait().killed();
    fleet.add("--threads 1");
    fleet.workers.remove(1).wait().killed();
    fleet.workers[1].wait_for_line("training rank=");
    fleet.wait_for_progress(&place);
    stopped_with_the_same_bits(&place, fleet);
}

/// A run of three members that share their state; the last of them has died.
fn two_of_three_that_share_their_state(place: &Place) -> Fleet {
    let flags = format!("{SMALL} {ENDLESS} {MIXED_BUILDS} --workers 3 --collective shm");
    let mut fleet = Fleet::without_workers(place, &flags);
    fleet.add("--rank 0 --threads 1");
    fleet.add("--rank 1 --threads 1");
    fleet.add_armed("--rank 2 --threads 1", "trainer.step 30 kill");
    fleet.workers.remove(2).wait().killed();
    fleet
}

/// A new worker dies with a part of the state copied, and the next new worker copies the state.
#[test]
fn a_worker_dies_while_it_copies_a_state_out_of_shared_memory() {
    let place = Place::new();
    let mut fleet = two_of_three_that_share_their_state(&place);
    fleet.add_armed("--threads 1", "transfer.copying 2 kill");
    fleet.workers.remove(2).wait().killed();
    fleet.add("--threads 1");
    fleet.workers[2].wait_for_line("training rank=2");
    fleet.wait_for_progress(&place);
    stopped_with_the_same_bits(&place, fleet);
}

/// A new worker freezes with a part of the state copied, until training has overwritten this state.
/// The worker notices this, and copies a newer state.
#[test]
fn a_state_is_overwritten_while_it_is_copied_out_of_shared_memory() {
    let place = Place::new();
    let mut fleet = two_of_three_that_share_their_state(&place);
    fleet.add_armed("--threads 1", "transfer.copying 1 freeze");
    let stat = format!("/proc/{}/stat", fleet.workers[2].id());
    fleet.workers[2].wait_until("the worker is frozen", || {
        let stat = fs::read_to_string(&stat).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    });
    fleet.wait_for_progress(&place);
    fleet.wait_for_progress(&place);
    fleet.workers[2].signal(Signal::CONT);
    fleet.workers[2].wait_for_line("training rank=2");
    fleet.wait_for_progress(&place);
    stopped_with_the_same_bits(&place, fleet);
}

/// The only member with the current state dies while it sends the state: the run restarts from the
/// newest checkpoint.
#[test]
fn the_only_donor_dies_while_it_gives_its_state() {
    let place = Place::new();
    let mut fleet =
        Fleet::without_workers(&place, &format!("{SMALL} {ENDLESS} {MIXED_BUILDS} --workers 2"));
    fleet.add_armed("--rank 0 --threads 1", "transfer.donating 3 kill");
    fleet.add_armed("--rank 1 --threads 1", "trainer.step 200 kill");
    fleet.workers.remove(1).wait().killed();
    fleet.add("--threads 1");
    fleet.workers.remove(0).wait().killed();
    fleet.workers[0].wait_for_line("training rank=");
    fleet.wait_for_progress(&place);
    stopped_with_the_same_bits(&place, fleet);
}

/// A coordinator dies while it makes the run directory, before any worker has joined.
fn dies_at_the_beginning(order: &str) {
    let place = Place::new();
    armed_coordinator(&place, &three_epochs("--workers 2"), order).wait().killed();
    let is_a_run = place.file("config.json").exists();
    let flags = if is_a_run { "--resume --spawn" } else { &three_epochs("--workers 2 --spawn") };
    coordinator_at(&place, flags).wait().succeeded();
    undisturbed(&place);
}

#[test]
fn a_coordinator_dies_while_it_makes_the_run_directory() {
    dies_at_the_beginning("run-dir.written 1 kill");
    dies_at_the_beginning("run-dir.synced 1 kill");
    dies_at_the_beginning("run-dir.renamed 1 kill");
    // The first journal entry has the key of the secrets, the second has the address.
    dies_at_the_beginning("journal.written 1 kill");
    dies_at_the_beginning("journal.synced 1 kill");
    dies_at_the_beginning("journal.written 2 kill");
    dies_at_the_beginning("journal.synced 2 kill");
}

/// A coordinator of two workers dies; the workers wait until it is started again.
fn dies_and_is_started_again(order: &str) {
    let place = Place::new();
    let mut fleet = Fleet::of(armed_coordinator(&place, &three_epochs("--workers 2"), order), None);
    (0..2).for_each(|rank| fleet.add(&format!("--rank {rank} --threads 1")));
    let Fleet { coordinator, url, workers, .. } = fleet;
    coordinator.wait().killed();
    started_again(&place, &url, workers, "").completed();
    undisturbed(&place);
}

/// The number of the generation is on the disk; none, one or both of its members have received it.
#[test]
fn a_coordinator_dies_between_deciding_and_telling() {
    for entry in [3, 4] {
        dies_and_is_started_again(&format!("journal.written {entry} kill"));
        dies_and_is_started_again(&format!("journal.synced {entry} kill"));
    }
    dies_and_is_started_again("coordinator.decided 1 kill");
    dies_and_is_started_again("coordinator.telling 1 kill");
    dies_and_is_started_again("coordinator.telling 2 kill");
}

#[test]
fn a_coordinator_dies_between_receiving_and_recording() {
    dies_and_is_started_again("coordinator.ready-received 1 kill");
    dies_and_is_started_again("coordinator.ready-received 2 kill");
    dies_and_is_started_again("coordinator.epoch-received 2 kill");
    dies_and_is_started_again("journal.written 5 kill");
    // At the fourth report both workers have completed the run.
    dies_and_is_started_again("coordinator.ready-received 4 kill");
}

/// A worker dies in the middle of a step, then the coordinator dies after deciding on the next
/// generation.
#[test]
fn a_worker_dies_and_then_the_coordinator() {
    for order in ["coordinator.decided 2 kill", "coordinator.telling 5 kill"] {
        let place = Place::new();
        let mut fleet =
            Fleet::of(armed_coordinator(&place, &three_epochs("--workers 4"), order), None);
        fleet.add_armed("--rank 0 --threads 1", "trainer.step 100 kill");
        (1..4).for_each(|rank| fleet.add(&format!("--rank {rank} --threads 1")));
        let Fleet { coordinator, url, mut workers, .. } = fleet;
        workers.remove(0).wait().killed();
        coordinator.wait().killed();
        started_again(&place, &url, workers, "").completed();
        undisturbed(&place);
    }
}

/// Training is complete, and the coordinator dies before it has written this down.
fn dies_at_the_end(order: &str) {
    let place = Place::new();
    let mut fleet = Fleet::of(armed_coordinator(&place, &three_epochs("--workers 1"), order), None);
    fleet.add("--threads 1");
    fleet.coordinator.wait().killed();
    // The worker was told that the run is complete.
    fleet.workers.remove(0).wait().succeeded();
    coordinator_at(&place, "--resume --spawn").wait().succeeded();
    undisturbed(&place);
}

#[test]
fn a_coordinator_dies_while_it_ends_the_run() {
    dies_at_the_end("journal.written 6 kill");
    dies_at_the_end("coordinator.ended 1 kill");
    dies_at_the_end("run-dir.synced 2 kill");
}

/// The coordinator was told to stop, and dies when a worker reports that the state is saved.
#[test]
fn a_coordinator_dies_while_it_stops() {
    let place = Place::new();
    let flags = format!("{SMALL} {ENDLESS} {MIXED_BUILDS} --workers 2");
    let order = "coordinator.saved-received 1 kill";
    let mut fleet = Fleet::of(armed_coordinator(&place, &flags, order), None);
    (0..2).for_each(|rank| fleet.add(&format!("--rank {rank} --threads 1")));
    fleet.wait_for_progress(&place);
    fleet.coordinator.signal(Signal::INT);
    let Fleet { coordinator, url, workers, .. } = fleet;
    coordinator.wait().killed();
    let mut fleet = started_again(&place, &url, workers, "");
    fleet.wait_for_progress(&place);
    stopped_with_the_same_bits(&place, fleet);
}
