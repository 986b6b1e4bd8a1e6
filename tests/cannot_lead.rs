//! A worker that cannot write the run directory, for example because another user owns it: it
//! reports this when it joins, and not after an epoch.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    process::Command,
};

use crate::harness::{
    Fleet, Place, Process, SMALL, assert_same_tensors, note_left_out, programs, reference,
};

/// Starts a worker to which file permissions apply: from a worker of root the capabilities that
/// override permissions are taken away.
fn deprived(url: &str, flags: &str) -> Process {
    let program = programs().join("vae-worker");
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-dac_override,-dac_read_search", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.args(["--coordinator", url, "--threads", "1"]).args(flags.split_whitespace());
    Process::start("worker", &mut command)
}

fn is_possible() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    let possible = !is_root || Command::new("setpriv").arg("--version").output().is_ok();
    if !possible {
        note_left_out(
            "workers that cannot write the run directory",
            "there is no setpriv; install util-linux",
        );
    }
    possible
}

/// A run of two workers whose folder of checkpoints is read-only.
fn closed(place: &Place) -> Fleet {
    let fleet = Fleet::without_workers(place, &format!("{SMALL} --workers 2 --epochs 1"));
    fs::set_permissions(place.file("checkpoints"), Permissions::from_mode(0o555)).unwrap();
    fleet
}

#[test]
fn the_first_one_says_so_before_a_step_is_done() {
    if !is_possible() {
        return;
    }
    let place = Place::new();
    let mut fleet = closed(&place);
    fleet.workers.push(deprived(&fleet.url, "--rank 0"));
    let (coordinator, workers) = fleet.wait();
    let words = ["cannot write", "checkpoints", "Permission denied", "cannot lead", "--run-dir"];
    coordinator.failed_with(&[&["rank 0"], &words[..]].concat());
    workers.into_iter().for_each(|worker| drop(worker.failed_with(&words)));
    assert!(place.metrics("steps").is_empty());
}

/// Root can write the folder in spite of its permissions, so here one worker can lead.
#[test]
fn another_one_says_so_and_the_run_goes_on() {
    if !is_possible() {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        return note_left_out(
            "one worker of two that can write the run directory",
            "only for root",
        );
    }
    let place = Place::new();
    let mut fleet = closed(&place);
    fleet.workers.push(deprived(&fleet.url, "--rank 1"));
    fleet.workers[0].wait_for_line("cannot lead");
    fleet.add("--rank 0 --threads 1");
    fleet.completed();
    assert_same_tensors(&place.newest(), &reference(1));
}
