//! Options that change the training: the bits depend on them, but not on the number of workers.

use crate::harness::{Place, SMALL, assert_same_tensors, coordinator_at, reference};

/// Each option with a value that is not its default.
const OPTIONS: [(&str, &str); 5] = [
    ("--binarize", "dynamic"),
    ("--importance-samples", "3"),
    ("--learning-rate-schedule", "cosine"),
    ("--kl-warmup-epochs", "1"),
    ("--grad-clip", "40"),
];

fn all() -> String {
    let options: Vec<String> =
        OPTIONS.iter().map(|(flag, value)| format!("{flag} {value}")).collect();
    format!("{SMALL} --epochs 2 {}", options.join(" "))
}

fn train(place: &Place, flags: &str) {
    coordinator_at(place, &format!("{flags} --spawn")).wait().succeeded();
}

#[test]
fn one_to_three_workers_give_the_same_bits_with_all_of_them() {
    let places = [1, 2, 3].map(|workers| {
        let place = Place::new();
        train(&place, &format!("{} --workers {workers}", all()));
        place
    });
    for place in &places {
        assert_eq!(place.digest(), places[0].digest());
        assert_same_tensors(&place.newest(), &places[0].newest());
    }
}

#[test]
fn each_of_them_changes_the_bits() {
    for (flag, value) in OPTIONS {
        let place = Place::new();
        train(&place, &format!("{SMALL} --epochs 1 --workers 2 {flag} {value}"));
        assert_ne!(place.newest().sha256, reference(1).sha256, "{flag}");
    }
}

#[test]
fn none_of_them_can_change_when_a_run_goes_on() {
    let place = Place::new();
    train(&place, &format!("{SMALL} --epochs 1 --workers 2"));
    for (flag, value) in OPTIONS {
        let name = flag.trim_start_matches("--");
        let resume = format!("--resume --epochs 2 {flag} {value} --spawn");
        coordinator_at(&place, &resume).wait().failed_with(&[name, "leave them out"]);
    }
}

/// The learning rates of a cosine schedule depend on the last epoch.
#[test]
fn a_cosine_cannot_be_made_longer() {
    let place = Place::new();
    train(&place, &format!("{SMALL} --epochs 1 --workers 2 --learning-rate-schedule cosine"));
    let words = ["--epochs 2", "cosine", "begin a new run"];
    coordinator_at(&place, "--resume --epochs 2 --spawn").wait().failed_with(&words);
}

/// A run is stopped after an epoch, and resumed.
#[test]
fn binary_pixels_and_a_warm_up_go_on_where_they_were() {
    let options = "--binarize dynamic --importance-samples 2 --kl-warmup-epochs 2 \
                   --learning-rate-schedule iwae";
    let [whole, parts] = [Place::new(), Place::new()];
    train(&whole, &format!("{SMALL} --epochs 2 --workers 2 {options}"));
    train(&parts, &format!("{SMALL} --epochs 1 --workers 2 {options}"));
    train(&parts, "--resume --epochs 2 --workers 1");
    assert_same_tensors(&parts.newest(), &whole.newest());
}
