//! The bits of short runs are those kept here, whatever the instruction set, the threads, the workers
//! and the way between them. crates/vae/ARITHMETIC.md defines them; another digest means another
//! revision of the task.

use std::arch::is_x86_feature_detected as has;

use crate::harness::{Fleet, Place};

/// What all runs have in common.
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
        "--train-images 501 --batch-size 13 --hidden-dim 37 --latent-dim 3 --grad-clip 40",
        "0efbe4175a947267a15f24ea8667b3f9",
    ),
];

/// One epoch with the default flags, as the README shows it.
const DEFAULT: &str = "bb21b7c13709c36c438a7ecb289573af";

/// The instruction sets of this CPU, the fastest last.
fn instruction_sets() -> Vec<&'static str> {
    let avx2 = has!("avx2") && has!("fma");
    let avx512 = ["avx512f", "avx512bw", "avx512dq", "avx512vl"];
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let avx512 = avx2 && avx512.iter().all(|flag| flags.contains(flag));
    let all = [("portable", true), ("avx2", avx2), ("avx512", avx512)];
    all.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name).collect()
}

/// Trains with one worker for each of these flags; gives the digest.
fn trained(flags: &str, workers: &[String]) -> String {
    let place = Place::new();
    let mut fleet = Fleet::without_workers(&place, &format!("{flags} --workers {}", workers.len()));
    workers.iter().for_each(|flags| fleet.add(flags));
    fleet.completed();
    place.digest()
}

#[test]
fn every_instruction_set_gives_the_digests_kept_here() {
    let mut others = Vec::new();
    for (run, expected) in RUNS {
        for (index, isa) in instruction_sets().into_iter().enumerate() {
            let (workers, threads) = (3 - index, index + 1);
            let flags = vec![format!("--isa {isa} --threads {threads}"); workers];
            let found = trained(&format!("{COMMON} {run}"), &flags);
            if found != expected {
                others.push(format!("{found}: {isa}, {workers} workers, {run}"));
            }
        }
    }
    assert!(others.is_empty(), "other digests:\n{}", others.join("\n"));
}

/// No flag says that they may: they compute the same.
#[test]
fn workers_of_different_instruction_sets_train_together() {
    let sets = instruction_sets();
    let workers: Vec<_> = (0..4)
        .map(|rank| format!("--isa {} --threads 1 --rank {rank}", sets[rank % sets.len()]))
        .collect();
    for collective in ["grpc", "shm"] {
        let found = trained(&format!("{COMMON} {PLAIN} --collective {collective}"), &workers);
        assert_eq!(found, RUNS[0].1, "over {collective}");
    }
}

#[test]
fn an_epoch_with_the_default_flags_gives_the_digest_of_the_readme() {
    let workers: Vec<_> = (0..4).map(|rank| format!("--rank {rank} --threads 1")).collect();
    assert_eq!(trained("--epochs 1", &workers), DEFAULT);
}

#[test]
fn an_instruction_set_that_the_cpu_lacks_is_refused() {
    let place = Place::new();
    let mut fleet = Fleet::without_workers(&place, "--workers 1");
    fleet.add("--isa sse9");
    let worker = fleet.workers.pop().unwrap().wait();
    let worker = worker.failed_with(&["sse9", "--isa"]);
    assert!(worker.text().contains("portable, avx2, avx512"), "{worker}");
}
