//! A run from beginning to end: its output, its files, and its falling losses.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::Value;

use crate::harness::{Place, SMALL, STEPS_PER_EPOCH, coordinator, coordinator_at};

#[test]
fn a_run_leaves_all_that_it_promises() {
    let place = Place::new();
    let flags = format!("{SMALL} --workers 2 --spawn --epochs 3 --keep-checkpoints 2");
    let exit = coordinator_at(&place, &flags).wait().succeeded();

    assert!(exit.lines().any(|line| line.starts_with("Epoch 3/3  loss ")), "{exit}");

    let config = place.json("config.json");
    assert_eq!(config["training"]["seed"], 7);
    assert_eq!(config["training"]["shards"], 4);
    assert_eq!(config["training"]["task"]["options"]["hidden_dim"], 64);
    assert_eq!(config["operation"]["epochs"], 3);

    let summary = place.summary();
    assert_eq!(summary["run_id"], config["run_id"]);
    assert_eq!(summary["steps"], 3 * STEPS_PER_EPOCH);
    assert_eq!(summary["epochs"], 3);
    assert_eq!(summary["workers"], 2);
    assert_eq!(summary["shards"], 4);
    assert_eq!(summary["generations"], 1);
    assert_eq!(summary["examples_counted"], Value::from(vec![6000; 3]));
    assert_eq!(place.digest().len(), 32);
    assert!(summary["train_examples_per_second"].as_f64().unwrap() > 0.0);
    let number = |name: &str| summary[name].as_f64().unwrap();
    let parts = number("test_reconstruction") + number("test_kl");
    assert!((number("test_loss") - parts).abs() < 1e-6 * parts, "{summary}");

    let steps: Vec<u64> = place
        .checkpoints()
        .iter()
        .map(|path| checkpoint::read(path).unwrap().metadata.step)
        .collect();
    assert_eq!(steps, [2 * STEPS_PER_EPOCH, 3 * STEPS_PER_EPOCH]);
    for epoch in 1..=3 {
        assert_is_picture(&place.file(&format!("samples/epoch-{epoch:03}.png")));
    }
}

#[test]
fn the_metrics_tell_how_training_went() {
    let place = Place::new();
    let flags = format!("{SMALL} --workers 2 --spawn --epochs 3");
    coordinator_at(&place, &flags).wait().succeeded();

    for line in place.metrics("steps") {
        for field in ["step", "epoch", "generation"] {
            assert!(line[field].is_u64(), "{field} of {line}");
        }
        for field in ["loss", "reconstruction", "kl", "examples_per_second"] {
            assert!(line[field].is_f64(), "{field} of {line}");
        }
        let ranks = line["ranks"].as_array().unwrap();
        assert_eq!(ranks.iter().map(|rank| &rank["rank"]).collect::<Vec<_>>(), [0, 1]);
        for field in ["compute_seconds", "all_reduce_seconds", "waiting_seconds"] {
            assert!(ranks.iter().all(|rank| rank[field].is_f64()), "{field} of {line}");
        }
    }
    assert_eq!(place.step(), 3 * STEPS_PER_EPOCH);

    let epochs = place.metrics("epoch");
    assert_eq!(epochs.iter().map(|line| &line["epoch"]).collect::<Vec<_>>(), [1, 2, 3]);
    for line in &epochs {
        assert_eq!(line["examples_counted"], 6000);
        assert_eq!(line["index_sum"], 6000 * 5999 / 2);
    }
    let losses = |field: &str| epochs.iter().map(|l| l[field].as_f64().unwrap()).collect();
    for losses in [losses("loss"), losses("test_loss")] {
        let losses: Vec<f64> = losses;
        assert!(losses.is_sorted_by(|earlier, later| earlier > later), "{losses:?}");
    }
}

