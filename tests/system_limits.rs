//! A limit of the system is too low for a run, or a process is ended from outside: the true cause
//! is reported at once.

use std::{fs, path::PathBuf, process::Command};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{
    ENDLESS, Fleet, Place, Process, SMALL, coordinator_under, descendants, note_left_out,
    worker_under,
};

/// Asserts that a process failed because it has too few file descriptors, and that the error names
/// the limit.
fn is_short_of_descriptors(exit: crate::harness::Exit, allowed: u64) {
    let words = ["file descriptors", &format!("this process may have {allowed} (ulimit -n)")];
    let exit = exit.failed_with(&words);
    assert!(!exit.text().contains("TLS"), "{exit}");
}

#[test]
fn a_coordinator_has_enough_file_descriptors_or_says_that_it_has_not() {
    let mut enough = None;
    for allowed in [8, 12, 20, 30, 40, 50, 64, 100, 256, 257] {
        let place = Place::new();
        let run_dir = place.run_dir.display();
        let flags = format!(
            "--listen 127.0.0.1:0 --run-dir {run_dir} {SMALL} --epochs 1 --workers 2 --spawn"
        );
        let limits = format!("ulimit -n {allowed}");
        let exit = coordinator_under(&limits, &place, &flags).wait();
        if exit.status.success() {
            enough.get_or_insert(allowed);
            continue;
        }
        assert_eq!(enough, None, "more than enough are not: {exit}");
        is_short_of_descriptors(exit, allowed);
        assert!(!place.run_dir.exists(), "a run that cannot begin leaves nothing behind");
    }
    assert!(enough.is_some_and(|enough| (30..=64).contains(&enough)), "{enough:?}");
}

#[test]
fn a_worker_has_enough_file_descriptors_or_says_that_it_has_not() {
    let place = Place::new();
    let mut fleet = Fleet::without_workers(&place, &format!("{SMALL} {ENDLESS} --workers 2"));
    fleet.add("--threads 1");
    let mut enough = None;
    for allowed in [8, 16, 24, 32, 40, 48, 64] {
        let worker = worker_under(&format!("ulimit -n {allowed}"), &fleet.url, "--threads 1");
        if worker.ends_or_says("training rank=") {
            enough.get_or_insert(allowed);
            fleet.workers.push(worker);
            break;
        }
        is_short_of_descriptors(worker.wait(), allowed);
    }
    assert!(enough.is_some_and(|enough| (16..=48).contains(&enough)), "{enough:?}");
    fleet.wait_for_progress(&place);
    // The worker that has joined continues with so few descriptors while others leave and join.
    fleet.workers.remove(0).signal(Signal::KILL);
    fleet.add("--threads 1");
    fleet.wait_for_event(&place, "generation_started", 3);
    fleet.coordinator.signal(Signal::INT);
    fleet.coordinator.wait().exited_with(130);
}

/// A run with spawned workers, in the middle of training.
fn spawned(limits: &str, place: &Place, workers: u32) -> Process {
    let run_dir = place.run_dir.display();
    let flags = format!("--listen 127.0.0.1:0 --run-dir {run_dir} {SMALL} {ENDLESS}");
    let flags = format!("{flags} --workers {workers} --spawn");
    let mut coordinator = coordinator_under(limits, place, &flags);
    coordinator.wait_until("the run makes progress", || place.step() > 0);
    coordinator
}

#[test]
fn a_worker_that_is_killed_is_told_of_by_the_signals_name() {
    let place = Place::new();
    let coordinator = spawned("true", &place, 2);
    for (signal, words) in [
        (Signal::KILL, "ended by SIGKILL, by a person or another program"),
        (Signal::ILL, "ended by SIGILL, for an instruction that this CPU does not have"),
    ] {
        let victim = *descendants(coordinator.id()).first().unwrap();
        kill_process(victim, signal).unwrap();
        let line = coordinator.wait_for_line(words);
        assert!(line.contains("starting it again"), "{line}");
    }
    coordinator.signal(Signal::INT);
    coordinator.wait().exited_with(130);
}

