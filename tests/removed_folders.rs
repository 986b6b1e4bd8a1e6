//! Folders of the run directory are removed while the run trains, or after it has ended.

use std::fs;

use rustix::process::Signal;

use crate::{
    harness::{ENDLESS, Fleet, Place, SMALL, coordinator_at, wait_until},
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

/// A run that began again would lose its steps without a word.
#[test]
fn a_run_whose_checkpoints_are_gone_is_not_begun_again() {
    let place = Place::new();
    let mut fleet = Fleet::start(&place, 1, &format!("{SMALL} {ENDLESS}"));
    wait_until("three epochs are done", || place.metrics("epoch").len() > 2);
    fleet.coordinator.signal(Signal::KILL);
    fleet.workers.remove(0).signal(Signal::KILL);
    fleet.wait();
    let (there, away) = (place.file("checkpoints"), place.path("away"));
    fs::rename(&there, &away).unwrap();
    let refused = || {
        let words = ["checkpoints are gone from", there.to_str().unwrap(), "--run-dir"];
        coordinator_at(&place, "--resume --spawn --epochs 9").wait().failed_with(&words);
    };
    refused();
    fs::create_dir(&there).unwrap();
    refused();
    fs::remove_dir(&there).unwrap();
    fs::rename(&away, &there).unwrap();
    let coordinator = coordinator_at(&place, "--resume --spawn");
    coordinator.wait_for_line("Going on after step ");
    coordinator.signal(Signal::INT);
    coordinator.wait().exited_with(130);
}