/// 60,000 is not a multiple of the global batch of 3 x 128.
#[test]
fn every_image_of_mnist_is_counted_exactly_once() {
    let place = Place::new();
    let flags = "--workers 2 --spawn --shards 3 --batch-size 128 --hidden-dim 16 --latent-dim 4 \
                 --epochs 1 --test-images 200";
    coordinator_at(&place, flags).wait().succeeded();

    let epochs = place.metrics("epoch");
    assert_eq!(epochs.len(), 1);
    assert_eq!(epochs[0]["examples_counted"], 60_000);
    assert_eq!(epochs[0]["index_sum"], 60_000_u64 * 59_999 / 2);
    assert_eq!(epochs[0]["step"], 60_000_u64.div_ceil(3 * 128));
    assert_eq!(place.summary()["examples_counted"], Value::from(vec![60_000]));
}

#[test]
fn more_shards_than_images_is_unusual_but_works() {
    let place = Place::new();
    let flags = "--workers 3 --spawn --shards 5 --batch-size 2 --train-images 3 --test-images 2 \
                 --hidden-dim 8 --latent-dim 2 --epochs 2";
    coordinator_at(&place, flags).wait().succeeded();
    assert_eq!(place.summary()["examples_counted"], Value::from(vec![3; 2]));
}

/// PyTorch's module of the same design can load the file with `strict=True`.
#[test]
fn a_checkpoint_holds_the_tensors_of_the_pytorch_module() {
    let place = Place::new();
    let flags = "--workers 1 --spawn --hidden-dim 24 --latent-dim 5 --train-images 100 \
                 --test-images 10 --epochs 1";
    coordinator_at(&place, flags).wait().succeeded();

    let layers = [
        ("encoder.0", 784, 24),
        ("encoder.2", 24, 24),
        ("encoder.4", 24, 2 * 5),
        ("decoder.0", 5, 24),
        ("decoder.2", 24, 24),
        ("decoder.4", 24, 784),
    ];
    let mut expected = BTreeMap::new();
    for (layer, inputs, outputs) in layers {
        for prefix in ["", "exp_avg.", "exp_avg_sq."] {
            expected.insert(format!("{prefix}{layer}.weight"), vec![outputs, inputs]);
            expected.insert(format!("{prefix}{layer}.bias"), vec![outputs]);
        }
    }
    let checkpoint = place.newest();
    let found: BTreeMap<_, _> =
        checkpoint.tensors.into_iter().map(|(name, tensor)| (name, tensor.shape)).collect();
    assert_eq!(found, expected);
    assert_eq!(checkpoint.metadata.run_id, place.json("config.json")["run_id"]);
}

#[test]
fn the_link_latest_points_at_the_newest_run() {
    let place = Place::new();
    let flags = "--listen 127.0.0.1:0 --workers 1 --spawn --hidden-dim 8 --latent-dim 2 \
                 --train-images 100 --test-images 10 --epochs 1";
    let latest = place.path("runs/latest");
    coordinator(&place, flags).wait().succeeded();
    let first = fs::canonicalize(&latest).unwrap();
    coordinator(&place, &format!("{flags} --seed 1")).wait().succeeded();
    let second = fs::canonicalize(&latest).unwrap();
    assert_ne!(first, second);
    for run_dir in [&first, &second] {
        assert!(run_dir.join("summary.json").exists(), "{}", run_dir.display());
    }
    assert!(fs::read_link(&latest).unwrap().is_relative(), "the folder can be moved");

    let resumed = "--listen 127.0.0.1:0 --workers 1 --spawn --resume --epochs 2";
    let exit = coordinator(&place, resumed).wait().succeeded();
    assert!(exit.text().contains(second.to_str().unwrap()), "{exit}");
    assert_eq!(fs::canonicalize(&latest).unwrap(), second);
}

fn assert_is_picture(path: &Path) {
    let file = fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut reader = png::Decoder::new(std::io::BufReader::new(file)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    assert!(pixels.iter().any(|pixel| *pixel > 0) && pixels.contains(&0), "{}", path.display());
}
