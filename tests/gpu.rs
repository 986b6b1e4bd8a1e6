//! Workers on GPUs train to the bits of those on CPUs, alone or mixed with them, and a GPU that fails
//! leaves the run to the others. The GPUs are emulated ones (`crates/emulated-gpu`).

use emulated_gpu::{FOLDER, IS_THERE};

use crate::{
    golden::{COMMON, PLAIN, RUNS},
    harness::{Exit, Fleet, Place, Process, worker_in},
};

/// Begins a worker on an emulated GPU, with these variables of the environment.
fn gpu_worker(fleet: &Fleet, variables: &str, flags: &str) -> Process {
    let environment = format!("LD_LIBRARY_PATH={FOLDER} {variables}");
    worker_in(&environment, &format!("--coordinator {} --device cuda {flags}", fleet.url))
}

/// Trains on this many GPUs and CPUs; gives the digest.
fn trained(flags: &str, gpus: u32, cpus: u32) -> String {
    let place = Place::new();
    let mut fleet = Fleet::without_workers(&place, &format!("{flags} --workers {}", gpus + cpus));
    for _ in 0..gpus {
        let worker = gpu_worker(&fleet, "", "--threads 1");
        fleet.workers.push(worker);
    }
    (0..cpus).for_each(|_| fleet.add("--threads 1 --device cpu"));
    fleet.completed();
    place.digest()
}

/// The only worker's exit, on a GPU with these variables.
fn refused(variables: &str) -> Exit {
    let place = Place::new();
    let flags = format!("{COMMON} {PLAIN} --workers 1 --join-timeout-seconds 5");
    let fleet = Fleet::without_workers(&place, &flags);
    gpu_worker(&fleet, variables, "").wait()
}

#[test]
fn a_gpu_gives_the_digests_of_the_cpu() {
    if IS_THERE {
        for (run, expected) in RUNS {
            assert_eq!(trained(&format!("{COMMON} {run}"), 1, 0), expected, "{run}");
        }
    }
}

/// No flag says that they may: they compute the same.
#[test]
fn gpus_and_cpus_train_together() {
    if IS_THERE {
        for collective in ["grpc", "shm"] {
            let flags = format!("{COMMON} {PLAIN} --collective {collective}");
            assert_eq!(trained(&flags, 2, 1), RUNS[0].1, "over {collective}");
        }
    }
}

#[test]
fn a_gpu_that_fails_leaves_the_run_to_the_others() {
    if !IS_THERE {
        return;
    }
    for failure in ["cuGraphLaunch:4:700", "cuGraphLaunch:15:719", "cuMemcpyDtoHAsync_v2:40:999"] {
        let place = Place::new();
        let flags = format!("{COMMON} {PLAIN} --workers 2 --join-timeout-seconds 5");
        let mut fleet = Fleet::without_workers(&place, &flags);
        fleet.add("--threads 1 --device cpu");
        let lost = gpu_worker(&fleet, &format!("EMULATED_GPU_FAIL={failure}"), "--threads 1");
        lost.wait().failed_with(&["the CUDA driver", "emulated error"]);
        fleet.completed();
        assert_eq!(place.digest(), RUNS[0].1, "{failure}");
    }
}

#[test]
fn a_gpu_that_cannot_train_is_refused_in_one_line() {
    if IS_THERE {
        let too_old = refused("EMULATED_GPU_CAPABILITY=75");
        too_old.failed_with(&["compute capability 7.5", "8.0 is needed", "--device cpu"]);
        let too_small = refused("EMULATED_GPU_MEMORY=100000");
        too_small.failed_with(&["the GPU lacks memory", "bytes are needed", "--batch-size"]);
        let none = refused("EMULATED_GPU_COUNT=0");
        none.failed_with(&["there is no CUDA device", "--device cpu"]);
    }
}
