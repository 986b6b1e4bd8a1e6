//! A checkpoint records its arithmetic. If the bits depend on the arithmetic, a run resumes only
//! with the same one. Here libtorch computes convolutions.

use crate::harness::{Exit, Fleet, Place, SMALL, worker_in};

/// MKL's slowest code, which every CPU can run: its bits differ from those of the code that a worker
/// chooses.
const COMPATIBLE: &str = "MKL_CBWR=COMPATIBLE";

/// A coordinator that waits in vain for its worker waits no longer than a worker may take to be refused.
const IN_VAIN: &str = "--join-timeout-seconds 20";

/// Trains up to the end of an epoch, with one worker in this environment.
fn train(place: &Place, flags: &str, environment: &str) -> (Exit, Exit) {
    // With so few images, because the slowest code takes long.
    let small = SMALL.replace("--train-images 6000", "--train-images 1500");
    let flags = format!("{small} --architecture conv --workers 1 {flags}");
    let fleet = Fleet::without_workers(place, &flags);
    let worker = worker_in(environment, &format!("--coordinator {} --threads 1", fleet.url));
    let worker = worker.wait();
    (fleet.coordinator.wait(), worker)
}

fn trained(place: &Place, flags: &str, environment: &str) -> Vec<String> {
    let (coordinator, worker) = train(place, flags, environment);
    coordinator.succeeded();
    worker.succeeded();
    place.newest().metadata.arithmetic
}

#[test]
fn another_arithmetic_at_a_resume_is_refused_by_name() {
    let place = Place::new();
    let first = trained(&place, "--epochs 1", COMPATIBLE);
    assert_eq!(first.len(), 1, "{first:?}");
    assert!(first[0].starts_with("cpu/COMPATIBLE/f32/"), "{first:?}");

    let (coordinator, worker) = train(&place, &format!("--resume --epochs 2 {IN_VAIN}"), "");
    let words = ["this worker computes on cpu/", &first[0], "--allow-mixed-devices"];
    worker.failed_with(&words);
    let coordinator = coordinator.failed_with(&["turned away", &first[0]]);
    assert!(!coordinator.text().contains("start the missing"), "{coordinator}");
    assert_eq!(place.newest_step(), 24);

    let same = trained(&place, "--resume --epochs 2", COMPATIBLE);
    assert_eq!(same, first);
    let mixed = trained(&place, "--resume --epochs 3 --allow-mixed-devices", "");
    assert!(mixed.len() == 2 && mixed.contains(&first[0]), "{mixed:?}");

    let (coordinator, worker) =
        train(&place, &format!("--resume --epochs 4 {IN_VAIN}"), COMPATIBLE);
    worker.failed_with(&[&mixed[0], &mixed[1], "--allow-mixed-devices"]);
    coordinator.failed_with(&["turned away"]);
}
