//! Signals in every phase of the programs: each is handled, also by process 1 of a container, and
//! the exit code names the signal.

use std::{
    env,
    fs::{self, Permissions},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    process::Command,
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::{
    harness::{
        ENDLESS, Fleet, Place, Process, SMALL, coordinator_at, coordinator_in, descendants,
        free_address, note_left_out, programs, wait_until, worker,
    },
    stop::{resumes_to_the_same_bits, stopped_with_the_same_bits},
};

/// The signals that ask a program to stop, and the exit codes that name them.
const SIGNALS: [(Signal, i32); 3] = [(Signal::HUP, 129), (Signal::INT, 130), (Signal::TERM, 143)];

/// An address on which no process listens.
fn nowhere() -> String {
    format!("http://{}", free_address())
}

#[test]
fn a_worker_that_waits_for_its_coordinator() {
    for (signal, code) in SIGNALS {
        let worker = worker(&nowhere(), "--join-timeout-seconds 600");
        worker.wait_for_line("waiting for a coordinator");
        worker.signal(signal);
        worker.wait().exited_with(code);
    }
}

#[test]
fn a_worker_that_loads_and_waits_for_others() {
    let place = Place::new();
    let mut fleet = Fleet::without_workers(&place, &format!("{SMALL} --workers 2 --epochs 1"));
    for (signal, code) in SIGNALS {
        fleet.add("--threads 1");
        let worker = fleet.workers.pop().unwrap();
        worker.wait_for_line("joined as");
        worker.signal(signal);
        worker.wait().exited_with(code);
    }
    (0..2).for_each(|_| fleet.add("--threads 1"));
    fleet.completed();
}

#[test]
fn a_worker_that_trains() {
    let place = Place::new();
    let mut fleet = Fleet::start(&place, 3, &format!("{SMALL} {ENDLESS}"));
    fleet.wait_for_progress(&place);
    for (signal, code) in SIGNALS.into_iter().take(2) {
        let leaver = fleet.workers.remove(0);
        leaver.signal(signal);
        leaver.wait().exited_with(code);
    }
    fleet.wait_for_progress(&place);
    stopped_with_the_same_bits(&place, fleet);
}

/// The coordinator fetches through a proxy that accepts connections and never answers.
fn a_coordinator_that_fetches(start: impl Fn(&Place, &str, &str) -> Process, code: i32) {
    let (place, proxy) = (Place::new(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = proxy.local_addr().unwrap();
    let environment = format!("HTTPS_PROXY=http://{address} https_proxy=http://{address}");
    let flags = format!("--listen 127.0.0.1:0 --data-dir {}", place.path("data").display());
    let coordinator = start(&place, &environment, &flags);
    let _connection = proxy.accept().unwrap();
    let (signal, _) = SIGNALS.into_iter().find(|(_, its)| *its == code).unwrap();
    let inner = descendants(coordinator.id());
    match inner[..] {
        [] => coordinator.signal(signal),
        [inner, ..] => kill_process(inner, signal).unwrap(),
    }
    coordinator.wait().exited_with(code);
}

#[test]
fn a_coordinator_that_fetches_the_data_set() {
    for (_, code) in SIGNALS {
        a_coordinator_that_fetches(
            |place, environment, flags| coordinator_in(environment, place, flags),
            code,
        );
    }
}

/// `npm`, the last way to fetch the data set, ends with the coordinator.
#[test]
fn a_coordinator_that_fetches_by_npm() {
    let place = Place::new();
    let (npm, started) = (place.path("bin/npm"), place.path("started"));
    fs::create_dir(place.path("bin")).unwrap();
    fs::write(
        &npm,
        format!(
            "#!/bin/sh\necho $$ > {0}.new; mv {0}.new {0}; exec sleep 3600\n",
            started.display()
        ),
    )
    .unwrap();
    fs::set_permissions(&npm, Permissions::from_mode(0o700)).unwrap();
    let path = format!("{}:{}", place.path("bin").display(), env::var("PATH").unwrap());
    // No process listens at the proxy's address, so all mirrors fail at once.
    let proxy = nowhere();
    let environment = format!("HTTPS_PROXY={proxy} https_proxy={proxy} PATH={path}");
    let flags = format!("--listen 127.0.0.1:0 --data-dir {}", place.path("data").display());
    let coordinator = coordinator_in(&environment, &place, &flags);
    wait_until("npm is asked", || started.exists());
    let npm = fs::read_to_string(started).unwrap().trim().parse().unwrap();
    coordinator.signal(Signal::TERM);
    let exit = coordinator.wait().exited_with(143);
    assert!(is_gone(&Pid::from_raw(npm).unwrap()), "{exit}");
}

/// Starts a program as process 1 of a namespace, as in a container; none if this is not permitted.
fn as_process_1(environment: &str, place: &Place, program: &str, flags: &str) -> Option<Process> {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
        command
    };
    if !unshare().arg("true").status().is_ok_and(|status| status.success()) {
        note_left_out("programs as process 1", "only root can make a PID namespace");
        return None;
    }
    let mut command = unshare();
    command.arg(programs().join(program)).args(flags.split_whitespace());
    let variables = environment.split_whitespace().filter_map(|pair| pair.split_once('='));
    command.envs(variables).current_dir(place.path(""));
    Some(Process::start(program, &mut command))
}

#[test]
fn process_1_that_waits_or_fetches() {
    let place = Place::new();
    let url = nowhere();
    for (signal, code) in SIGNALS {
        let flags = format!("--coordinator {url} --join-timeout-seconds 600");
        let Some(worker) = as_process_1("", &place, "vae-worker", &flags) else { return };
        worker.wait_for_line("waiting for a coordinator");
        kill_process(descendants(worker.id())[0], signal).unwrap();
        worker.wait().exited_with(code);
        a_coordinator_that_fetches(
            |place, environment, flags| {
                as_process_1(environment, place, "vae-coordinator", flags).unwrap()
            },
            code,
        );
    }
}

/// A program started by nohup(1) continues after the terminal is closed.
#[test]
fn sighup_is_left_alone_where_it_was_ignored() {
    let place = Place::new();
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]);
    command.arg(programs().join("vae-coordinator"));
    command.args(["--listen", "127.0.0.1:0", "--run-dir"]).arg(&place.run_dir);
    command.args(format!("{SMALL} {ENDLESS} --workers 1 --spawn").split_whitespace());
    let mut coordinator = Process::start("coordinator", command.current_dir(place.path("")));
    coordinator.wait_until("the run makes progress", || place.step() > 0);
    let workers = descendants(coordinator.id());
    coordinator.signal(Signal::HUP);
    workers.iter().for_each(|worker| kill_process(*worker, Signal::HUP).unwrap());
    let step = place.step();
    coordinator.wait_until("the run goes on", || place.step() > step);
    coordinator.signal(Signal::INT);
    let exit = coordinator.wait().exited_with(130);
    assert!(!exit.text().contains("ended ("), "{exit}");
    resumes_to_the_same_bits(&place, 1);
}

