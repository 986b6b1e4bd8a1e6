//! Folders of the run directory are removed while the run trains, or after it has ended.

use std::fs;

use crate::{
    harness::{ENDLESS, Fleet, Place, SMALL, wait_until},
    stop::stopped_with_the_same_bits,
};

#[test]
fn while_the_run_trains_they_are_made_again() {
    let place = Place::new();
    let mut fleet = Fleet::start(&place, 2, &format!("{SMALL} {ENDLESS}"));
    fleet.wait_for_progress(&place);
    for folder in ["samples", "checkpoints"] {
        let has_files =
            || fs::read_dir(place.file(folder)).is_ok_and(|mut files| files.next().is_some());
        wait_until("the folder has files", has_files);
        fs::rename(place.file(folder), place.path(folder)).unwrap();
        wait_until("it has files again", has_files);
        let epochs = place.metrics("epoch").len();
        wait_until("training goes on", || place.metrics("epoch").len() > epochs + 1);
    }
    stopped_with_the_same_bits(&place, fleet);
}
