//! A disk that does not answer holds up whoever needs it, and nobody else.

use crate::{
    harness::{
        ENDLESS, Fleet, MIXED_BUILDS, Place, SMALL, armed_coordinator, armed_programs, coordinator,
        wait_until,
    },
    stop::stopped_with_the_same_bits,
};

/// A worker joins that is to begin from a checkpoint, and reading one takes for ever, for that
/// worker and for the coordinator: the worker has to read it, the coordinator has not.
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
