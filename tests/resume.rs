//! A run that is stopped after an epoch and resumed gives the bits of a run without a break.

use std::fs;

use crate::harness::{Fleet, Place, SMALL, assert_same_tensors, coordinator_at, reference};

/// Trains the first epoch.
fn first_epoch() -> Place {
    let place = Place::new();
    let flags = format!("{SMALL} --workers 2 --spawn --epochs 1");
    coordinator_at(&place, &flags).wait().succeeded();
    place
}

#[test]
fn stopped_after_each_epoch_and_resumed_with_other_numbers_of_workers() {
    let place = first_epoch();
    for (epochs, workers) in [(2, 3), (3, 1)] {
        let flags = format!("--resume --epochs {epochs} --workers {workers} --spawn");
        let exit = coordinator_at(&place, &flags).wait().succeeded();
        assert!(exit.text().contains("Going on after step "), "{exit}");
        assert_same_tensors(&place.newest(), &reference(epochs));
        let summary = place.summary();
        assert_eq!(summary["workers"], workers);
        assert_eq!(summary["generations"], epochs, "a number is never used twice");
        assert_eq!(summary["examples_counted"].as_array().unwrap().len() as u64, epochs);
    }
    let epochs: Vec<_> =
        place.metrics("epoch").iter().map(|line| line["epoch"].as_u64().unwrap()).collect();
    assert_eq!(epochs, [1, 2, 3], "each epoch is reported once");
}

#[test]
fn a_finished_run_is_finished_at_once_when_resumed() {
    let place = first_epoch();
    let before = place.summary();
    for flags in ["--resume", "--resume-or-begin", "--resume --spawn"] {
        let exit = coordinator_at(&place, flags).wait().succeeded();
        assert!(exit.text().contains("is complete"), "{exit}");
    }
    assert_eq!(place.summary(), before);
    assert_eq!(place.metrics("epoch").len(), 1, "nothing was trained again");
    assert_same_tensors(&place.newest(), &reference(1));
}

#[test]
fn a_checkpoint_of_somebody_else_is_not_named_at_the_end() {
    let place = first_epoch();
    let foreign = place.run_dir.join("checkpoints/step-00099999.safetensors");
    fs::write(&foreign, "mine").unwrap();
    let exit = coordinator_at(&place, "--resume --epochs 2 --spawn").wait().succeeded();
    let text = exit.text();
    let named = text.lines().find(|line| line.starts_with("Checkpoint: ")).unwrap();
    assert!(named.ends_with("checkpoints/step-00000188.safetensors"), "{exit}");
    let kept = foreign.with_extension("safetensors.damaged");
    assert_eq!(fs::read(kept).unwrap(), b"mine");
}

#[test]
fn a_finished_run_cannot_be_made_shorter() {
    let place = Place::new();
    let flags = format!("{SMALL} --workers 1 --spawn --epochs 2");
    coordinator_at(&place, &flags).wait().succeeded();
    let words = ["step 188", "--epochs 1", "give more --epochs"];
    coordinator_at(&place, "--resume --epochs 1 --spawn").wait().failed_with(&words);
}

/// A run without a checkpoint begins again from its seed.
#[test]
fn a_run_without_a_checkpoint_begins_again() {
    let place = Place::new();
    let fleet = Fleet::without_workers(&place, &format!("{SMALL} --workers 2 --epochs 1"));
    drop(fleet);
    let exit = coordinator_at(&place, "--resume --spawn").wait().succeeded();
    assert!(exit.text().contains("no checkpoint yet"), "{exit}");
    assert_same_tensors(&place.newest(), &reference(1));
}

/// A line that a killed coordinator did not complete must not spoil the next line.
#[test]
fn lines_that_were_cut_off_are_taken_away() {
    let place = first_epoch();
    for file in ["metrics.jsonl", "journal.jsonl"] {
        let whole = fs::read_to_string(place.file(file)).unwrap();
        fs::write(place.file(file), whole + "{\"kind\":\"st").unwrap();
    }
    coordinator_at(&place, "--resume --epochs 2 --spawn").wait().succeeded();
    assert_eq!(place.metrics("epoch").len(), 2);
    assert_eq!(place.summary()["generations"], 2);
}
