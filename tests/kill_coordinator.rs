//! The coordinator dies without a word: its workers train on, and one that is started again
//! finds them. When it only stood still for a while, nothing has happened.

use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process, test_kill_process};

use crate::{
    harness::{
        ENDLESS, Fleet, Place, SMALL, assert_same_tensors, coordinator_at, coordinator_on,
        descendants, reference, wait_until,
    },
    stop::{resumes_to_the_same_bits, stopped_with_the_same_bits},
};

/// Kills the coordinator of a fleet, waits until `meanwhile` is done, and starts another one.
pub(crate) fn replaced(place: &Place, fleet: Fleet, meanwhile: impl FnOnce(&mut Fleet)) -> Fleet {
    let mut fleet = fleet;
    fleet.coordinator.signal(Signal::KILL);
    meanwhile(&mut fleet);
    let Fleet { coordinator, url, workers, network } = fleet;
    let host = coordinator.host().cloned();
    coordinator.wait();
    // Where the workers look for it, without having been told.
    let run_dir = place.run_dir.display();
    let flags = format!("--resume --run-dir {run_dir}");
    let coordinator = coordinator_on(host.as_ref(), place, &flags);
    coordinator.wait_for_line(&format!("Listening on {url}"));
    Fleet { coordinator, url, workers, network }
}

fn checkpoint_after(place: &Place, step: u64) {
    wait_until("the workers go on", || place.newest_step() > step);
}

fn killed(collective: &str) {
    let place = Place::new();
    let flags = format!("{SMALL} {ENDLESS} --collective {collective}");
    let mut fleet = Fleet::start(&place, 3, &flags);
    fleet.wait_for_progress(&place);
    let step = place.step();
    let mut fleet = replaced(&place, fleet, |_| checkpoint_after(&place, step + 94));
    fleet.wait_for_event(&place, "adopted", 3);
    fleet.wait_for_progress(&place);
    // The generation went on: nothing was aborted, nothing begun anew.
    assert_eq!(place.events("generation_started").len(), 1);
    assert!(place.events("lost").is_empty());
    stopped_with_the_same_bits(&place, fleet);
}

#[test]
fn its_workers_train_on_and_are_adopted() {
    killed("grpc");
    killed("shm");
}

#[test]
fn a_worker_dies_while_it_is_away() {
    let place = Place::new();
    let flags = format!("{SMALL} {ENDLESS} --dead-after-seconds 2");
    let mut fleet = Fleet::start(&place, 3, &flags);
    fleet.wait_for_progress(&place);
    let mut fleet = replaced(&place, fleet, |fleet| {
        let victim = fleet.workers.remove(0);
        victim.signal(Signal::KILL);
        victim.wait();
    });
    fleet.wait_for_progress(&place);
    stopped_with_the_same_bits(&place, fleet);
}

#[test]
fn its_spawned_workers_are_adopted_and_not_doubled() {
    let place = Place::new();
    let flags = format!("{SMALL} {ENDLESS} --workers 2 --spawn");
    let mut coordinator = coordinator_at(&place, &flags);
    coordinator.wait_until("the run makes progress", || place.step() > 0);
    let workers = descendants(coordinator.id());
    assert_eq!(workers.len(), 2);
    coordinator.signal(Signal::KILL);
    coordinator.wait();

    let flags = format!("--resume --spawn --run-dir {}", place.run_dir.display());
    let mut coordinator = crate::harness::coordinator(&place, &flags);
    coordinator.wait_until("they are adopted", || place.events("adopted").len() == 2);
    assert!(descendants(coordinator.id()).is_empty());
    // One that dies now is started again.
    kill_process(workers[0], Signal::KILL).unwrap();
    let again = || place.events("generation_started").len() >= 3;
    coordinator.wait_until("another one is there", again);
    assert_eq!(descendants(coordinator.id()).len(), 1);
    coordinator.signal(Signal::INT);
    coordinator.wait().exited_with(130);
    wait_until("the workers are gone", || {
        workers.iter().all(|worker| test_kill_process(*worker).is_err())
    });
    resumes_to_the_same_bits(&place, 2);
}

/// Nobody waits for ever: the members stop together and save what they have.
#[test]
fn it_never_comes_back() {
    let place = Place::new();
    let flags = format!(
        "{SMALL} {ENDLESS} --checkpoint-every-epochs 100000 --coordinator-timeout-seconds 1"
    );
    let mut fleet = Fleet::start(&place, 2, &flags);
    fleet.wait_for_progress(&place);
    let step = place.step();
    fleet.coordinator.signal(Signal::KILL);
    let (_, workers) = fleet.wait();
    let words = ["lost the coordinator", "no coordinator came back", "within 1 s"];
    workers.into_iter().for_each(|worker| drop(worker.failed_with(&words)));
    assert!(place.newest().metadata.step >= step, "no step is lost");
    resumes_to_the_same_bits(&place, 2);
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
