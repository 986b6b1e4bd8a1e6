//! The newest checkpoint is damaged: it is named and skipped, and the checkpoint before it leads to
//! the same bits.

use std::{fs, path::Path};

use crate::harness::{
    Place, SMALL, STEPS_PER_EPOCH, assert_same_tensors, coordinator_at, reference,
};

/// Trains two epochs, damages the second checkpoint, and resumes to the third epoch.
fn damaged_by(damage: impl FnOnce(&Path)) {
    let place = Place::new();
    let flags = format!("{SMALL} --workers 1 --spawn --epochs 2");
    coordinator_at(&place, &flags).wait().succeeded();
    let newest = place.checkpoints().pop().unwrap();
    damage(&newest);
    let damaged = fs::read(&newest).unwrap();

    let exit = coordinator_at(&place, "--resume --epochs 3 --spawn").wait().succeeded();
    let warned = |line: &str| line.contains("WARN") && line.contains(newest.to_str().unwrap());
    assert!(exit.lines().any(warned), "{exit}");
    assert!(exit.text().contains(&format!("Going on after step {STEPS_PER_EPOCH}, ")), "{exit}");
    assert_same_tensors(&place.newest(), &reference(3));
    let aside = format!("{}.damaged", newest.display());
    assert!(exit.text().contains(&format!("it is kept as {aside}")), "{exit}");
    assert_eq!(fs::read(aside).unwrap(), damaged, "nothing is thrown away");
    // The damaged checkpoint was written again.
    assert_same_tensors(&place.checkpoint(2 * STEPS_PER_EPOCH), &reference(2));
}

#[test]
fn by_one_flipped_bit() {
    damaged_by(|path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    });
}

#[test]
fn by_truncation() {
    damaged_by(|path| {
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    });
}

/// The run's id is in the header, so such a file does not say whose it is.
#[test]
fn by_a_lost_header() {
    damaged_by(|path| fs::File::options().write(true).open(path).unwrap().set_len(100).unwrap());
}

#[test]
fn by_emptiness() {
    damaged_by(|path| fs::write(path, []).unwrap());
}

#[test]
fn when_none_verifies_nothing_is_thrown_away() {
    let place = Place::new();
    let flags = format!("{SMALL} --workers 1 --spawn --epochs 1");
    coordinator_at(&place, &flags).wait().succeeded();
    let only = place.checkpoints().pop().unwrap();
    fs::write(&only, b"not a checkpoint").unwrap();
    let words = ["nothing to resume", "the only checkpoint is damaged"];
    coordinator_at(&place, "--resume --spawn").wait().failed_with(&words);
    assert_eq!(fs::read(&only).unwrap(), b"not a checkpoint");
}
