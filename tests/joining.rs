//! Workers that are refused, workers that join late, and workers that never come.

use std::net::TcpListener;

use protocol::{PROTOCOL_VERSION, wire::Hello};
use rustix::process::Signal;
use tonic::Code;

use crate::{
    harness::{
        ENDLESS, Fleet, Place, Raw, SMALL, assert_same_tensors, coordinator, coordinator_at,
        free_port, hello, reference, worker,
    },
    stop::stopped_with_the_same_bits,
};

/// A run of two workers, of which rank 0 has joined.
fn half_full(place: &Place) -> Fleet {
    let mut fleet = Fleet::without_workers(place, &format!("{SMALL} --workers 2 --epochs 1"));
    fleet.add("--rank 0 --threads 1");
    fleet.coordinator.wait_for_line("Rank 0 joined");
    fleet
}

/// Asserts that refused workers have not disturbed the run.
fn completes_with_the_same_bits(place: &Place, mut fleet: Fleet) {
    fleet.add("--threads 1");
    fleet.completed();
    assert_same_tensors(&place.newest(), &reference(1));
}

#[test]
fn a_rank_that_is_taken_or_does_not_exist() {
    let place = Place::new();
    let fleet = half_full(&place);
    let words = ["refused this worker", "rank 0 is taken", "choose another --rank"];
    worker(&fleet.url, "--rank 0").wait().failed_with(&words);
    let words = ["rank 2 does not exist", "0 to 1"];
    worker(&fleet.url, "--rank 2").wait().failed_with(&words);
    worker(&fleet.url, "--rank 4294967295").wait().failed_with(&["rank 4294967295"]);
    completes_with_the_same_bits(&place, fleet);
}

#[test]
fn another_version_of_the_protocol() {
    let place = Place::new();
    let fleet = half_full(&place);
    let newer = Hello { protocol_version: PROTOCOL_VERSION + 1, ..hello() };
    let refusal = Raw::join(&fleet.url, newer).unwrap_err();
    assert_eq!(refusal.code(), Code::FailedPrecondition);
    let versions = [PROTOCOL_VERSION, PROTOCOL_VERSION + 1].map(|version| version.to_string());
    for words in versions.iter().map(String::as_str).chain(["one build"]) {
        assert!(refusal.message().contains(words), "{refusal}");
    }
    completes_with_the_same_bits(&place, fleet);
}

#[test]
fn a_worker_that_computes_other_bits() {
    let place = Place::new();
    let fleet = half_full(&place);
    let refusal = Raw::join(&fleet.url, hello()).unwrap().recv().unwrap_err();
    assert_eq!(refusal.code(), Code::FailedPrecondition);
    for words in ["abacus/beads/f32", "the run on any/", "--allow-mixed-devices"] {
        assert!(refusal.message().contains(words), "{refusal}");
    }
    completes_with_the_same_bits(&place, fleet);
}

/// A coordinator dies after accepting a worker's connection and before reading its hello.
#[test]
fn a_coordinator_is_lost_before_it_has_answered() {
    let place = Place::new();
    let dying = TcpListener::bind(("127.0.0.1", free_port())).unwrap();
    let address = dying.local_addr().unwrap();
    let mut worker = worker(&format!("http://{address}"), "--threads 1");
    dying.set_nonblocking(true).unwrap();
    // The connection is closed without reading what the worker sent.
    worker.wait_until("a connection", || dying.accept().is_ok());
    drop(dying);
    worker.wait_for_line("trying again");
    let (run_dir, flags) = (place.run_dir.display(), "--workers 1 --epochs 1");
    let coordinator =
        coordinator(&place, &format!("--listen {address} --run-dir {run_dir} {SMALL} {flags}"));
    coordinator.wait().succeeded();
    worker.wait().succeeded();
    assert_same_tensors(&place.newest(), &reference(1));
}

/// A surplus worker waits as a spare until it is needed.
#[test]
fn a_spare_steps_in() {
    let place = Place::new();
    let mut fleet = Fleet::start(&place, 2, &format!("{SMALL} {ENDLESS}"));
    fleet.wait_for_progress(&place);
    fleet.add("--threads 1");
    fleet.workers[2].wait_for_line("joined as spare");
    fleet.wait_for_event(&place, "state_transferred", 1);
    fleet.workers[2].wait_for_line("waiting for a rank to become free: this worker is a spare");
    fleet.workers.remove(1).signal(Signal::KILL);
    fleet.workers[1].wait_for_line("training rank=1");
    fleet.wait_for_progress(&place);
    stopped_with_the_same_bits(&place, fleet);
}

/// A worker that joins while others train receives their state.
#[test]
fn a_worker_joins_a_run_that_has_begun() {
    let place = Place::new();
    let flags = format!("{SMALL} {ENDLESS} --join-timeout-seconds 8 --workers 3 --collective grpc");
    let mut fleet = Fleet::without_workers(&place, &flags);
    (0..2).for_each(|rank| fleet.add(&format!("--rank {rank} --threads 1")));
    // After the timeout the run begins with two workers.
    fleet.wait_for_progress(&place);
    fleet.add("--threads 1");
    fleet.workers[2].wait_for_line("training rank=2");
    fleet.wait_for_progress(&place);
    assert_eq!(place.events("lost"), [] as [serde_json::Value; 0]);
    stopped_with_the_same_bits(&place, fleet);
}

/// A worker that joins while others train on its host receives no state over the network: it copies
/// the state from shared memory.
#[test]
fn a_worker_joins_where_the_state_is_shared() {
    // A step takes longer than a copy of the state, so nothing must be copied twice.
    const JOB: &str = "--shards 4 --batch-size 256 --train-images 6000 --test-images 200 --seed 7";
    const STEPS_PER_EPOCH: u64 = 6;
    let place = Place::new();
    let flags = format!("{JOB} {ENDLESS} --join-timeout-seconds 8 --workers 3 --collective shm");
    let mut fleet = Fleet::without_workers(&place, &flags);
    (0..2).for_each(|rank| fleet.add(&format!("--rank {rank} --threads 1")));
    fleet.wait_for_progress(&place);
    fleet.add("--threads 1");
    fleet.workers[2].wait_for_line("copied the state from this host's memory");
    fleet.workers[2].wait_for_line("training rank=2");
    // The first copy is made while the others train, the second at the step where all continue
    // together.
    let transfers = place.events("state_transferred");
    assert!(!transfers.is_empty() && transfers.iter().all(|event| event["bytes"] == 0));
    fleet.wait_for_progress(&place);
    fleet.coordinator.signal(Signal::INT);
    let (coordinator, workers) = fleet.wait();
    coordinator.exited_with(130);
    workers.into_iter().for_each(|worker| drop(worker.succeeded()));

    let epochs = place.newest().metadata.step / STEPS_PER_EPOCH + 1;
    coordinator_at(&place, &format!("--resume --epochs {epochs} --spawn")).wait().succeeded();
    let alone = Place::new();
    let flags = format!("{JOB} --epochs {epochs} --workers 1 --spawn");
    coordinator_at(&alone, &flags).wait().succeeded();
    assert_same_tensors(&place.newest(), &alone.newest());
}

#[test]
fn workers_that_never_come() {
    let place = Place::new();
    let flags = "--workers 2 --join-timeout-seconds 1";
    let fleet = Fleet::without_workers(&place, flags);
    let exit = fleet.coordinator.wait().failed_with(&["only 0 of 2 workers", "within 1 s"]);
    for advice in ["begin again with: ", "start the workers"] {
        assert!(exit.text().contains(advice), "{exit}");
    }
}
