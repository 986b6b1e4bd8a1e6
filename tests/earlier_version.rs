//! Runs of earlier versions are read: a run directory from a version without tasks can be resumed, and
//! `vae` reads it.

use std::{fs, path::Path, process::Command};

use crate::harness::{Place, Process, coordinator_at, programs};

/// A run directory after one epoch, written by that version of `vae-coordinator`.
const BEFORE_TASKS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kept/before-tasks");

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

#[test]
fn a_run_from_before_there_were_tasks() {
    let place = Place::new();
    copy(Path::new(BEFORE_TASKS), &place.run_dir);
    let mut vae = Command::new(programs().join("vae"));
    vae.arg("evaluate").args(["--no-features", "--importance-samples", "0", "--checkpoint"]);
    let exit = Process::start("vae", vae.arg(&place.run_dir)).wait().succeeded();
    assert!(exit.text().contains("20 test images, grey pixels"), "{exit}");

    let refused = coordinator_at(&place, "--resume --epochs 2 --spawn --hidden-dim 3").wait();
    refused.failed_with(&["hidden_dim: 2 in the run, 3 given"]);

    // The run may have been computed on another kind of CPU.
    let flags = "--resume --epochs 2 --spawn --allow-mixed-devices";
    let exit = coordinator_at(&place, flags).wait().succeeded();
    let words = ["Going on after step 10", "VAE 784-2-2-2", "Epoch 2/2  loss "];
    assert!(words.iter().all(|words| exit.text().contains(words)), "{exit}");
    let config = place.json("config.json");
    assert_eq!(config["training"]["task"]["name"], "vae");
    let epochs = place.metrics("epoch");
    assert_eq!(epochs.iter().map(|line| &line["epoch"]).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(place.summary()["steps"], 20);
}
