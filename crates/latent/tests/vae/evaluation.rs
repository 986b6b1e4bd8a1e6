//! The numbers of an evaluation are consistent with each other and with those of training.

use serde_json::Value;
use vae_options::{Binarize, Likelihood, Precision};

use crate::harness::{LATENT, Place, TEST_IMAGES, plain, run_dir, train};

fn evaluate(place: &Place, flags: &str) -> Value {
    serde_json::from_str(&place.vae(&format!("evaluate --json {flags}"))).unwrap()
}

#[test]
fn the_bound_lies_below_the_loss_and_gets_tighter() {
    let place = Place::new();
    let mut last = f64::INFINITY;
    for samples in [1, 10, 700] {
        let flags = format!("--no-features --importance-samples {samples}");
        let report = evaluate(&place, &flags);
        let number = |name: &str| report[name].as_f64().unwrap();
        let sum = number("reconstruction") + number("kl");
        assert!((number("loss") - sum).abs() < 1e-9);
        let by_dimension = report["kl_by_dimension"].as_array().unwrap();
        let kl: f64 = by_dimension.iter().map(|kl| kl.as_f64().unwrap()).sum();
        assert!(by_dimension.len() == LATENT && (kl - number("kl")).abs() < 1e-6);
        let bound = -report["log_likelihood"]["nats"].as_f64().unwrap();
        assert!(bound < last, "{bound} after {last}");
        // With one sample, the bound is the loss with another draw of z.
        if samples == 1 {
            assert!((bound - number("loss")).abs() < 2.0, "{bound} {report}");
        } else {
            assert!(bound < number("loss"));
        }
        last = bound;
        assert!(report["log_likelihood"]["meaning"].as_str().unwrap().contains("grey"));
        assert_eq!(report["pixels"], "grey");
        assert_eq!(report["images"], TEST_IMAGES);
        assert_eq!(report["active_units"], LATENT);
        assert!(report["features"].is_null() && report["diversity"].is_null());
    }
}

#[test]
fn features_are_read_and_digits_counted() {
    let place = Place::new();
    let report = evaluate(&place, "--importance-samples 0");
    assert!(report["log_likelihood"].is_null());
    let features = report["features"].as_array().unwrap();
    let labels: Vec<u64> = features.iter().map(|f| f["labels"].as_u64().unwrap()).collect();
    // There are only 2000 training images.
    assert_eq!(labels, [100, 1000, 2000]);
    for kind in ["latent_means", "principal_components", "pixels"] {
        let errors: Vec<f64> = features.iter().map(|f| f[kind].as_f64().unwrap()).collect();
        assert!(errors[2] < errors[0] && errors[2] > 0.0 && errors[0] < 0.9, "{kind} {errors:?}");
    }
    let counts = report["diversity"]["counts"].as_array().unwrap();
    assert_eq!(counts.iter().map(|count| count.as_u64().unwrap()).sum::<u64>(), 1000);
    assert!(report["diversity"]["classes"].as_f64().unwrap() >= 0.5, "{report}");
    // The same evaluation as text.
    let text = place.vae("evaluate --importance-samples 0");
    for part in ["Loss ", "Active units: 4 of 4", "labels  latent means", "Diversity: "] {
        assert!(text.contains(part), "{text}");
    }
}

/// Equal bit for bit, for any objective, precision, number of shards and kind of pixels.
#[test]
fn the_loss_is_the_one_that_training_reported() {
    let plain = plain();
    let mut cases = vec![plain.clone(), plain.clone(), plain.clone(), plain.clone()];
    cases[1].shards = 3;
    cases[1].options.beta = 4.0;
    cases[1].options.likelihood = Likelihood::Gaussian;
    cases[2].options.importance_samples = 3;
    cases[2].options.binarize = Binarize::Dynamic;
    cases[2].seed = 77;
    cases[3].options.latent_dim = 2;
    cases[3].options.precision = Precision::Bf16;
    let place = Place::new();
    for variant in cases {
        let run_dir = place.path("run");
        let reported = train(&variant, &run_dir);
        let flags = "evaluate --no-features --importance-samples 0";
        let report = place.vae_of(&run_dir, &format!("{flags} --json"));
        let report: Value = serde_json::from_str(&report).unwrap();
        let found = ["loss", "reconstruction", "kl"].map(|name| report[name].as_f64().unwrap());
        assert_eq!(found, reported, "{variant:?}");
        let text = place.vae_of(&run_dir, flags);
        assert!(text.contains(&format!("Loss {:.2}: ", reported[0])), "{text}");
        // Another seed draws different noise.
        let report = place.vae_of(&run_dir, &format!("{flags} --json --seed 123456"));
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_ne!(report["loss"].as_f64().unwrap(), reported[0]);
        std::fs::remove_dir_all(run_dir).unwrap();
    }
}

/// Without a limit, libtorch would start as many threads as the environment asks for, and they would spin. The
/// program's own threads sleep.
#[test]
fn no_threads_but_those_of_the_team() {
    let place = Place::new();
    let cores = std::thread::available_parallelism().unwrap().get();
    let mut command = place.command("fit-gmm --output gmm.safetensors --checkpoint");
    command.arg(run_dir()).env("OMP_NUM_THREADS", (cores + 20).to_string());
    let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    let tasks = format!("/proc/{}/task", child.id());
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        most = most.max(std::fs::read_dir(&tasks).map_or(0, Iterator::count));
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(child.wait().unwrap().success());
    assert!((1..=cores + 10).contains(&most), "{most} threads on {cores} cores");
}

#[test]
fn models_of_binary_pixels_and_of_densities_say_so() {
    let place = Place::new();
    let mut binary = plain();
    binary.options.binarize = Binarize::Dynamic;
    let mut gaussian = plain();
    gaussian.options.likelihood = Likelihood::Gaussian;
    for (variant, meaning) in [(binary, "log-likelihood of binary"), (gaussian, "log density")] {
        let run_dir = place.path("run");
        train(&variant, &run_dir);
        let flags = "evaluate --json --no-features --importance-samples 2";
        let report: Value = serde_json::from_str(&place.vae_of(&run_dir, flags)).unwrap();
        let found = report["log_likelihood"]["meaning"].as_str().unwrap();
        assert!(found.starts_with(meaning), "{found}");
        std::fs::remove_dir_all(run_dir).unwrap();
    }
}
