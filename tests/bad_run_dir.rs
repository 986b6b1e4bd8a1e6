//! The run directory is in use, belongs to another run, or cannot be written.

use std::fs;

use crate::harness::{Fleet, Place, SMALL, coordinator, coordinator_at};

const TINY: &str = "--workers 1 --train-images 100 --test-images 10 --hidden-dim 8 --latent-dim 2";

#[test]
fn it_holds_a_run_already() {
    let place = Place::new();
    let place_of = place.run_dir.display().to_string();
    drop(Fleet::without_workers(&place, TINY));
    let before = place.json("config.json");

    let same = coordinator_at(&place, TINY).wait();
    same.failed_with(&[&place_of, "already holds this run", "--resume", "--run-dir"]);
    assert_eq!(place.json("config.json"), before, "it is left as it was");
}

#[test]
fn it_holds_another_configuration() {
    let place = Place::new();
    drop(Fleet::without_workers(&place, TINY));
    let flags = TINY.replace("--latent-dim 2", "--latent-dim 3 --seed 5");
    let words = ["latent-dim: 2 there, 3 here", "seed: 0 there, 5 here", "--run-dir"];
    let exit = coordinator_at(&place, &flags).wait().failed_with(&words);
    assert!(!exit.text().contains("hidden_dim"), "only what differs is named: {exit}");
}

#[test]
fn there_is_nothing_to_resume() {
    let place = Place::new();
    let words = ["nothing to resume", place.run_dir.to_str().unwrap(), "without --resume"];
    coordinator_at(&place, "--resume").wait().failed_with(&words);
    let words = ["nothing to resume", "runs/latest", "--run-dir"];
    coordinator(&place, "--resume").wait().failed_with(&words);
    assert!(!place.run_dir.exists());
}

#[test]
fn a_flag_contradicts_the_run_to_resume() {
    let place = Place::new();
    drop(Fleet::without_workers(&place, TINY));
    let words = ["hidden-dim: 8 in the run, 9 given", "leave them out"];
    let exit = coordinator_at(&place, "--resume --hidden-dim 9").wait().failed_with(&words);
    assert!(!exit.text().contains("train_examples"), "only what was given is named: {exit}");
    let words = ["--workers 2", "--shards 1"];
    coordinator_at(&place, "--resume --workers 2").wait().failed_with(&words);
}

#[test]
fn its_configuration_is_damaged() {
    let place = Place::new();
    fs::create_dir(&place.run_dir).unwrap();
    fs::write(place.file("config.json"), "{\"run_id\":").unwrap();
    for flags in ["", "--resume"] {
        let words = ["config.json", "is not a run's configuration"];
        coordinator_at(&place, flags).wait().failed_with(&words);
    }
}

/// Even root cannot create a folder below a file or in /proc.
#[test]
fn it_cannot_be_written() {
    let place = Place::new();
    fs::write(place.path("file"), b"").unwrap();
    let below_a_file = place.path("file/run").display().to_string();
    for run_dir in [&below_a_file[..], "/proc/lockstep"] {
        let flags = format!("{TINY} --listen 127.0.0.1:0 --run-dir {run_dir}");
        coordinator(&place, &flags).wait().failed_with(&["cannot write", run_dir, "--run-dir"]);
    }
}

#[test]
fn another_coordinator_is_at_work_in_it() {
    let place = Place::new();
    let mut fleet = Fleet::without_workers(&place, &format!("{SMALL} --epochs 2 --workers 2"));
    let words = ["another coordinator is running in", place.run_dir.to_str().unwrap()];
    coordinator_at(&place, "--resume --spawn").wait().failed_with(&words);
    (0..2).for_each(|_| fleet.add("--threads 1"));
    fleet.completed();
}
