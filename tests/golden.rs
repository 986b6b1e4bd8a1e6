//! Short runs give the digests kept here, with any instruction set, any number of threads and
//! workers, and any transport. crates/vae/ARITHMETIC.md defines the bits; a changed digest needs a
//! new revision of the task.

mod runs;

use std::arch::is_x86_feature_detected as has;

use self::runs::DEFAULT;
pub(crate) use self::runs::{COMMON, PLAIN, RUNS};
use crate::harness::{Fleet, Place, coordinator_at, note_left_out};

/// Runs in bf16, of odd sizes and of more than one group of terms, and their digests on every CPU. GPUs have other
/// digests.
const BF16: [(&str, &str); 2] = [
    (
        "--train-images 501 --batch-size 13 --hidden-dim 48 --latent-dim 5 --precision bf16",
        "7911e676676918092206b4080e6f5a65",
    ),
    (
        "--train-images 640 --batch-size 40 --hidden-dim 48 --latent-dim 5 --precision bf16",
        "68492e92d4ee49bc31632a8c4b731b6e",
    ),
];

/// A short run of a network of the default size.
const DEFAULT_SIZE: (&str, &str) = ("--train-images 2560", "0b766fa2b26ed8130d1ad9f5cf115aa6");

/// The digest of five epochs with the default flags, which the README shows too.
const FIVE_EPOCHS: &str = "a57135e746a1931e1c3b92946fb598cc";

/// The instruction sets of this CPU, the fastest last.
fn instruction_sets() -> Vec<&'static str> {
    let avx2 = has!("avx2") && has!("fma");
    let avx512 = ["avx512f", "avx512bw", "avx512dq", "avx512vl"];
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let avx512 = avx2 && avx512.iter().all(|flag| flags.contains(flag));
    let amx = avx512 && ["amx_tile", "amx_bf16"].iter().all(|flag| flags.contains(flag));
    let all = [("portable", true), ("avx2", avx2), ("avx512", avx512), ("amx", amx)];
    all.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name).collect()
}

/// Trains with one worker for each element of `workers`, its flags; returns the digest.
fn trained(flags: &str, workers: &[String]) -> String {
    trained_in(&Place::new(), flags, workers)
}

/// [`trained`] in a folder that is needed afterwards.
fn trained_in(place: &Place, flags: &str, workers: &[String]) -> String {
    let mut fleet = Fleet::without_workers(place, &format!("{flags} --workers {}", workers.len()));
    workers.iter().for_each(|flags| fleet.add(flags));
    fleet.completed();
    place.digest()
}

#[test]
fn every_instruction_set_gives_the_digests_kept_here() {
    let sets = instruction_sets();
    for missing in ["avx2", "avx512", "amx"].iter().filter(|name| !sets.contains(*name)) {
        note_left_out(&format!("digests with {missing}"), "this CPU does not have it");
    }
    let mut others = Vec::new();
    for (run, expected) in RUNS.into_iter().chain([DEFAULT_SIZE]).chain(BF16) {
        for (index, isa) in sets.iter().enumerate() {
            let (workers, threads) = (3 - index % 3, index % 3 + 1);
            let flags = vec![format!("--isa {isa} --threads {threads}"); workers];
            let found = trained(&format!("{COMMON} {run}"), &flags);
            if found != expected {
                others.push(format!("{found}: {isa}, {workers} workers, {run}"));
            }
        }
    }
    assert!(others.is_empty(), "other digests:\n{}", others.join("\n"));
}

/// This needs no flag, because all instruction sets compute the same bits.
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
fn the_default_flags_give_the_digests_of_the_readme() {
    let workers: Vec<_> = (0..4).map(|rank| format!("--rank {rank} --threads 1")).collect();
    let place = Place::new();
    assert_eq!(trained_in(&place, "--epochs 1", &workers), DEFAULT);
    coordinator_at(&place, "--resume --epochs 5 --spawn").wait().succeeded();
    assert_eq!(place.digest(), FIVE_EPOCHS);
}

#[test]
fn an_instruction_set_that_the_cpu_lacks_is_refused() {
    let place = Place::new();
    let mut fleet = Fleet::without_workers(&place, "--workers 1");
    fleet.add("--isa sse9");
    let worker = fleet.workers.pop().unwrap().wait();
    let worker = worker.failed_with(&["sse9", "--isa"]);
    assert!(worker.text().contains("portable, avx2, avx512, amx"), "{worker}");
}
