//! Several workers compute on GPUs and keep the state there. Over NCCL their partials go from GPU to GPU.
//! If members die, freeze or fail, the bits are still those of a single CPU. GPUs and NCCL are emulated
//! (`crates/emulated-gpu`).

use std::{collections::BTreeMap, fs, path::Path};

use emulated_gpu::{FOLDER, IS_THERE};

use crate::{
    golden::{COMMON, PLAIN, RUNS},
    harness::{Fleet, MIXED_BUILDS, Place, Process, armed_worker_in, worker_in},
};

const NCCL: &str = "--collective nccl --insecure";

/// Variables and flags of a worker with its own GPU.
fn on_gpu(fleet: &Fleet, rank: usize, variables: &str) -> (String, String) {
    let environment = format!("LD_LIBRARY_PATH={FOLDER} EMULATED_GPU_COUNT=8 {variables}");
    let flags = format!("--coordinator {} --rank {rank} --threads 1", fleet.url);
    (environment, format!("{flags} --device cuda:{rank}"))
}

fn add(fleet: &mut Fleet, rank: usize, variables: &str) {
    let (environment, flags) = on_gpu(fleet, rank, variables);
    fleet.workers.push(worker_in(&environment, &flags));
}

fn armed(fleet: &Fleet, rank: usize, order: &str) -> Process {
    let (environment, flags) = on_gpu(fleet, rank, "");
    armed_worker_in(&environment, &flags, order)
}

/// Trains on so many GPUs; returns the digest.
fn trained(flags: &str, workers: usize) -> String {
    let place = Place::new();
    let mut fleet = Fleet::without_workers(&place, &format!("{flags} --workers {workers}"));
    // The order in which threads run must not change the digest.
    let orders = ["up", "down", "random"].iter().enumerate().take(workers);
    orders.for_each(|(rank, order)| add(&mut fleet, rank, &format!("EMULATED_GPU_ORDER={order}")));
    fleet.completed();
    place.digest()
}

/// The partials go to the host, and the sum comes back; the state stays on the GPUs.
#[test]
fn members_over_other_transports_give_the_digests_of_the_cpu() {
    if IS_THERE {
        for (run, expected) in RUNS {
            for collective in ["shm", "grpc"] {
                let flags = format!("{COMMON} {run} --collective {collective} --verify-every 3");
                assert_eq!(trained(&flags, 3), expected, "over {collective}, {run}");
            }
        }
    }
}

#[test]
fn members_over_nccl_give_the_digests_of_the_cpu() {
    if IS_THERE {
        for (run, expected) in RUNS {
            for workers in [2, 3] {
                let found = trained(&format!("{COMMON} {run} {NCCL}"), workers);
                assert_eq!(found, expected, "{workers} workers, {run}");
            }
        }
    }
}

/// Two members die or freeze one after the other, and the third computes everything.
fn come_to_harm(orders: [&str; 2]) {
    let place = Place::new();
    let flags =
        format!("{COMMON} {PLAIN} {NCCL} {MIXED_BUILDS} --workers 3 --dead-after-seconds 2");
    let mut fleet = Fleet::without_workers(&place, &flags);
    let victims: Vec<_> =
        orders.iter().enumerate().map(|(rank, order)| armed(&fleet, rank, order)).collect();
    add(&mut fleet, 2, "");
    fleet.wait_for_event(&place, "lost", victims.len());
    fleet.completed();
    assert_eq!(place.digest(), RUNS[0].1, "{orders:?}");
}

#[test]
fn members_die_in_the_middle_of_an_exchange() {
    if IS_THERE {
        come_to_harm(["all-reduce.nccl.begun 3 kill", "all-reduce.nccl.begun 6 kill"]);
        come_to_harm(["all-reduce.nccl.agreed 3 kill", "all-reduce.nccl.agreed 6 kill"]);
        // The member that dies has finished the step; perhaps no other member has.
        come_to_harm(["all-reduce.nccl.done 3 kill", "all-reduce.nccl.done 6 kill"]);
    }
}