/// The limit must not kill a process: it is reported like a full disk.
#[test]
fn a_checkpoint_is_larger_than_a_file_may_be() {
    let place = Place::new();
    let run_dir = place.run_dir.display();
    let flags = format!(
        "--listen 127.0.0.1:0 --run-dir {run_dir} {SMALL} --epochs 2 --workers 1 --spawn \
         --collective grpc"
    );
    // The limit is in blocks of 512 bytes.
    let exit = coordinator_under("ulimit -f 400", &place, &flags).wait();
    let exit = exit.failed_with(&["step-00000094.safetensors", "more than a file may have here"]);
    let text = exit.text();
    assert!(text.contains("ulimit -f") && !text.contains("start the missing"), "{exit}");
    assert!(!text.contains("starting it again"), "no crash loop: {exit}");
}

/// A control group for memory, which is removed at the end of the test.
struct Group(PathBuf);

impl Group {
    /// Makes a group with a limit in bytes, with version 1 or 2 of control groups; none if this is
    /// not permitted.
    fn make(name: &str, limit: u64) -> Option<Self> {
        let name = format!("lockstep-test-{name}-{}", std::process::id());
        for (root, file) in
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
        {
            let group = Self(PathBuf::from(root).join(&name));
            if fs::create_dir(&group.0).is_ok()
                && group.0.join(file).exists()
                && fs::write(group.0.join(file), limit.to_string()).is_ok()
            {
                // No swap, as on most machines with a memory limit.
                let _none =
                    fs::write(group.0.join("memory.memsw.limit_in_bytes"), limit.to_string());
                let _none = fs::write(group.0.join("memory.swap.max"), "0");
                return Some(group);
            }
        }
        None
    }

    /// A shell command that moves the shell into the group.
    fn enter(&self) -> String {
        format!("echo $$ > {}/cgroup.procs", self.0.display())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Processes that were just killed may still be in the group.
        for _ in 0..1000 {
            if fs::remove_dir(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

fn skipped() {
    note_left_out("runs with too little memory", "control groups for memory cannot be made here");
}

#[test]
fn a_run_that_its_control_group_cannot_hold_does_not_begin() {
    let Some(group) = Group::make("small", 200_000_000) else { return skipped() };
    let place = Place::new();
    let run_dir = place.run_dir.display();
    let flags = format!("--listen 127.0.0.1:0 --run-dir {run_dir} --workers 4 --spawn");
    let exit = coordinator_under(&group.enter(), &place, &flags).wait();
    exit.failed_with(&["memory", "control group", &group.0.display().to_string(), "0.20 GB"]);
    assert!(!place.run_dir.exists());
}

#[test]
fn a_worker_that_the_kernel_kills_for_want_of_memory_is_told_of() {
    const LIMIT: u64 = 800_000_000;
    let Some(group) = Group::make("full", LIMIT) else { return skipped() };
    let place = Place::new();
    let coordinator = spawned(&group.enter(), &place, 1);
    let victim: Pid = *descendants(coordinator.id()).first().unwrap();
    // With this score the kernel kills the worker first.
    let score = format!("/proc/{}/oom_score_adj", victim.as_raw_nonzero());
    fs::write(score, "1000").unwrap();
    let hog = format!("{}; exec dd if=/dev/zero of=/dev/null bs={LIMIT} count=1", group.enter());
    // This process fills the group's memory, and is killed itself after the worker.
    let _killed = Command::new("sh").args(["-c", &hog]).output().unwrap();
    let line = coordinator.wait_for_line("ended by SIGKILL, by the kernel, for lack of memory");
    assert!(line.contains("control group") && line.contains("lower --workers"), "{line}");
    coordinator.signal(Signal::INT);
    coordinator.wait().exited_with(130);
}
