//! A disk that does not answer holds up whoever needs it, and nobody else.

use std::fs::OpenOptions;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::{
    harness::{ENDLESS, Fleet, Place, SMALL, coordinator},
    stop::stopped_with_the_same_bits,
};

/// A checkpoint that takes for ever to be read, while a worker joins that is to begin from it.
#[test]
fn a_checkpoint_that_cannot_be_read_in_time_makes_no_coordinator_deaf() {
    let place = Place::new();
    // No other checkpoint is written meanwhile.
    let flags = format!("{SMALL} {ENDLESS} --checkpoint-every-epochs 100000 --workers 2");
    let mut fleet = Fleet::without_workers(&place, &flags);
    (0..2).for_each(|rank| fleet.add(&format!("--rank {rank} --threads 1")));
    fleet.wait_for_progress(&place);

    // Whoever opens a pipe to read waits until somebody opens it to write.
    let slow = place.file("checkpoints").join(checkpoint::file_name(99_999_999));
    mknodat(CWD, &slow, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    fleet.add("--threads 1");
    fleet.wait_for_event(&place, "joined", 3);
    fleet.wait_for_progress(&place);
    let status = coordinator(&place, &format!("status --coordinator {}", fleet.url));
    let status = status.wait().succeeded().text();
    assert!(status.contains("training: generation 1,"), "{status}");
    assert!(place.events("lost").is_empty());

    // It has an end, which is not that of a checkpoint: the worker begins without it.
    drop(OpenOptions::new().read(true).write(true).open(&slow).unwrap());
    std::fs::remove_file(&slow).unwrap();
    fleet.workers.last().unwrap().wait_for_line("skipped a damaged checkpoint");
    fleet.wait_for_progress(&place);
    stopped_with_the_same_bits(&place, fleet);
}
