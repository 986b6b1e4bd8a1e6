//! Runs of earlier versions are read: a run directory from a version without tasks can be resumed, and
//! `vae` reads it.

use std::{fs, path::Path, process::Command};

use crate::harness::{Place, Process, SMALL, coordinator_at, programs};

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
    refused.failed_with(&["hidden-dim: 2 in the run, 3 given"]);

    let kept = fs::read(place.run_dir.join("config.json")).unwrap();
    let refused = coordinator_at(&place, "--resume --epochs 2 --spawn").wait();
    let says = ["revision 1 of the task vae", "revision 2, which has other bits", "add --allow"];
    refused.failed_with(&says);
    assert_eq!(fs::read(place.run_dir.join("config.json")).unwrap(), kept);

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

/// No flag helps against a run of a later version.
#[test]
fn a_run_of_a_later_revision_is_refused() {
    let place = Place::new();
    coordinator_at(&place, &format!("{SMALL} --epochs 1 --workers 1 --spawn")).wait().succeeded();
    let mut config = place.json("config.json");
    config["training"]["task"]["revision"] = 9.into();
    fs::write(place.run_dir.join("config.json"), config.to_string()).unwrap();
    let flags = "--resume --epochs 2 --spawn --allow-mixed-devices";
    let exit = coordinator_at(&place, flags).wait();
    let exit = exit.failed_with(&["revision 9 of the task vae", "the version that began the run"]);
    assert!(!exit.text().contains("add --allow"), "{exit}");
}
