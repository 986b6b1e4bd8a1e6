//! Workers die, hang, are cut off or told to leave in the middle of a run: the others continue, no
//! step is lost, and the final bytes are those of an undisturbed run.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::{
    harness::{ENDLESS, Fleet, Place, SMALL, armed_coordinator, coordinator_at, descendants},
    stop::{resumes_to_the_same_bits, stopped_with_the_same_bits},
};

/// How long a worker may be silent in these runs.
const DEAD_AFTER: Duration = Duration::from_secs(2);

const WORKERS: u32 = 3;

/// A run that is in the middle of training.
fn in_the_middle(place: &Place, collective: &str) -> Fleet {
    let dead_after = DEAD_AFTER.as_secs();
    let flags =
        format!("{SMALL} {ENDLESS} --dead-after-seconds {dead_after} --collective {collective}");
    let mut fleet = Fleet::start(place, WORKERS, &flags);
    fleet.wait_for_progress(place);
    fleet
}

fn killed(ranks: &[usize], collective: &str) {
    let place = Place::new();
    let mut fleet = in_the_middle(&place, collective);
    let victims: Vec<_> = ranks.iter().rev().map(|rank| fleet.workers.remove(*rank)).collect();
    victims.iter().for_each(|victim| victim.signal(Signal::KILL));
    fleet.wait_for_event(&place, "lost", ranks.len());
    fleet.coordinator.wait_for_line("Going on with");
    fleet.wait_for_progress(&place);
    assert_eq!(place.events("lost").len(), ranks.len());
    stopped_with_the_same_bits(&place, fleet);
}

#[test]
fn rank_zero_is_killed() {
    killed(&[0], "grpc");
    killed(&[0], "shm");
}

#[test]
fn another_rank_is_killed() {
    killed(&[2], "grpc");
    killed(&[2], "shm");
}

#[test]
fn all_but_one_are_killed_at_once() {
    killed(&[0, 2], "grpc");
    killed(&[0, 1], "shm");
}

/// Each killed worker is replaced by a new one, several times.
#[test]
fn one_after_the_other_is_killed_and_replaced() {
    let place = Place::new();
    let mut fleet = in_the_middle(&place, "auto");
    for (round, rank) in [0, 2, 1, 0].into_iter().enumerate() {
        fleet.workers.remove(rank).signal(Signal::KILL);
        fleet.wait_for_event(&place, "lost", round + 1);
        fleet.add("--threads 1");
        let newcomer = fleet.workers.pop().unwrap();
        newcomer.wait_for_line("training rank=");
        fleet.workers.insert(rank, newcomer);
        fleet.wait_for_progress(&place);
    }
    stopped_with_the_same_bits(&place, fleet);
}

fn frozen(rank: usize, collective: &str) {
    let place = Place::new();
    let mut fleet = in_the_middle(&place, collective);
    fleet.workers[rank].signal(Signal::STOP);
    fleet.wait_for_event(&place, "lost", 1);
    let lost = &place.events("lost")[0];
    assert!(lost["reason"].as_str().unwrap().contains("no sign of life"), "{lost}");
    fleet.wait_for_event(&place, "generation_started", 2);
    fleet.wait_for_progress(&place);
    // The worker wakes up in a generation that has ended, and joins again.
    fleet.workers[rank].signal(Signal::CONT);
    fleet.wait_for_event(&place, "joined", WORKERS as usize + 1);
    fleet.wait_for_event(&place, "generation_started", 3);
    fleet.wait_for_progress(&place);
    // Its messages about the ended generation must not abort the current one.
    let ended = place.events("generation_ended");
    let causes: Vec<_> = ended.iter().map(|event| event["cause"].as_str().unwrap()).collect();
    assert!(matches!(causes[..], [_, pause] if pause.contains("a pause")), "{causes:?}");
    stopped_with_the_same_bits(&place, fleet);
}

#[test]
fn rank_zero_is_frozen() {
    frozen(0, "shm");
}

#[test]
fn another_rank_is_frozen() {
    frozen(1, "grpc");
}

/// A worker that is frozen for a moment only delays the others.
#[test]
fn a_worker_is_frozen_for_a_moment() {
    let place = Place::new();
    let mut fleet = in_the_middle(&place, "grpc");
    let begun = Instant::now();
    fleet.workers[1].signal(Signal::STOP);
    crate::harness::wait_until("a moment has passed", || begun.elapsed() > DEAD_AFTER / 4);
    fleet.workers[1].signal(Signal::CONT);
    fleet.wait_for_progress(&place);
    assert!(place.events("lost").is_empty());
    stopped_with_the_same_bits(&place, fleet);
}

