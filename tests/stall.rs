//! A worker whose training hangs while it still sends heartbeats is evicted.

use crate::harness::{Fleet, MIXED_BUILDS, Place, SMALL, assert_same_tensors, reference};

const EPOCHS: u64 = 4;

fn stalls(rank: usize, order: &str, collective: &str) {
    let place = Place::new();
    let flags = format!(
        "{SMALL} --epochs {EPOCHS} {MIXED_BUILDS} --workers 3 --stall-after-seconds 1 --collective {collective}"
    );
    let mut fleet = Fleet::without_workers(&place, &flags);
    for other in 0..3 {
        let flags = format!("--rank {other} --threads 1");
        if other == rank { fleet.add_armed(&flags, order) } else { fleet.add(&flags) }
    }
    fleet.wait_for_event(&place, "lost", 1);
    let lost = &place.events("lost")[0];
    assert_eq!(lost["rank"], rank, "{lost}");
    assert!(lost["reason"].as_str().unwrap().contains("the others waited for it"), "{lost}");
    let victim = fleet.workers.remove(rank);
    fleet.completed();
    assert_same_tensors(&place.newest(), &reference(EPOCHS));
    drop(victim);
}

#[test]
fn in_the_middle_of_a_step() {
    stalls(1, "trainer.step 50 hang", "grpc");
    stalls(0, "trainer.step 50 hang", "shm");
}

/// The other members wait for the victim's segment of the state.
#[test]
fn in_the_middle_of_an_update() {
    stalls(1, "trainer.updating 1000 hang", "shm");
}
