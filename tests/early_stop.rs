//! Validation examples decide when a run ends and which checkpoint is best: the result is the same
//! for any number of workers, when workers are killed, and after a resume.

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Fleet, Place, coordinator, coordinator_at};

/// So few images that the model soon overfits.
const FEW: &str = "--shards 4 --batch-size 8 --test-images 40 --hidden-dim 64 --latent-dim 8 --seed 7 \
                   --learning-rate 0.01";
const HELD_OUT: &str = "--train-images 400 --validation-images 144";
/// The model is trained on the other 256 images.
const STEPS_PER_EPOCH: u64 = 8;
const STOPPING: &str = "--epochs 300 --early-stop-epochs 3 --keep-best --keep-checkpoints 1";

fn trained(flags: &str) -> Place {
    let place = Place::new();
    coordinator_at(&place, &format!("{FEW} {flags} --spawn")).wait().succeeded();
    place
}

/// The result of a run that was stopped early.
#[track_caller]
fn outcome(place: &Place) -> [Value; 5] {
    let summary = place.summary();
    assert_eq!(summary["has_ended_early"], true, "{summary}");
    let (epochs, best) = (&summary["epochs"], &summary["best_epoch"]);
    assert_eq!(epochs.as_u64().unwrap(), best.as_u64().unwrap() + 3, "{summary}");
    let best = checkpoint::read(&place.file("checkpoints/best.safetensors")).unwrap();
    assert_eq!(best.metadata.step, STEPS_PER_EPOCH * summary["best_epoch"].as_u64().unwrap());
    // The best checkpoint and the newest one.
    assert_eq!(place.checkpoints().len(), 2);
    let rows = place.metrics("epoch");
    let losses: Vec<f64> =
        rows.iter().map(|row| row["validation_loss"].as_f64().unwrap()).collect();
    assert_eq!(losses.len() as u64, epochs.as_u64().unwrap(), "each epoch is reported once");
    let lowest = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(summary["best_validation_loss"].as_f64(), Some(lowest));
    ["digest", "epochs", "steps", "best_epoch", "best_validation_loss"]
        .map(|name| summary[name].clone())
}

#[test]
fn a_run_ends_at_the_same_step_for_any_number_of_workers_over_kills_and_a_resumption() {
    let expected = outcome(&trained(&format!("{HELD_OUT} {STOPPING} --workers 1")));
    let several = trained(&format!("{HELD_OUT} {STOPPING} --workers 3 --collective grpc"));
    assert_eq!(outcome(&several), expected);

    // Rank zero, which writes the checkpoints, is killed on the way.
    let place = Place::new();
    let mut fleet = Fleet::start(&place, 3, &format!("{FEW} {HELD_OUT} {STOPPING}"));
    fleet.wait_for_event(&place, "generation_started", 1);
    fleet.workers.remove(0).signal(Signal::KILL);
    fleet.coordinator.wait().succeeded();
    assert_eq!(outcome(&place), expected);

    // The run ends after two epochs, and is resumed with another number of workers.
    let resumed = trained(&format!(
        "{HELD_OUT} --epochs 2 --early-stop-epochs 3 --keep-best --keep-checkpoints 1 --workers 1"
    ));
    let go_on = |flags: &str| {
        let flags = format!("--resume --workers 2 --spawn {flags}");
        coordinator_at(&resumed, &flags).wait().succeeded()
    };
    go_on("--epochs 300");
    assert_eq!(outcome(&resumed), expected);
    // Resumed again: there is nothing more to train.
    let exit = go_on("");
    assert!(exit.text().contains("so training has ended early"), "{exit}");
    assert_eq!(outcome(&resumed), expected);

    // The list of runs knows that such a run is complete.
    let folder = resumed.run_dir.parent().unwrap().display();
    let list = coordinator(&resumed, &format!("runs {folder} --json")).wait().succeeded();
    let list: Value = serde_json::from_str(&list.text()).unwrap();
    assert_eq!((&list[0]["state"], &list[0]["digest"]), (&"complete".into(), &expected[0]));
}

#[test]
fn what_is_held_out_is_the_last_of_the_training_set_and_never_learned_from() {
    let epochs = "--epochs 2 --workers 2";
    let held_out = trained(&format!("{HELD_OUT} {epochs}"));
    let without = trained(&format!("--train-images 256 {epochs}"));
    assert_eq!(held_out.digest(), without.digest());
    let [with, none] = [&held_out, &without].map(|place| place.metrics("epoch").pop().unwrap());
    assert_eq!(with["test_loss"], none["test_loss"]);
    assert_eq!(with["examples_counted"], 256);
    assert!(with["validation_loss"].as_f64().unwrap() > 50.0, "{with}");
    assert!(none.get("validation_loss").is_none(), "{none}");
    // Without --keep-best there is no best checkpoint.
    assert!(!held_out.file("checkpoints/best.safetensors").exists());
}