/// A closing terminal sends SIGHUP more than once, so a second SIGHUP must not end the coordinator
/// at once.
#[test]
fn a_second_sighup_is_not_impatience() {
    let place = Place::new();
    let flags = format!("{SMALL} {ENDLESS} --checkpoint-every-epochs 100000 --workers 2 --spawn");
    let mut coordinator = coordinator_at(&place, &flags);
    coordinator.wait_until("the run makes progress", || place.step() > 0);
    let step = place.step();
    coordinator.signal(Signal::HUP);
    coordinator.wait_for_line("Stopping after the current step");
    coordinator.signal(Signal::HUP);
    coordinator.wait().exited_with(129);
    assert!(place.newest().metadata.step >= step, "no step is lost");
    resumes_to_the_same_bits(&place, 2);
}

/// Workers that are still starting do not learn that the run has ended, and would wait for a
/// coordinator that no longer exists.
#[test]
fn workers_that_have_not_joined_hold_nobody_up() {
    let place = Place::new();
    let (program, worker) = (place.path("vae-coordinator"), place.path("vae-worker"));
    fs::copy(programs().join("vae-coordinator"), &program).unwrap();
    // The coordinator starts the worker that lies beside it. This one never joins.
    fs::write(&worker, "#!/bin/sh\nexec sleep 3600\n").unwrap();
    fs::set_permissions(&worker, Permissions::from_mode(0o700)).unwrap();
    let mut command = Command::new(program);
    command.args(["--listen", "127.0.0.1:0", "--run-dir"]).arg(&place.run_dir);
    command.args(format!("{SMALL} --workers 2 --spawn").split_whitespace());
    let mut coordinator = Process::start("coordinator", &mut command);
    let id = coordinator.id();
    coordinator.wait_until("both are started", || descendants(id).len() == 2);
    let workers = descendants(id);
    coordinator.signal(Signal::INT);
    let exit = coordinator.wait().exited_with(130);
    assert!(workers.iter().all(is_gone), "{exit}");
    assert!(!exit.text().contains("did not exit"), "{exit}");
}