#[test]
fn members_freeze_in_the_middle_of_an_exchange() {
    if IS_THERE {
        come_to_harm(["all-reduce.nccl.begun 2 freeze", "all-reduce.nccl.agreed 5 freeze"]);
    }
}

/// The members start the next generation from the same state.
#[test]
fn a_failure_of_nccl_ends_a_generation_and_no_worker() {
    if !IS_THERE {
        return;
    }
    for failure in [
        "ncclCommInitRankConfig:1:2",
        "ncclSend:3:5",
        "ncclRecv:4:5",
        "ncclGroupEnd:5:3",
        "ncclCommGetAsyncError:40:6",
    ] {
        let place = Place::new();
        let flags = format!("{COMMON} {PLAIN} {NCCL} --workers 2");
        let mut fleet = Fleet::without_workers(&place, &flags);
        add(&mut fleet, 0, "");
        add(&mut fleet, 1, &format!("EMULATED_GPU_FAIL={failure}"));
        fleet.completed();
        assert_eq!(place.digest(), RUNS[0].1, "{failure}");
        let ended = place.events("generation_ended");
        assert!(
            ended.iter().any(|event| event["cause"].to_string().contains("emulated NCCL error")),
            "{ended:?}"
        );
    }
}

/// How often the communicator of rank 1 was destroyed and aborted, if rank 0 gets this order.
fn ends(order: Option<&str>, variables: &str) -> [u64; 2] {
    let place = Place::new();
    let file = place.file("counts");
    let flags = format!("{COMMON} {PLAIN} {NCCL} {MIXED_BUILDS} --workers 2");
    let mut fleet = Fleet::without_workers(&place, &flags);
    let victim = order.map(|order| armed(&fleet, 0, order));
    if victim.is_none() {
        add(&mut fleet, 0, "");
    }
    add(&mut fleet, 1, &format!("{variables} EMULATED_GPU_COUNTS={}", file.display()));
    fleet.completed();
    assert_eq!(place.digest(), RUNS[0].1, "{order:?} {variables}");
    let counts = counted(&file);
    ["ncclCommDestroy", "ncclCommAbort"].map(|name| counts.get(name).copied().unwrap_or_default())
}

#[test]
fn a_communicator_is_destroyed_at_a_clean_end_and_aborted_after_a_loss() {
    if IS_THERE {
        assert_eq!(ends(None, ""), [1, 0]);
        assert_eq!(ends(Some("all-reduce.nccl.begun 3 kill"), ""), [0, 1]);
        // NCCL itself fails at the clean end.
        assert_eq!(ends(None, "EMULATED_GPU_FAIL=ncclCommFinalize:1:6"), [0, 1]);
    }
}

/// A worker whose GPU fails ends, and the other members continue.
#[test]
fn a_gpu_that_fails_leaves_the_exchange_to_the_others() {
    if !IS_THERE {
        return;
    }
    for failure in ["cuGraphLaunch:5:700", "cuStreamQuery:9:719", "cuEventSynchronize:6:999"] {
        let place = Place::new();
        let flags = format!("{COMMON} {PLAIN} {NCCL} --workers 3");
        let mut fleet = Fleet::without_workers(&place, &flags);
        add(&mut fleet, 0, "");
        add(&mut fleet, 1, "");
        let (environment, flags) = on_gpu(&fleet, 2, &format!("EMULATED_GPU_FAIL={failure}"));
        let lost = worker_in(&environment, &flags);
        lost.wait().failed_with(&["the CUDA driver", "emulated error"]);
        fleet.completed();
        assert_eq!(place.digest(), RUNS[0].1, "{failure}");
    }
}

