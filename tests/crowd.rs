//! Hundreds of workers without tensors: half of them are lost at once, and the coordinator makes
//! one generation of the others; then new workers join. `cargo xtask crowd` measures this with a
//! thousand workers.

mod measure;

use rustix::process::Signal;

use crate::harness::{Crowd, ENDLESS, Fleet, Holding, Place};

const WORKERS: usize = 200;

/// How often half of the workers are lost and replaced, before and after the first reading of the
/// coordinator's memory.
const WARM_UP_ROUNDS: usize = 2;
const ROUNDS: usize = 4;

/// The largest allowed growth of the coordinator's memory, as a share of its memory after the
/// warm-up.
const MORE_MEMORY_MAX: f64 = 0.2;

/// No worker is evicted because this machine is too busy to send all heartbeats in time.
const PATIENT: &str = "--dead-after-seconds 60";

/// A coordinator that waits for `workers` workers, each with one shard of a few images.
fn coordinator(place: &Place, workers: usize, flags: &str) -> Fleet {
    let flags = format!(
        "--workers {workers} --batch-size 2 --train-images 6000 --test-images 200 {ENDLESS} {flags}"
    );
    Fleet::without_workers(place, &flags)
}

/// Every other rank, with the leader.
fn half(workers: usize) -> Vec<u32> {
    (0..workers as u32).step_by(2).collect()
}

#[test]
fn half_of_a_crowd_is_lost_at_once() {
    let place = Place::new();
    let mut fleet = coordinator(&place, WORKERS, PATIENT);
    let mut crowd = Crowd::new(&fleet.url);
    crowd.add(WORKERS);
    let (first, started) = crowd.wait_for_generation(&fleet.coordinator, WORKERS, 0);
    let all: Vec<u32> = (0..WORKERS as u32).collect();
    assert_eq!((first, &started.ranks), (1, &all));

    let (mut generation, mut memory) = (first, Vec::new());
    for round in 1..=WARM_UP_ROUNDS + ROUNDS {
        let lost = half(WORKERS);
        crowd.lose(&lost);
        let left = WORKERS - lost.len();
        let (next, started) = crowd.wait_for_generation(&fleet.coordinator, left, generation);
        assert_eq!(next, generation + 1, "one generation, whatever the number of losses");
        assert!(started.ranks.iter().all(|rank| rank % 2 == 1), "{:?}", started.ranks);
        fleet.wait_for_event(&place, "lost", round * lost.len());

        crowd.add(lost.len());
        let (full, started) = crowd.wait_for_generation(&fleet.coordinator, WORKERS, next);
        assert_eq!(started.ranks, all);
        generation = full;
        memory.push(Holding::of(&fleet.coordinator).resident_bytes);
    }
    let most = memory[WARM_UP_ROUNDS - 1] as f64 * (1.0 + MORE_MEMORY_MAX);
    assert!(*memory.last().unwrap() as f64 <= most, "it holds ever more memory: {memory:?}");

    fleet.coordinator.signal(Signal::TERM);
    fleet.coordinator.wait().exited_with(143);
    crowd.wait();
}