fn is_gone(process: &Pid) -> bool {
    test_kill_process(*process).is_err()
}

/// One of the workers hangs, so the run cannot stop after the current step.
#[test]
fn a_second_ctrl_c_ends_the_workers_that_were_spawned() {
    let place = Place::new();
    let flags = format!("{SMALL} {ENDLESS} --workers 3 --spawn --dead-after-seconds 3600");
    let mut coordinator = coordinator_at(&place, &flags);
    coordinator.wait_until("a checkpoint is written", || place.newest_step() > 0);
    let workers = descendants(coordinator.id());
    assert_eq!(workers.len(), 3);
    kill_process(workers[1], Signal::STOP).unwrap();
    coordinator.signal(Signal::INT);
    coordinator.wait_for_line("Stopping after the current step");
    coordinator.signal(Signal::INT);
    let exit = coordinator.wait().exited_with(130);
    assert!(workers.iter().all(is_gone), "{exit}");
    assert!(exit.text().contains("Killed 3 workers that were started here"), "{exit}");
    assert!(exit.text().contains("Interrupted; the last checkpoint is that of step "), "{exit}");
    assert!(exit.lines().any(|line| line.contains("go on with: ") && line.contains("--resume")));
    resumes_to_the_same_bits(&place, 2);
}

/// The coordinator does not kill workers that it did not start: it says what they will do.
#[test]
fn a_second_sigterm_says_what_becomes_of_other_workers() {
    let place = Place::new();
    let flags =
        format!("{SMALL} {ENDLESS} --dead-after-seconds 3600 --coordinator-timeout-seconds 1");
    let mut fleet = Fleet::start(&place, 2, &flags);
    fleet.wait_for_progress(&place);
    fleet.workers[0].signal(Signal::STOP);
    fleet.coordinator.signal(Signal::INT);
    fleet.coordinator.wait_for_line("Stopping after the current step");
    fleet.coordinator.signal(Signal::TERM);
    let Fleet { coordinator, workers, .. } = fleet;
    let exit = coordinator.wait().exited_with(143);
    let said = "Left without a coordinator: 2 workers that were not started here; they save and end \
                after up to 1 s";
    assert!(exit.text().contains(said), "{exit}");
    workers[0].signal(Signal::CONT);
    for worker in workers {
        worker.wait().failed_with(&["no coordinator came back", "within 1 s"]);
    }
    wait_until("the workers have saved", || place.newest_step() > 0);
}

/// After a second signal a worker does not wait for the coordinator.
#[test]
fn a_worker_that_is_told_twice_goes_at_once() {
    let place = Place::new();
    let mut fleet = Fleet::start(&place, 2, &format!("{SMALL} {ENDLESS}"));
    fleet.wait_for_progress(&place);
    fleet.coordinator.signal(Signal::STOP);
    let leaver = fleet.workers.remove(1);
    leaver.signal(Signal::TERM);
    leaver.wait_for_line("leaving the run");
    leaver.signal(Signal::INT);
    leaver.wait().exited_with(130);
    fleet.coordinator.signal(Signal::CONT);
    fleet.wait_for_progress(&place);
    stopped_with_the_same_bits(&place, fleet);
}
