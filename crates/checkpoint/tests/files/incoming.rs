//! Checkpoints received from another place: they are complete and sound, or do not appear.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use checkpoint::{CheckpointError, Directory, read};

use crate::{folder, steps, write};

const ORIGIN: &str = "s3://bucket/run/step-00000010.safetensors";

/// Receives the bytes as the checkpoint of a step; gives the error, if they are refused.
fn refusal(directory: &Directory, step: u64, bytes: &[u8]) -> Option<CheckpointError> {
    let mut incoming = directory.receive(step).unwrap();
    incoming.write_all(bytes).unwrap();
    incoming.accept(Path::new(ORIGIN)).err()
}

#[test]
fn a_sound_one_gets_its_name() {
    let (_there, from) = folder();
    let (_here, to) = folder();
    let sound = write(&from, 10);
    let mut damaged = fs::read(&sound).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(to.path().join("step-00000010.safetensors"), damaged).unwrap();
    assert!(refusal(&to, 10, &fs::read(&sound).unwrap()).is_none());
    assert_eq!(read(&to.newest().unwrap().checkpoint.unwrap().0).unwrap(), read(&sound).unwrap());
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 1, "nothing stays beside it");
}

#[test]
fn a_file_of_somebody_else_keeps_its_name() {
    let (_there, from) = folder();
    let (_here, to) = folder();
    let sound = fs::read(write(&from, 10)).unwrap();
    let path = to.path().join("step-00000010.safetensors");
    fs::write(&path, "mine").unwrap();
    let error = refusal(&to, 10, &sound).unwrap();
    assert!(!error.is_damage() && error.to_string().contains("stays"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 1);
}

#[test]
fn a_damaged_one_is_named_after_its_origin_and_leaves_nothing() {
    let (_there, from) = folder();
    let (_here, to) = folder();
    let sound = fs::read(write(&from, 10)).unwrap();
    let mut flipped = sound.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for (step, bytes) in [(10, &flipped[..]), (10, &sound[..100]), (10, &[]), (11, &sound)] {
        let error = refusal(&to, step, bytes).unwrap();
        assert!(error.is_damage() && error.to_string().contains(ORIGIN), "{error}");
    }
    drop(to.receive(12).unwrap());
    assert!(steps(&to).is_empty());
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0);
}
