//! Workers on GPUs compute the same bits as workers on CPUs, alone or together with them. If a GPU fails, the
//! other workers continue the run. The GPUs are emulated (`crates/emulated-gpu`).

use std::{os::unix::fs::symlink, path::Path};

use emulated_gpu::{FOLDER, IS_THERE};

use crate::{
    golden::{COMMON, PLAIN, RUNS},
    harness::{Exit, Fleet, Place, Process, coordinator_in, wait_until, worker_in},
};

/// Starts a worker on an emulated GPU, with these environment variables.
fn gpu_worker(fleet: &Fleet, variables: &str, flags: &str) -> Process {
    worker_with(fleet, variables, &format!("--device cuda {flags}"))
}

/// Starts a worker that finds emulated GPUs.
fn worker_with(fleet: &Fleet, variables: &str, flags: &str) -> Process {
    let environment = format!("LD_LIBRARY_PATH={FOLDER} {variables}");
    worker_in(&environment, &format!("--coordinator {} {flags}", fleet.url))
}

/// Trains on so many GPUs and CPUs; returns the digest.
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

/// The exit of a worker whose emulated GPU has these variables; another worker, on the CPU, replaces it.
fn refused(variables: &str) -> Exit {
    let place = Place::new();
    let mut fleet = Fleet::without_workers(&place, &format!("{COMMON} {PLAIN} --workers 1"));
    let exit = gpu_worker(&fleet, variables, "").wait();
    fleet.add("--threads 1 --device cpu");
    fleet.completed();
    assert_eq!(place.digest(), RUNS[0].1, "{variables}");
    exit
}

#[test]
fn a_gpu_gives_the_digests_of_the_cpu() {
    if IS_THERE {
        for (run, expected) in RUNS {
            assert_eq!(trained(&format!("{COMMON} {run}"), 1, 0), expected, "{run}");
        }
    }
}

/// This needs no flag, because GPUs and CPUs compute the same bits.
#[test]
fn gpus_and_cpus_train_together() {
    if IS_THERE {
        for collective in ["grpc", "shm"] {
            let flags = format!("{COMMON} {PLAIN} --collective {collective}");
            assert_eq!(trained(&flags, 2, 1), RUNS[0].1, "over {collective}");
        }
    }
}

