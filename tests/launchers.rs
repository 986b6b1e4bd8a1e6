//! Workers started by a launcher find their rank and their coordinator in the environment.

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{
    ENDLESS, Fleet, Place, SMALL, assert_same_tensors, coordinator_in, descendants, reference,
    worker_in,
};

#[test]
fn each_launcher_gives_a_rank() {
    let place = Place::new();
    let mut fleet = Fleet::without_workers(&place, &format!("{SMALL} --workers 4 --epochs 1"));
    let environments = [
        ("RANK=2 LOCAL_RANK=2 WORLD_SIZE=4 MASTER_ADDR=elsewhere MASTER_PORT=29500", 2),
        ("PET_NODE_RANK=0 PET_NNODES=4 PET_NPROC_PER_NODE=1", 0),
        ("SLURM_PROCID=3 SLURM_NTASKS=4 JOB_COMPLETION_INDEX=1", 3),
        ("JOB_COMPLETION_INDEX=1", 1),
    ];
    for (environment, rank) in environments {
        let worker = worker_in(environment, &format!("--coordinator {}", fleet.url));
        worker.wait_for_line(&format!("asking for rank {rank}, by "));
        worker.wait_for_line(&format!("joined as rank {rank}"));
        fleet.workers.push(worker);
    }
    fleet.completed();
    assert_same_tensors(&place.newest(), &reference(1));
}

#[test]
fn each_launcher_says_where_the_coordinator_is() {
    for (environment, variable) in [
        ("RANK=0 MASTER_ADDR=nowhere.invalid MASTER_PORT=29500", "MASTER_ADDR"),
        ("PET_NODE_RANK=0 PET_MASTER_ADDR=nowhere.invalid", "PET_MASTER_ADDR"),
        ("SLURM_PROCID=0 SLURM_LAUNCH_NODE_IPADDR=nowhere.invalid", "SLURM_LAUNCH_NODE_IPADDR"),
    ] {
        let worker = worker_in(environment, "--insecure --join-timeout-seconds 0");
        let exit = worker.wait().failed_with(&["no coordinator at http://nowhere.invalid:50051"]);
        let line = format!("the coordinator is http://nowhere.invalid:50051, by {variable}");
        assert!(exit.text().contains(&line), "{exit}");
    }
}

/// A coordinator in a pod of an indexed Job starts its workers itself. All of them inherit the
/// pod's index in their environment, and must not use it as their rank.
#[test]
fn spawned_workers_are_not_misled() {
    let place = Place::new();
    let run_dir = place.run_dir.display();
    let flags = format!("--listen 127.0.0.1:0 --run-dir {run_dir} {SMALL} {ENDLESS}");
    let flags = format!("{flags} --workers 2 --spawn");
    let mut coordinator = coordinator_in("JOB_COMPLETION_INDEX=0", &place, &flags);
    coordinator.wait_until("the run makes progress", || place.step() > 0);
    let id = coordinator.id();
    let is_member = |rank: u32| {
        let generations = place.events("generation_started");
        generations.last().is_some_and(|last| last["ranks"] == serde_json::json!([0, rank]))
    };
    assert!(is_member(1));
    let victim = place.events("joined").into_iter().find(|joined| joined["rank"] == 1).unwrap();
    let victim = Pid::from_raw(i32::try_from(victim["process"].as_i64().unwrap()).unwrap());
    kill_process(victim.unwrap(), Signal::KILL).unwrap();
    let again = || place.events("joined").len() == 3 && is_member(1);
    coordinator.wait_until("another one has rank 1", again);
    assert_eq!(descendants(id).len(), 2);
    coordinator.signal(Signal::INT);
    coordinator.wait().exited_with(130);
}

#[test]
fn a_launcher_that_contradicts_itself() {
    let exit = worker_in("RANK=4 WORLD_SIZE=4", "").wait();
    exit.failed_with(&["RANK is 4", "WORLD_SIZE says that there are 4", "--rank"]);
    worker_in("SLURM_PROCID=first", "")
        .wait()
        .failed_with(&["SLURM_PROCID is \"first\"", "--rank"]);
}
