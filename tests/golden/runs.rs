//! Short runs and their digests, the same on every CPU and GPU. `cargo xtask gpu-acceptance` uses them too.

/// The flags that all runs have.
pub(crate) const COMMON: &str = "--epochs 1 --seed 7 --shards 4 --test-images 64";

pub(crate) const PLAIN: &str = "--train-images 640 --batch-size 16 --hidden-dim 48 --latent-dim 5";

/// Flags, and the digest of the state after the last step.
pub(crate) const RUNS: [(&str, &str); 5] = [
    (PLAIN, "4b630a4441a6330c97c5834b2a29159c"),
    (
        "--train-images 640 --batch-size 16 --hidden-dim 48 --latent-dim 5 --likelihood gaussian",
        "50810ccf2c69a64a50592d9d97c47b6b",
    ),
    (
        "--train-images 320 --batch-size 8 --hidden-dim 48 --latent-dim 5 --importance-samples 3",
        "30b7eaccc1def5f07761544b6160323f",
    ),
    (
        "--train-images 640 --batch-size 16 --hidden-dim 48 --latent-dim 5 --binarize dynamic",
        "bcb24f487228b1123d8f1416523a119f",
    ),
    (
        "--train-images 501 --batch-size 13 --hidden-dim 37 --latent-dim 3 --grad-clip 20",
        "de2b4b7008a8cc01481db84c80860c21",
    ),
];

/// The digest of one epoch with the default flags, which the README shows.
pub(crate) const DEFAULT: &str = "bb21b7c13709c36c438a7ecb289573af";