#[test]
fn a_spawned_worker_is_killed_and_started_again() {
    let place = Place::new();
    let flags = format!("{SMALL} {ENDLESS} --workers 2 --spawn");
    let mut coordinator = coordinator_at(&place, &flags);
    coordinator.wait_until("the run makes progress", || place.step() > 0);
    for round in 1..=2 {
        let workers = descendants(coordinator.id());
        assert_eq!(workers.len(), 2);
        rustix::process::kill_process(workers[round - 1], Signal::KILL).unwrap();
        let joined = || place.events("generation_started").len() > 2 * round;
        coordinator.wait_until("the worker is back", joined);
    }
    coordinator.signal(Signal::INT);
    coordinator.wait().exited_with(130);
    resumes_to_the_same_bits(&place, 2);
}

/// The coordinator kills a frozen process that it started.
#[test]
fn a_spawned_worker_is_frozen_and_replaced() {
    let place = Place::new();
    let dead_after = DEAD_AFTER.as_secs();
    let flags = format!("{SMALL} {ENDLESS} --workers 2 --spawn --dead-after-seconds {dead_after}");
    let mut coordinator = coordinator_at(&place, &flags);
    coordinator.wait_until("the run makes progress", || place.step() > 0);
    let victim = descendants(coordinator.id())[1];
    rustix::process::kill_process(victim, Signal::STOP).unwrap();
    let is_gone = || rustix::process::test_kill_process(victim).is_err();
    coordinator.wait_until("the frozen worker is killed", is_gone);
    let again = || place.events("generation_started").len() >= 3;
    coordinator.wait_until("another one is there", again);
    coordinator.signal(Signal::INT);
    coordinator.wait().exited_with(130);
    resumes_to_the_same_bits(&place, 2);
}

#[test]
fn a_worker_is_told_to_leave() {
    let place = Place::new();
    let mut fleet = in_the_middle(&place, "auto");
    fleet.workers[0].signal(Signal::TERM);
    fleet.workers.remove(0).wait().exited_with(143);
    fleet.wait_for_event(&place, "generation_started", 2);
    fleet.wait_for_progress(&place);
    let cause = place.events("generation_started")[1]["cause"].to_string();
    assert!(cause.contains("a pause"), "nothing was aborted: {cause}");
    stopped_with_the_same_bits(&place, fleet);
}

/// The worker saves the state before it leaves, and the next worker continues from it.
#[test]
fn the_only_worker_is_told_to_leave() {
    let place = Place::new();
    let flags = format!("{SMALL} {ENDLESS} --checkpoint-every-epochs 100000");
    let mut fleet = Fleet::start(&place, 1, &flags);
    fleet.wait_for_progress(&place);
    let step = place.step();
    fleet.workers[0].signal(Signal::TERM);
    fleet.workers.remove(0).wait().exited_with(143);
    fleet.coordinator.wait_for_line("Waiting for workers: 0 of 1");
    assert!(place.newest().metadata.step >= step, "no step is lost");
    fleet.add("--threads 1");
    fleet.wait_for_progress(&place);
    stopped_with_the_same_bits(&place, fleet);
}

#[test]
fn too_few_are_left() {
    let place = Place::new();
    let flags = format!("{SMALL} {ENDLESS} --min-workers 2");
    let mut fleet = Fleet::start(&place, 2, &flags);
    fleet.wait_for_progress(&place);
    fleet.workers.remove(0).signal(Signal::KILL);
    fleet.coordinator.wait_for_line("Waiting for workers: 1 of 2");
    let step = place.step();
    fleet.add("--threads 1");
    fleet.wait_for_progress(&place);
    assert!(place.step() > step);
    stopped_with_the_same_bits(&place, fleet);
}

#[test]
fn nobody_comes_in_the_place_of_those_who_are_lost() {
    let place = Place::new();
    let flags = format!("{SMALL} {ENDLESS} --min-workers 2 --join-timeout-seconds 8");
    let mut fleet = Fleet::start(&place, 2, &flags);
    fleet.wait_for_progress(&place);
    let step = place.step();
    fleet.workers.remove(0).signal(Signal::KILL);
    let (coordinator, workers) = fleet.wait();
    let coordinator = coordinator.failed_with(&["only 1 of 2 workers", "within 8 s"]);
    for advice in ["/vae-coordinator --resume --run-dir ", "or with fewer: ", "--min-workers 1"] {
        assert!(coordinator.text().contains(advice), "{coordinator}");
    }
    workers.into_iter().for_each(|worker| drop(worker.failed_with(&["only 1 of 2 workers"])));
    assert!(place.newest().metadata.step >= step, "no step is lost");
    resumes_to_the_same_bits(&place, 2);
}

#[test]
fn a_spawned_worker_that_cannot_begin_ends_the_run_at_once() {
    let place = Place::new();
    let flags = format!(
        "{SMALL} --epochs 1 --workers 2 --spawn --join-timeout-seconds 3600 --max-restarts 0"
    );
    // Only workers come to this point.
    let coordinator = armed_coordinator(&place, &flags, "training.begins 1 kill");
    coordinator.wait().failed_with(&["its process ended before the run began", "SIGKILL"]);
}