/// No member is on a CPU.
#[test]
fn gpus_train_without_a_cpu() {
    if IS_THERE {
        for collective in ["grpc", "shm"] {
            let flags = format!("{COMMON} {PLAIN} --collective {collective}");
            assert_eq!(trained(&flags, 2, 0), RUNS[0].1, "over {collective}");
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
        let flags = format!("{COMMON} {PLAIN} --workers 2");
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

#[test]
fn a_gpu_that_is_hidden_or_forbidden_is_told_in_one_line() {
    if IS_THERE {
        for list in ["", "none", "7", "GPU-7"] {
            let hidden = refused(&format!("CUDA_VISIBLE_DEVICES={list}"));
            hidden.failed_with(&["there is no CUDA device", &format!("{list:?}"), "--device cpu"]);
        }
        let prohibited = refused("EMULATED_GPU_PROHIBITED=1");
        prohibited.failed_with(&["Emulated GPU 0", "compute mode is prohibited", "nvidia-smi -c"]);
        let old = refused("EMULATED_GPU_VERSION=12040");
        old.failed_with(&["driver is too old", "CUDA 12.4", "13.0 is needed"]);
    }
}

#[test]
fn an_instance_of_a_gpu_and_one_by_its_name_are_taken() {
    if !IS_THERE {
        return;
    }
    for (variables, name) in [
        ("EMULATED_GPU_MIG=1g.10gb CUDA_VISIBLE_DEVICES=MIG-0", "Emulated GPU 0 MIG 1g.10gb"),
        ("EMULATED_GPU_COUNT=3 CUDA_VISIBLE_DEVICES=GPU-2", "Emulated GPU 2"),
        ("EMULATED_GPU_COUNT=3 CUDA_VISIBLE_DEVICES=1,none,2", "Emulated GPU 1"),
    ] {
        let place = Place::new();
        let mut fleet = Fleet::without_workers(&place, &format!("{COMMON} {PLAIN} --workers 1"));
        fleet.workers.push(gpu_worker(&fleet, variables, "--threads 1"));
        fleet.completed();
        assert_eq!(place.digest(), RUNS[0].1, "{variables}");
        assert_eq!(place.events("joined")[0]["device"], name, "{variables}");
    }
}

/// One of two workers gets the GPU; the other is replaced by a worker on the CPU.
#[test]
fn a_gpu_that_another_process_has_is_told_in_one_line() {
    if !IS_THERE {
        return;
    }
    let place = Place::new();
    let mut fleet = Fleet::without_workers(&place, &format!("{COMMON} {PLAIN} --workers 2"));
    let variables = format!("EMULATED_GPU_EXCLUSIVE={}", place.path("exclusive").display());
    let first = gpu_worker(&fleet, &variables, "--threads 1");
    wait_until("the GPU is taken", || place.path("exclusive").exists());
    let second = gpu_worker(&fleet, &variables, "--threads 1");
    second.wait().failed_with(&["another process", "Emulated GPU 0", "exclusive-process"]);
    fleet.workers.push(first);
    fleet.add("--threads 1 --device cpu");
    fleet.completed();
    assert_eq!(place.digest(), RUNS[0].1);
}

/// Without a flag a worker uses a GPU if the driver reports one, also without libtorch's CUDA libraries. With
/// several GPUs each worker of the host uses another one; further workers share.
#[test]
fn gpus_are_dealt_among_the_workers_of_a_host() {
    if !IS_THERE {
        return;
    }
    for (gpus, expected) in [(2, [0, 1, 0]), (3, [0, 1, 2])] {
        let place = Place::new();
        let environment = format!("LD_LIBRARY_PATH={FOLDER} EMULATED_GPU_COUNT={gpus}");
        let flags = format!(
            "--listen 127.0.0.1:0 --run-dir {} {COMMON} {PLAIN} --workers 3 --spawn",
            place.run_dir.display()
        );
        let exit = coordinator_in(&environment, &place, &flags).wait().succeeded();
        assert_eq!(place.digest(), RUNS[0].1, "{gpus} GPUs");
        let taken = expected.map(|gpu| format!("Emulated GPU {gpu}"));
        for (rank, gpu) in taken.iter().enumerate() {
            let joined = place.events("joined");
            let joined = joined.iter().find(|event| event["rank"] == rank).expect("it has joined");
            assert_eq!(&joined["device"], gpu, "rank {rank} of {gpus} GPUs");
        }
        let told = exit.text().matches("sharing cuda:0: this is worker 2").count();
        assert_eq!(told, usize::from(gpus == 2), "{exit}");
    }
}

/// Runs with convolutions need libtorch, which has no CUDA libraries here.
#[test]
fn a_gpu_is_left_alone_where_the_run_is_not_for_it() {
    if !IS_THERE {
        return;
    }
    let place = Place::new();
    let flags = format!("{COMMON} {PLAIN} --workers 1 --architecture conv");
    let fleet = Fleet::without_workers(&place, &flags);
    let worker = worker_with(&fleet, "", "--threads 1").wait().succeeded();
    let reason = "computing on the CPU: this libtorch is for CPUs only";
    assert!(worker.text().contains(reason), "{worker}");
    fleet.completed();
}

/// Without `--device`, a worker whose GPU cannot run the kernels computes on its CPU, and says why.
#[test]
fn a_gpu_that_cannot_train_is_passed_over_unless_it_is_asked_for() {
    if !IS_THERE {
        return;
    }
    let alone = tempfile::tempdir().unwrap();
    let driver = "libcuda.so.1";
    symlink(Path::new(FOLDER).join(driver), alone.path().join(driver)).unwrap();
    let without_compiler = alone.path().display().to_string();
    let mut cases = vec![
        (FOLDER, "EMULATED_GPU_CAPABILITY=75", "compute capability 7.5"),
        (FOLDER, "EMULATED_GPU_VERSION=12040", "driver is too old"),
    ];
    // After `cargo xtask kernels`, the programs need no compiler.
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/vae/kernels");
    if !kernels.read_dir().unwrap().any(|entry| entry.unwrap().path().is_dir()) {
        cases.push((&without_compiler, "", "libnvrtc.so.13"));
    }
    for (folder, variables, reason) in cases {
        let place = Place::new();
        let fleet = Fleet::without_workers(&place, &format!("{COMMON} {PLAIN} --workers 1"));
        let environment = format!("LD_LIBRARY_PATH={folder} {variables}");
        let flags = format!("--coordinator {} --threads 1", fleet.url);
        let worker = worker_in(&environment, &flags).wait().succeeded();
        let told = worker.lines().find(|line| line.contains("computing on the CPU:"));
        assert!(told.is_some_and(|line| line.contains(reason)), "{reason}: {worker}");
        fleet.completed();
        assert_eq!(place.digest(), RUNS[0].1, "{variables}");
    }
}

/// Any number of workers gives the bits of this kind of GPU. CPUs have other bits.
#[test]
fn gpus_of_one_kind_train_in_bf16() {
    if !IS_THERE {
        return;
    }
    let flags = format!("{COMMON} {PLAIN} --precision bf16");
    let alone = trained(&flags, 1, 0);
    assert_eq!(trained(&flags, 3, 0), alone);
    assert_ne!(alone, RUNS[0].1, "the products are not in bf16");

    let place = Place::new();
    let mut fleet = Fleet::without_workers(&place, &format!("{flags} --workers 2"));
    let worker = gpu_worker(&fleet, "", "--threads 1");
    fleet.workers.push(worker);
    fleet.wait_for_event(&place, "joined", 1);
    let cpu = worker_with(&fleet, "", "--threads 1 --device cpu").wait();
    cpu.failed_with(&["cuda/Emulated GPU 0/bf16 (tensor cores)", "--allow-mixed-devices"]);
    let worker = gpu_worker(&fleet, "", "--threads 1");
    fleet.workers.push(worker);
    fleet.completed();
    assert_eq!(place.digest(), alone);
}
