//! Stories about checkpoint files: a damaged file is named, a sound file is found. Start at `damage.rs`.

mod aside;
mod damage;
mod incoming;
mod retention;
mod round_trip;

use std::path::PathBuf;

use checkpoint::{Directory, EpochLedger, Metadata, TensorView};
use tempfile::TempDir;

/// The run of all checkpoints, unless a test names another.
const RUN: &str = "run-1";

/// A folder for one test; dropping the first value deletes it.
fn folder() -> (TempDir, Directory) {
    let root = tempfile::tempdir().unwrap();
    let directory = Directory::open(root.path().join("run/checkpoints"));
    directory.create().unwrap();
    (root, directory)
}

fn metadata(step: u64) -> Metadata {
    Metadata {
        run_id: RUN.into(),
        step,
        seed: 42,
        configuration: r#"{"shards":4,"note":"a \"quoted\" one"}"#.into(),
        ledger: vec![EpochLedger {
            images: 60_000,
            index_sum: 1_799_970_000,
            loss_terms: vec![0.1, -2.5e300],
            test_losses: vec![0.5, 1e-300],
            validation_loss: Some(0.1),
        }],
        arithmetic: vec!["cpu/AVX2,STRICT/f32/libtorch 2.11.0".into()],
    }
}

/// Writes a small checkpoint whose values depend on `step`.
fn write(directory: &Directory, step: u64) -> PathBuf {
    let weight = [step as f32, -0.0, f32::MIN_POSITIVE, 3.5, f32::MAX, 1e-45];
    let bias = [0.25, step as f32];
    let tensors = [
        TensorView { name: "encoder.0.weight", shape: &[2, 3], data: &weight },
        TensorView { name: "encoder.0.bias", shape: &[2], data: &bias },
        TensorView { name: "exp_avg.encoder.0.bias", shape: &[2], data: &bias },
    ];
    directory.write(&metadata(step), &tensors).unwrap()
}

/// The steps of the checkpoints, fewest first.
fn steps(directory: &Directory) -> Vec<u64> {
    directory.list().unwrap().into_iter().map(|(step, _)| step).collect()
}