/// A run moves from GPUs to CPUs and back.
#[test]
fn a_run_goes_on_over_another_transport() {
    if !IS_THERE {
        return;
    }
    let expected = {
        let place = Place::new();
        let mut fleet = Fleet::without_workers(
            &place,
            &format!("{COMMON} {PLAIN} --epochs 3 --workers 1").replace("--epochs 1", ""),
        );
        fleet.add("--threads 1 --device cpu");
        fleet.completed();
        place.digest()
    };
    let place = Place::new();
    let mut fleet = Fleet::without_workers(&place, &format!("{COMMON} {PLAIN} {NCCL} --workers 2"));
    (0..2).for_each(|rank| add(&mut fleet, rank, ""));
    fleet.completed();
    let mut fleet = Fleet::without_workers(&place, "--resume --epochs 2 --collective auto");
    (0..2).for_each(|_| fleet.add("--threads 1 --device cpu"));
    fleet.completed();
    let flags = format!("--resume --epochs 3 {NCCL} --workers 3");
    let mut fleet = Fleet::without_workers(&place, &flags);
    (0..3).for_each(|rank| add(&mut fleet, rank, ""));
    fleet.completed();
    assert_eq!(place.digest(), expected);
}

/// The counts of rank 0's GPU in a run, by name.
fn counts(flags: &str, workers: usize) -> BTreeMap<String, u64> {
    let place = Place::new();
    let file = place.file("counts");
    let mut fleet = Fleet::without_workers(&place, &format!("{flags} --workers {workers}"));
    add(&mut fleet, 0, &format!("EMULATED_GPU_COUNTS={}", file.display()));
    (1..workers).for_each(|rank| add(&mut fleet, rank, ""));
    fleet.completed();
    counted(&file)
}

/// The counts that an emulated GPU has written to a file.
fn counted(file: &Path) -> BTreeMap<String, u64> {
    let text = fs::read_to_string(file).unwrap();
    let words = text.lines().filter_map(|line| line.split_once(' '));
    words.map(|(count, name)| (name.to_owned(), count.parse().unwrap())).collect()
}

/// How many steps the longer of two epochs has more than the shorter one.
const MORE_STEPS: u64 = 20;

/// Bytes copied to and from the GPU of rank 0 in these additional steps. The epoch's order is not counted: it
/// has 4 bytes per image, and is copied once per epoch.
fn copied_in_more_steps(flags: &str, workers: usize) -> u64 {
    const STEP_IMAGES: u64 = 4 * 16;
    let [few, many] = [10, 10 + MORE_STEPS].map(|steps| {
        let size = "--batch-size 16 --hidden-dim 48 --latent-dim 5 --verify-every 0";
        let images = STEP_IMAGES * steps;
        let flags = format!("{COMMON} {size} {flags} --train-images {images}");
        let counts = counts(&flags, workers);
        counts["bytes to the GPU"] + counts["bytes from the GPU"] - 4 * images
    });
    many - few
}

/// A step copies only a line, the sums of the losses and sometimes the norm, but no gradients and no parameters.
#[test]
fn a_step_moves_a_few_bytes_between_host_and_gpu() {
    const BYTES_MAX: u64 = 128;
    if IS_THERE {
        for (flags, workers) in [("", 1), (NCCL, 2)] {
            let bytes = copied_in_more_steps(flags, workers);
            assert!(bytes <= MORE_STEPS * BYTES_MAX, "{bytes} bytes by {workers} workers");
        }
    }
}

/// This member's partial goes to the host and the sum comes back, besides the lines of the partial and of
/// the update, and the sums of the losses. The state stays on the GPU.
#[test]
fn members_over_other_transports_move_a_partial_and_a_sum() {
    // With the padding of the flat vectors.
    const FLOATS: u64 = 81_584;
    const STEP_BYTES: u64 = 2 * 4 * FLOATS + 96 + 104 + 24;
    if IS_THERE {
        for collective in ["shm", "grpc"] {
            let bytes = copied_in_more_steps(&format!("--collective {collective}"), 2);
            assert_eq!(bytes, MORE_STEPS * STEP_BYTES, "over {collective}");
        }
    }
}
