//! A worker dies, hangs or is told to leave in the middle of a run: the run ends soon, says who
//! it was, and goes on from where it stood.

use std::time::Duration;

use rustix::process::Signal;

use crate::{
    harness::{ENDLESS, Exit, Fleet, Place, Process, SMALL, coordinator_at, descendants},
    stop::resumes_to_the_same_bits,
};

/// For how long a worker may be silent in these runs.
const DEAD_AFTER: Duration = Duration::from_secs(2);

/// What may pass beyond that until the coordinator has exited: saving and saying farewell.
const AFTERMATH: Duration = Duration::from_secs(1);

const WORKERS: u32 = 3;

/// A run that is in the middle of training.
fn in_the_middle(place: &Place, collective: &str) -> Fleet {
    let dead_after = DEAD_AFTER.as_secs();
    // No checkpoint is due: the one that is found was written because of what happened.
    let flags = format!(
        "{SMALL} {ENDLESS} --checkpoint-every-epochs 100000 --dead-after-seconds {dead_after} \
         --collective {collective}"
    );
    let mut fleet = Fleet::start(place, WORKERS, &flags);
    fleet.wait_for_progress(place);
    fleet
}

/// The coordinator ends in time with an error that contains `words`, and so do the survivors.
fn ends_in_time(coordinator: Process, survivors: Vec<Process>, words: &[&str]) {
    let coordinator = coordinator.wait_within(DEAD_AFTER + AFTERMATH).failed_with(words);
    assert!(coordinator.text().contains("go on with: vae-coordinator --resume"), "{coordinator}");
    for survivor in survivors {
        survivor.wait().failed_with(words);
    }
}

fn killed(rank: usize, collective: &str) {
    let place = Place::new();
    let mut fleet = in_the_middle(&place, collective);
    let victim = fleet.workers.remove(rank);
    let step = place.step();
    victim.signal(Signal::KILL);
    ends_in_time(fleet.coordinator, fleet.workers, &[&format!("rank {rank} is gone")]);
    assert_eq!(place.checkpoints().len(), 1);
    assert!(place.newest().metadata.step >= step, "no step is lost");
    resumes_to_the_same_bits(&place, 2);
}

#[test]
fn rank_zero_is_killed() {
    killed(0, "grpc");
    killed(0, "shm");
}

#[test]
fn another_rank_is_killed() {
    killed(2, "grpc");
    killed(2, "shm");
}

fn frozen(rank: usize, collective: &str) {
    let place = Place::new();
    let mut fleet = in_the_middle(&place, collective);
    let victim = fleet.workers.remove(rank);
    victim.signal(Signal::STOP);
    let words = [&format!("rank {rank} is gone"), "no sign of life"];
    ends_in_time(fleet.coordinator, fleet.workers, &words);
    // When it wakes, it finds that it is too late.
    victim.signal(Signal::CONT);
    victim.wait().failed_with(&["coordinator"]);
    resumes_to_the_same_bits(&place, 3);
}

#[test]
fn rank_zero_is_frozen() {
    frozen(0, "shm");
}

#[test]
fn another_rank_is_frozen() {
    frozen(1, "grpc");
}

/// A process that the coordinator started is not left behind, frozen as it is.
#[test]
fn a_spawned_worker_is_frozen() {
    let place = Place::new();
    let dead_after = DEAD_AFTER.as_secs();
    let flags = format!("{SMALL} {ENDLESS} --workers 2 --spawn --dead-after-seconds {dead_after}");
    let mut coordinator = coordinator_at(&place, &flags);
    coordinator.wait_until("the run makes progress", || place.step() > 0);
    let workers = descendants(coordinator.id());
    assert_eq!(workers.len(), 2);
    rustix::process::kill_process(workers[1], Signal::STOP).unwrap();
    let bound = DEAD_AFTER + AFTERMATH;
    coordinator.wait_within(bound).failed_with(&["is gone", "no sign of life"]);
    for worker in workers {
        assert!(rustix::process::test_kill_process(worker).is_err(), "a worker is left");
    }
    resumes_to_the_same_bits(&place, 2);
}

fn told_to_leave(workers: u32, rank: usize) {
    let place = Place::new();
    let flags = format!("{SMALL} {ENDLESS} --checkpoint-every-epochs 100000");
    let mut fleet = Fleet::start(&place, workers, &flags);
    fleet.wait_for_progress(&place);
    let step = place.step();
    fleet.workers[rank].signal(Signal::TERM);
    let (coordinator, workers) = fleet.wait();
    coordinator.failed_with(&[&format!("rank {rank} is gone"), "told to leave"]);
    workers.into_iter().for_each(|worker| drop::<Exit>(worker.failed_with(&["told to leave"])));
    assert!(place.newest().metadata.step >= step, "no step is lost");
    resumes_to_the_same_bits(&place, 1);
}

#[test]
fn a_worker_is_told_to_leave() {
    told_to_leave(2, 1);
}

#[test]
fn the_only_worker_is_told_to_leave() {
    told_to_leave(1, 0);
}

#[test]
fn a_spawned_worker_that_dies_before_the_run_begins_ends_it_at_once() {
    let place = Place::new();
    // A worker takes a while to load libtorch: it is caught before it is ready.
    let flags = format!("{SMALL} --epochs 1 --workers 2 --spawn --join-timeout-seconds 3600");
    let mut coordinator = coordinator_at(&place, &flags);
    let id = coordinator.id();
    coordinator.wait_until("both workers are there", || descendants(id).len() == 2);
    rustix::process::kill_process(descendants(id)[0], Signal::KILL).unwrap();
    coordinator.wait().failed_with(&["its process ended before the run began", "signal: 9"]);
}
