//! A worker's device fails in the middle of a step, or its training thread panics. The worker ends
//! with the reason, and the others continue as after a kill, to the same bytes.

use serde_json::Value;

use crate::harness::{
    Fleet, MIXED_BUILDS, Place, Process, SMALL, armed_programs, assert_same_tensors, reference,
};

const EPOCHS: u64 = 2;

/// Asserts that a worker ended with one error line, which names the cause.
#[track_caller]
fn left_with(worker: Process, cause: &str) {
    let exit = worker.wait().exited_with(1);
    let errors: Vec<&str> = exit.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(matches!(errors[..], [error] if error.contains(cause)), "{exit}");
}

#[track_caller]
fn completed(fleet: Fleet, place: &Place) {
    fleet.completed();
    assert_same_tensors(&place.newest(), &reference(EPOCHS));
    assert_eq!(place.summary()["examples_counted"], Value::from(vec![6000; EPOCHS as usize]));
}

/// One of three workers breaks at its 30th step.
fn breaks(order: &str, cause: &str, collective: &str) {
    // Built first, because the other workers wait for this worker.
    armed_programs();
    let place = Place::new();
    let flags =
        format!("{SMALL} --epochs {EPOCHS} {MIXED_BUILDS} --workers 3 --collective {collective}");
    let mut fleet = Fleet::without_workers(&place, &flags);
    fleet.add("--rank 0 --threads 1");
    fleet.add_armed("--rank 1 --threads 1", order);
    fleet.add("--rank 2 --threads 1");
    left_with(fleet.workers.remove(1), cause);
    completed(fleet, &place);
    assert_eq!(place.events("lost").len(), 1);
}

#[test]
fn its_device_fails() {
    let cause = "this worker's device failed: libtorch: a failure that a test asked for";
    breaks("trainer.device 30 fail", cause, "shm");
    breaks("trainer.device 30 fail", cause, "grpc");
}

#[test]
fn its_training_thread_panics() {
    let cause = "the training thread panicked: a panic that a test asked for at trainer.step";
    breaks("trainer.step 30 panic", cause, "shm");
    breaks("trainer.step 30 panic", cause, "grpc");
}

/// No other member can notice the fault, and the heartbeats of the only worker would continue for
/// ever.
#[test]
fn the_only_one_breaks() {
    armed_programs();
    for (order, cause) in [
        ("trainer.step 1 panic", "at trainer.step"),
        ("trainer.step 100 panic", "at trainer.step"),
        ("training.begins 1 panic", "at training.begins"),
        ("trainer.device 100 fail", "device failed"),
    ] {
        let place = Place::new();
        let flags = format!("{SMALL} --epochs {EPOCHS} {MIXED_BUILDS} --workers 1");
        let mut fleet = Fleet::without_workers(&place, &flags);
        fleet.add_armed("--threads 1", order);
        left_with(fleet.workers.remove(0), cause);
        fleet.add("--threads 1");
        completed(fleet, &place);
    }
}
