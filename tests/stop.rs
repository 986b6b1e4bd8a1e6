//! A user stops a run in the middle of an epoch, and resumes it later.

use rustix::process::Signal;

use crate::harness::{
    ENDLESS, Fleet, Place, SMALL, STEPS_PER_EPOCH, assert_same_tensors, coordinator_at, reference,
};

/// Resumes a stopped run, trains to the end of the current epoch at least, and compares the bits
/// with the reference.
#[track_caller]
pub(crate) fn resumes_to_the_same_bits(place: &Place, workers: u32) {
    let epochs = place.newest().metadata.step / STEPS_PER_EPOCH + 1;
    let flags = format!("--resume --epochs {epochs} --workers {workers} --spawn");
    coordinator_at(place, &flags).wait().succeeded();
    assert_same_tensors(&place.newest(), &reference(epochs));
    let counted = place.summary()["examples_counted"].clone();
    assert_eq!(counted, serde_json::Value::from(vec![6000; epochs as usize]));
}

/// Stops a disturbed run, and resumes it with the same number of workers to the same bits.
#[track_caller]
pub(crate) fn stopped_with_the_same_bits(place: &Place, fleet: Fleet) {
    let count = u32::try_from(fleet.workers.len()).unwrap();
    fleet.coordinator.signal(Signal::INT);
    let (coordinator, workers) = fleet.wait();
    coordinator.exited_with(130);
    workers.into_iter().for_each(|worker| drop(worker.succeeded()));
    assert!(place.newest().metadata.step >= place.step(), "no step is lost");
    resumes_to_the_same_bits(place, count.max(1));
}

fn stopped_by(signal: Signal, exit_code: i32) {
    let place = Place::new();
    // No checkpoint is due, so the checkpoint in the folder was written because of the signal.
    let flags = format!("{SMALL} {ENDLESS} --checkpoint-every-epochs 100000");
    let mut fleet = Fleet::start(&place, 2, &flags);
    fleet.wait_for_progress(&place);
    fleet.coordinator.signal(signal);
    let (coordinator, workers) = fleet.wait();
    let coordinator = coordinator.exited_with(exit_code);
    assert!(coordinator.text().contains("/vae-coordinator --resume --run-dir "), "{coordinator}");
    workers.into_iter().for_each(|worker| drop(worker.succeeded()));

    let step = place.newest().metadata.step;
    assert!(step >= place.step(), "no step is lost");
    assert_eq!(place.checkpoints().len(), 1);
    resumes_to_the_same_bits(&place, 3);
}

#[test]
fn by_sigint() {
    stopped_by(Signal::INT, 130);
}

#[test]
fn by_sigterm() {
    stopped_by(Signal::TERM, 143);
}

/// The coordinator gets SIGHUP when its terminal is closed.
#[test]
fn by_sighup() {
    stopped_by(Signal::HUP, 129);
}

/// A service manager does this, and so does Ctrl-C in a terminal in which all processes run.
#[test]
fn by_a_signal_to_all_processes_at_once() {
    let place = Place::new();
    let mut fleet = Fleet::start(&place, 2, &format!("{SMALL} {ENDLESS}"));
    fleet.wait_for_progress(&place);
    fleet.workers.iter().for_each(|worker| worker.signal(Signal::TERM));
    fleet.coordinator.signal(Signal::TERM);
    let (coordinator, workers) = fleet.wait();
    coordinator.exited_with(143);
    // Each worker left the run because of its signal, or ended with the run.
    assert!(workers.iter().all(|worker| matches!(worker.status.code(), Some(0 | 143))));
    resumes_to_the_same_bits(&place, 2);
}

#[test]
fn before_the_workers_have_come() {
    let place = Place::new();
    let mut fleet = Fleet::without_workers(&place, &format!("{SMALL} --workers 2 --epochs 1"));
    fleet.add("--threads 1");
    fleet.coordinator.wait_for_line("Rank 0 joined");
    fleet.coordinator.signal(Signal::INT);
    let (coordinator, workers) = fleet.wait();
    coordinator.exited_with(130);
    workers.into_iter().for_each(|worker| drop(worker.succeeded()));
}

/// A worker that leaves before the run begins is replaced by another one.
#[test]
fn a_worker_before_the_run_begins() {
    let place = Place::new();
    let mut fleet = Fleet::without_workers(&place, &format!("{SMALL} --workers 2 --epochs 1"));
    fleet.add("--rank 0 --threads 1");
    fleet.workers[0].wait_for_line("joined");
    fleet.workers[0].signal(Signal::TERM);
    fleet.workers.remove(0).wait().exited_with(143);
    (0..2).for_each(|rank| fleet.add(&format!("--rank {rank} --threads 1")));
    fleet.completed();
    assert_same_tensors(&place.newest(), &reference(1));
}
