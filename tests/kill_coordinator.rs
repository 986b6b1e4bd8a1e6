//! The coordinator dies without a word: nobody is left behind, and the run can be resumed. When
//! it only stood still for a while, nothing has happened.

use std::time::{Duration, Instant};

use rustix::process::{Signal, test_kill_process};

use crate::{
    harness::{
        ENDLESS, Fleet, Place, SMALL, assert_same_tensors, coordinator_at, descendants, reference,
        wait_until,
    },
    stop::resumes_to_the_same_bits,
};

#[test]
fn its_workers_end_with_an_error() {
    let place = Place::new();
    let mut fleet = Fleet::start(&place, 2, &format!("{SMALL} {ENDLESS}"));
    let checkpoints = || !place.checkpoints().is_empty();
    fleet.coordinator.wait_until("there is a checkpoint", checkpoints);
    fleet.coordinator.signal(Signal::KILL);
    let (_, workers) = fleet.wait();
    workers.into_iter().for_each(|worker| drop(worker.failed_with(&["lost the coordinator"])));
    resumes_to_the_same_bits(&place, 2);
}

#[test]
fn its_spawned_workers_are_not_left_behind() {
    let place = Place::new();
    let mut coordinator = coordinator_at(&place, &format!("{SMALL} {ENDLESS} --workers 2 --spawn"));
    let checkpoints = || !place.checkpoints().is_empty();
    coordinator.wait_until("there is a checkpoint", checkpoints);
    let workers = descendants(coordinator.id());
    assert_eq!(workers.len(), 2);
    coordinator.signal(Signal::KILL);
    coordinator.wait();
    wait_until("the workers are gone", || {
        workers.iter().all(|worker| test_kill_process(*worker).is_err())
    });
}

/// It has not heard its workers for too long, but that was not their fault.
#[test]
fn it_stands_still_and_blames_nobody() {
    const DEAD_AFTER: Duration = Duration::from_secs(2);
    let place = Place::new();
    let flags = format!("{SMALL} --epochs 4 --dead-after-seconds {}", DEAD_AFTER.as_secs());
    let mut fleet = Fleet::start(&place, 2, &flags);
    fleet.wait_for_progress(&place);
    let begun = Instant::now();
    fleet.coordinator.signal(Signal::STOP);
    wait_until("it stood still for long enough", || begun.elapsed() > DEAD_AFTER * 3 / 2);
    fleet.coordinator.signal(Signal::CONT);
    fleet.completed();
    assert_same_tensors(&place.newest(), &reference(4));
}
