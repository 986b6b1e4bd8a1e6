//! A disk that does not answer delays only the process that needs it.

use crate::{
    harness::{
        ENDLESS, Fleet, MIXED_BUILDS, Place, SMALL, armed_coordinator, armed_programs, coordinator,
        wait_until,
    },
    stop::stopped_with_the_same_bits,
};

/// A new worker begins by reading a checkpoint, and the read hangs, in the worker and in the
/// coordinator. The worker needs the checkpoint, but the coordinator must continue without it.
#[test]
fn a_checkpoint_that_cannot_be_read_in_time_makes_no_coordinator_deaf() {
    const ORDER: &str = "checkpoint.reading 1 hang";
    armed_programs();
    let place = Place::new();
    let flags = format!("{SMALL} {ENDLESS} {MIXED_BUILDS} --workers 2");
    let mut fleet = Fleet::of(armed_coordinator(&place, &flags, ORDER), None);
    (0..2).for_each(|rank| fleet.add(&format!("--rank {rank} --threads 1")));
    wait_until("a checkpoint is written", || place.newest_step() > 0);

    fleet.add_armed("--threads 1", ORDER);
    fleet.wait_for_event(&place, "joined", 3);
    fleet.wait_for_progress(&place);
    let status = coordinator(&place, &format!("status --coordinator {}", fleet.url));
    let status = status.wait().succeeded().text();
    assert!(status.contains("training: generation 1,"), "{status}");
    assert!(place.events("lost").is_empty());
    stopped_with_the_same_bits(&place, fleet);
}
