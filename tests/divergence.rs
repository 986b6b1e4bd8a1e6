//! A bit in the memory of one worker flips: the run must stop, and name the step and the ranks.
//!
//! Members that share memory have one state, which cannot differ. With `--grad-clip` each member has
//! its own state, because it needs the whole gradient.

use crate::harness::{Exit, Fleet, MIXED_BUILDS, Place, SMALL};

/// Steps between comparisons. The bit flips in the update of step 25, which makes it step 30.
const FLAGS: &str = "--epochs 4 --verify-every 10";
const FLIP: &str = "trainer.updated 25 flip";

/// Runs with `workers` workers; a bit flips in the last of them.
fn spoilt(workers: usize, collective: &str) -> (Exit, Vec<Exit>) {
    let place = Place::new();
    let flags =
        format!("{SMALL} {FLAGS} {MIXED_BUILDS} --workers {workers} --collective {collective}");
    let mut fleet = Fleet::without_workers(&place, &flags);
    for rank in 0..workers - 1 {
        fleet.add(&format!("--rank {rank} --threads 1"));
    }
    fleet.add_armed(&format!("--rank {} --threads 1", workers - 1), FLIP);
    let ended = fleet.wait();
    assert!(place.checkpoints().is_empty(), "no state that cannot be trusted is kept");
    ended
}

#[test]
fn of_three_the_odd_one_is_named() {
    for collective in ["grpc", "shm --grad-clip 1000"] {
        let (coordinator, workers) = spoilt(3, collective);
        let words = ["differ after step 30", "rank 0 has", "rank 1 has", "odd one out: rank 2;"];
        coordinator.failed_with(&words);
        workers.into_iter().for_each(|worker| drop(worker.failed_with(&words)));
    }
}

#[test]
fn of_two_both_are_named() {
    let (coordinator, workers) = spoilt(2, "grpc");
    let words = ["differ after step 30", "rank 0 has", "rank 1 has"];
    let coordinator = coordinator.failed_with(&words);
    assert!(!coordinator.text().contains("odd one out"), "nobody knows which: {coordinator}");
    workers.into_iter().for_each(|worker| drop(worker.failed_with(&words)));
}
