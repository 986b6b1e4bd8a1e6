//! The reports about a run are true, and say of which time they are: rates, losses, steps, workers
//! that are waited for, and lost workers.

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{
    ENDLESS, Fleet, Place, SMALL, STEPS_PER_EPOCH, coordinator, coordinator_at, wait_until, worker,
};

/// The status of a run as JSON.
fn status(place: &Place, url: &str) -> Value {
    let exit = coordinator(place, &format!("status --json --coordinator {url}")).wait().succeeded();
    serde_json::from_str(&exit.text()).unwrap_or_else(|error| panic!("{error}: {exit}"))
}

/// The status of a run as text.
fn status_text(place: &Place, url: &str) -> String {
    coordinator(place, &format!("status --coordinator {url}")).wait().succeeded().text()
}

/// The report of an epoch may come before the report of its last steps, from any of the workers.
#[test]
fn every_epoch_has_its_rate() {
    for _run in 0..3 {
        let place = Place::new();
        let flags = "--shards 4 --batch-size 16 --train-images 600 --test-images 200 --seed 7 \
                     --hidden-dim 64 --latent-dim 8 --workers 4 --spawn --epochs 3";
        let exit = coordinator_at(&place, flags).wait().succeeded();
        let epochs = place.metrics("epoch");
        assert_eq!(epochs.len(), 3);
        for line in &epochs {
            assert!(line["examples_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{line}");
        }
        let told: Vec<&str> = exit.lines().filter(|line| line.starts_with("Epoch ")).collect();
        assert_eq!(told.len(), 3, "{exit}");
        for line in told {
            assert!(line.ends_with(" images/s") && !line.contains(" 0 images/s"), "{line}");
            assert!(line.len() <= 80, "{} columns: {line}", line.len());
        }
        assert!(place.summary()["train_examples_per_second"].as_f64().unwrap() > 0.0);
    }
}

/// The resumed run trains nothing, so it has no rate.
#[test]
fn a_run_that_has_nothing_left_to_train_has_no_rate() {
    let place = Place::new();
    let flags = format!("{SMALL} --workers 1 --epochs 1 --spawn");
    coordinator_at(&place, &flags).wait().succeeded();
    let test_loss = place.summary()["test_loss"].clone();
    std::fs::remove_file(place.file("summary.json")).unwrap();
    let exit = coordinator_at(&place, "--resume --spawn").wait().succeeded();
    let summary = place.summary();
    assert!(summary["train_examples_per_second"].is_null(), "{summary}");
    assert_eq!(summary["test_loss"], test_loss);
    assert!(!exit.text().contains("images/s"), "{exit}");
    assert_eq!(place.metrics("epoch").len(), 1, "the epoch was recorded before");
}

#[test]
fn what_is_waited_for_is_told_by_the_one_who_waits() {
    let place = Place::new();
    let mut fleet = Fleet::without_workers(&place, &format!("{SMALL} --workers 2"));
    fleet.add("--threads 1");
    let words = "waiting for the coordinator, which waits for other workers (5 s)";
    fleet.workers[0].wait_for_line(words);
    // The time until the next line doubles with each line, which a busy machine prints late.
    for seconds in [5..10, 10..20] {
        let told =
            |second: u32| fleet.coordinator.says("Waiting for workers: ", &format!("({second} s)"));
        wait_until("the line is printed", || seconds.clone().any(told));
    }
    fleet.coordinator.signal(Signal::KILL);
    fleet.workers[0].wait_for_line("waiting for the coordinator to come back (5 s)");
}

#[test]
fn a_run_that_begins_with_fewer_workers_says_so() {
    let place = Place::new();
    let flags = format!("{SMALL} --workers 2 --epochs 1 --join-timeout-seconds 12");
    let mut fleet = Fleet::without_workers(&place, &flags);
    fleet.add("--threads 1");
    fleet
        .coordinator
        .wait_for_line("Waiting for workers: 1 of 2 are ready; the run begins with 1 in ");
    fleet.coordinator.wait_for_line("Beginning with 1 of 2 workers after ");
    fleet.completed();
    let begun = &place.events("begun_with_fewer")[0];
    assert_eq!((&begun["members"], &begun["workers"]), (&1.into(), &2.into()));
    assert!(begun["waited_seconds"].as_f64().unwrap() >= 12.0, "{begun}");
    let help = coordinator(&place, "--help").wait().succeeded().text();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let words =
        "when all have joined, or after --join-timeout-seconds if at least --min-workers have";
    assert!(help.contains(words), "{help}");
}

#[test]
fn a_resumed_run_that_is_stopped_before_anybody_came_is_where_it_was() {
    let place = Place::new();
    let flags = format!("{SMALL} --workers 1 --spawn --epochs 1");
    coordinator_at(&place, &flags).wait().succeeded();
    let flags = "--resume --epochs 3 --workers 2";
    let fleet = Fleet::of(coordinator_at(&place, flags), None);
    let status = status(&place, &fleet.url);
    assert_eq!(status["step"], STEPS_PER_EPOCH);
    assert_eq!(status["epoch"], 2);
    for unknown in ["loss", "examples_per_second", "reported_step", "reported_seconds_ago"] {
        assert!(status[unknown].is_null(), "{unknown}: {status}");
    }
    let waiting = status["waiting_for"].as_str().unwrap();
    assert!(waiting.starts_with("Waiting for workers: 0 of 2 are ready"), "{waiting}");
    let text = status_text(&place, &fleet.url);
    assert!(text.contains(waiting.split(';').next().unwrap()), "{text}");
    assert!(!text.contains("loss") && !text.contains("images/s"), "{text}");
    fleet.coordinator.signal(Signal::INT);
    let (exit, _) = fleet.wait();
    let exit = exit.exited_with(130);
    assert!(exit.text().contains(&format!("Interrupted after step {STEPS_PER_EPOCH};")), "{exit}");
}

#[test]
fn a_run_that_is_stopped_before_its_first_step_says_so() {
    let place = Place::new();
    let fleet = Fleet::without_workers(&place, &format!("{SMALL} --workers 2"));
    fleet.coordinator.signal(Signal::TERM);
    let (exit, _) = fleet.wait();
    let exit = exit.exited_with(143);
    assert!(exit.text().contains("Interrupted before the first step;"), "{exit}");
}

/// The steps since the last checkpoint are lost with the last worker.
#[test]
fn a_run_that_is_stopped_when_no_worker_is_left_says_what_is_kept() {
    let place = Place::new();
    let mut fleet = Fleet::start(&place, 1, &format!("{SMALL} {ENDLESS}"));
    fleet.coordinator.wait_until("a checkpoint is written", || !place.checkpoints().is_empty());
    fleet.wait_for_progress(&place);
    fleet.workers.remove(0).signal(Signal::KILL);
    fleet.coordinator.wait_for_line("Waiting for workers: 0 of 1 are ready");
    let step = place.newest().metadata.step;
    fleet.coordinator.signal(Signal::INT);
    let (exit, _) = fleet.wait();
    let exit = exit.exited_with(130);
    let words = format!("Interrupted; the last checkpoint is that of step {step}; go on with: ");
    assert!(exit.text().contains(&words), "{exit}");
}

/// While no worker trains there is no rate, and the loss is the last reported one.
#[test]
fn the_status_says_what_is_known_and_as_of_when() {
    let place = Place::new();
    let mut fleet = Fleet::start(&place, 2, &format!("{SMALL} {ENDLESS} --min-workers 2"));
    fleet.wait_for_progress(&place);
    let training = status(&place, &fleet.url);
    assert!(training["examples_per_second"].as_f64().unwrap() > 0.0, "{training}");
    assert!(training["reported_seconds_ago"].as_f64().unwrap() >= 0.0, "{training}");
    assert!(training["waiting_for"].is_null(), "{training}");
    assert!(training["step"].as_u64() >= training["reported_step"].as_u64(), "{training}");
    for worker in training["connected"].as_array().unwrap() {
        let is_known = worker["step"].is_u64() && worker["silent_seconds"].is_f64();
        assert!(is_known && worker["step"].as_u64() <= training["step"].as_u64(), "{training}");
    }
    fleet.workers.remove(1).signal(Signal::KILL);
    fleet.coordinator.wait_for_line("Waiting for workers: 1 of 2 are ready");
    let waiting = status(&place, &fleet.url);
    assert!(waiting["examples_per_second"].is_null(), "{waiting}");
    assert!(waiting["loss"].is_f64() && waiting["reported_step"].is_u64(), "{waiting}");
    assert!(waiting["waiting_for"].as_str().unwrap().contains("1 of 2 are ready"), "{waiting}");
    let text = status_text(&place, &fleet.url);
    assert!(text.contains(&format!("as of step {}, ", waiting["reported_step"])), "{text}");
    assert!(text.contains("giving up in ") && !text.contains("images/s"), "{text}");
}

/// A worker that has sent no message yet has no step.
#[test]
fn a_worker_that_was_not_heard_of_has_no_step() {
    let place = Place::new();
    let fleet = Fleet::without_workers(&place, &format!("{SMALL} --workers 2"));
    let _silent = crate::harness::Raw::join(&fleet.url, crate::harness::hello()).unwrap();
    fleet.coordinator.wait_for_line("Rank 0 joined");
    let status = status(&place, &fleet.url);
    let worker = &status["connected"][0];
    assert!(worker["step"].is_null() && worker["phase"].is_null(), "{status}");
    assert!(status_text(&place, &fleet.url).contains("not heard of since"));
}

fn lost_in_words(collective: &str) {
    let place = Place::new();
    let flags = format!("{SMALL} {ENDLESS} --collective {collective}");
    let mut fleet = Fleet::start(&place, 3, &flags);
    fleet.wait_for_progress(&place);
    fleet.workers[1].signal(Signal::KILL);
    let lost = fleet.coordinator.wait_for_line("Lost rank 1 on ");
    assert!(lost.contains("its process died, or the network was cut"), "{lost}");
    fleet.coordinator.wait_for_line("Going on with 2 of 3 workers");
    fleet.coordinator.signal(Signal::KILL);
    let (coordinator, workers) = (fleet.coordinator.wait(), fleet.workers);
    let survivor = &workers[2];
    survivor.wait_for_line("lost the coordinator (its process died, or the network was cut)");
    workers.iter().for_each(|worker| worker.signal(Signal::KILL));
    for exit in workers.into_iter().map(crate::harness::Process::wait).chain([coordinator]) {
        for riddle in ["h2 protocol", "error reading", "broken pipe", "transport error"] {
            assert!(!exit.text().contains(riddle), "{riddle}: {exit}");
        }
    }
    let reasons = place.events("lost").into_iter().chain(place.events("generation_ended"));
    reasons.for_each(|event| assert!(!event.to_string().contains("h2 protocol"), "{event}"));
}

#[test]
fn a_lost_worker_is_told_of_by_rank_and_in_words() {
    lost_in_words("grpc");
    lost_in_words("shm");
}

/// A worker that the user started prints how the run has ended.
#[test]
fn a_worker_says_at_its_end_that_the_run_is_done() {
    let place = Place::new();
    let fleet = Fleet::without_workers(&place, &format!("{SMALL} --workers 1 --epochs 1"));
    let worker = worker(&fleet.url, "--threads 1");
    fleet.completed();
    let exit = worker.wait().succeeded();
    let last = exit.lines().last().unwrap_or_default();
    assert!(last.contains("the run is done: finished with digest"), "{exit}");
}

/// By default, the console shows only warnings and errors of spawned workers.
#[test]
fn workers_that_were_spawned_do_not_bury_what_is_said() {
    let said = |flags: &str| {
        let place = Place::new();
        let flags = format!("{SMALL} --workers 4 --spawn --epochs 1 {flags}");
        coordinator_at(&place, &flags).wait().succeeded()
    };
    let exit = said("");
    assert!(!exit.text().contains("INFO") && !exit.text().contains("[worker "), "{exit}");
    let exit = said("--log-level info");
    for worker in 0..4 {
        let is_of = |line: &&str| line.starts_with(&format!("[worker {worker}] ")[..]);
        assert!(exit.lines().filter(is_of).any(|line| line.contains("training")), "{exit}");
    }
}
