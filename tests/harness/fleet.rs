//! Starts the programs: a coordinator, a worker, or a coordinator with workers that the test can
//! control.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::{Exit, Host, Network, Place, Process, armed_programs, free_address, programs};

/// The variable with a crash point and the harm at it; see `crates/crashpoint`.
pub(crate) const CRASH_POINT: &str = "LOCKSTEP_CRASH_POINT";

/// Starts a coordinator with the given flags, separated by blanks, and no others.
pub(crate) fn coordinator(place: &Place, flags: &str) -> Process {
    coordinator_on(None, place, flags)
}

/// [`coordinator`] on a host of a [`Network`].
fn coordinator_on(host: Option<&Host>, place: &Place, flags: &str) -> Process {
    coordinator_of(Task::Vae, host, place, flags)
}

/// [`coordinator`] with the program of a task.
pub(crate) fn coordinator_of(
    task: Task,
    host: Option<&Host>,
    place: &Place,
    flags: &str,
) -> Process {
    let mut command = task.coordinator(host);
    command.args(flags.split_whitespace()).current_dir(place.path(""));
    Process::start("coordinator", &mut command).on(host.cloned())
}

/// The programs of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// `vae-coordinator` and `vae-worker`.
    Vae,
    /// The same programs, with workers on emulated GPUs.
    VaeOnGpus,
    /// An example, which is both a coordinator and a worker.
    Example(&'static str),
}

impl Task {
    /// The coordinator's program, without flags.
    pub(crate) fn coordinator(self, host: Option<&Host>) -> Command {
        self.command(host, "vae-coordinator", "train")
    }

    /// The worker's program, without flags.
    pub(crate) fn worker(self, host: Option<&Host>) -> Command {
        let mut command = self.command(host, "vae-worker", "worker");
        if self == Self::VaeOnGpus {
            command.env("LD_LIBRARY_PATH", emulated_gpu::FOLDER).arg("--device=cuda");
        }
        command
    }

    fn command(self, host: Option<&Host>, own: &str, word: &str) -> Command {
        match self {
            Self::Vae | Self::VaeOnGpus => command(host, Path::new(own), None),
            Self::Example(_) => command(host, &self.program(), Some(word)),
        }
    }

    /// An example's program.
    pub(crate) fn program(self) -> PathBuf {
        match self {
            Self::Vae | Self::VaeOnGpus => panic!("there are two of them"),
            Self::Example(name) => programs().join("examples").join(name),
        }
    }
}

/// A command that runs a program, on a host if there is one. There it must be reachable from other
/// hosts.
fn command(host: Option<&Host>, program: &Path, word: Option<&str>) -> Command {
    let program = programs().join(program);
    let mut command = match host {
        None => Command::new(program),
        Some(host) => host.command(&program),
    };
    command.args(word);
    if host.is_some() {
        command.arg("--insecure");
    }
    command
}

/// Starts a coordinator with these variables in its environment, separated by blanks.
pub(crate) fn coordinator_in(environment: &str, place: &Place, flags: &str) -> Process {
    let mut command = Command::new(programs().join("vae-coordinator"));
    command.args(flags.split_whitespace()).current_dir(place.path(""));
    command.envs(variables(environment));
    Process::start("coordinator", &mut command)
}

/// Starts a coordinator from a shell that has changed its limits first.
pub(crate) fn coordinator_under(limits: &str, place: &Place, flags: &str) -> Process {
    let mut command = under(limits, "vae-coordinator");
    command.args(flags.split_whitespace()).current_dir(place.path(""));
    Process::start("coordinator", &mut command)
}

/// Starts a worker from a shell that has changed its limits first.
pub(crate) fn worker_under(limits: &str, url: &str, flags: &str) -> Process {
    let mut command = under(limits, "vae-worker");
    command.args(["--coordinator", url]).args(flags.split_whitespace());
    Process::start("worker", &mut command)
}

fn under(limits: &str, program: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{limits} && exec \"$0\" \"$@\"")]);
    command.arg(programs().join(program));
    command
}

fn variables(environment: &str) -> impl Iterator<Item = (&str, &str)> {
    environment.split_whitespace().filter_map(|pair| pair.split_once('='))
}

/// Starts a coordinator of the run in `place`, on a free port.
pub(crate) fn coordinator_at(place: &Place, flags: &str) -> Process {
    let run_dir = place.run_dir.display();
    coordinator(place, &format!("--listen {} --run-dir {run_dir} {flags}", free_address()))
}

/// Starts a worker with the given flags, separated by blanks.
pub(crate) fn worker(url: &str, flags: &str) -> Process {
    worker_on(Task::Vae, None, url, flags)
}

fn worker_on(task: Task, host: Option<&Host>, url: &str, flags: &str) -> Process {
    let mut command = task.worker(host);
    command.args(["--coordinator", url]).args(flags.split_whitespace());
    Process::start("worker", &mut command).on(host.cloned())
}

/// Starts a worker with these variables in its environment, separated by blanks, as a launcher
/// does.
pub(crate) fn worker_in(environment: &str, flags: &str) -> Process {
    let mut command = Command::new(programs().join("vae-worker"));
    command.args(flags.split_whitespace());
    command.envs(variables(environment));
    Process::start("worker", &mut command)
}

/// Starts a coordinator of the run in `place` that comes to harm at a crash point, such as
/// "journal.synced 2 kill".
pub(crate) fn armed_coordinator(place: &Place, flags: &str, order: &str) -> Process {
    let mut command = Command::new(armed_programs().join("vae-coordinator"));
    command.args(["--listen", &free_address(), "--run-dir"]).arg(&place.run_dir);
    command.args(flags.split_whitespace()).current_dir(place.path("")).env(CRASH_POINT, order);
    Process::start("armed coordinator", &mut command)
}

/// Starts a coordinator of the run in `place` that sends its traces to a collector, as do the
/// workers that it spawns.
pub(crate) fn traced_coordinator(place: &Place, flags: &str, collector: &str) -> Process {
    let mut command = Command::new(armed_programs().join("vae-coordinator"));
    command.args(["--listen", &free_address(), "--run-dir"]).arg(&place.run_dir);
    command.args(flags.split_whitespace()).current_dir(place.path(""));
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector);
    Process::start("traced coordinator", &mut command)
}

/// Starts a worker that comes to harm at a crash point.
fn armed_worker(url: &str, flags: &str, order: &str) -> Process {
    let mut command = Command::new(armed_programs().join("vae-worker"));
    command.args(["--coordinator", url]).args(flags.split_whitespace()).env(CRASH_POINT, order);
    Process::start("armed worker", &mut command)
}

/// [`armed_worker`] with these variables in its environment, separated by blanks, as a launcher
/// does.
pub(crate) fn armed_worker_in(environment: &str, flags: &str, order: &str) -> Process {
    let mut command = Command::new(armed_programs().join("vae-worker"));
    command.args(flags.split_whitespace());
    command.envs(variables(environment)).env(CRASH_POINT, order);
    Process::start("armed worker", &mut command)
}

/// A coordinator and workers that are processes of the test.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) task: Task,
    pub(crate) coordinator: Process,
    pub(crate) url: String,
    /// In rank order.
    pub(crate) workers: Vec<Process>,
    /// The network on which each process has its own host; without one, all use loopback.
    pub(crate) network: Option<Network>,
}

impl Fleet {
    /// Starts a coordinator in `place`, still without workers.
    pub(crate) fn without_workers(place: &Place, flags: &str) -> Self {
        Self::of(coordinator_at(place, flags), None)
    }

    /// A coordinator that was started, and no workers.
    pub(crate) fn of(coordinator: Process, network: Option<Network>) -> Self {
        let line = coordinator.wait_for_line("Listening on ");
        let url = line.rsplit(' ').next().unwrap().to_owned();
        Self::at(coordinator, url, network)
    }

    /// A coordinator whose address is known, and no workers.
    pub(crate) fn at(coordinator: Process, url: String, network: Option<Network>) -> Self {
        Self { task: Task::Vae, coordinator, url, workers: Vec::new(), network }
    }

    /// Starts a coordinator in `place` and this many workers of one thread each.
    pub(crate) fn start(place: &Place, workers: u32, flags: &str) -> Self {
        Self::start_on(None, place, workers, flags)
    }

    /// [`Fleet::start`] with the programs of a task.
    pub(crate) fn of_task(task: Task, place: &Place, workers: u32, flags: &str) -> Self {
        let flags = format!("--workers {workers} {flags}");
        let mut fleet = Self::of_task_without_workers(task, place, &flags);
        (0..workers).for_each(|rank| fleet.add(&format!("--rank {rank} --threads 1")));
        fleet
    }

    /// [`Fleet::of_task`] without workers.
    pub(crate) fn of_task_without_workers(task: Task, place: &Place, flags: &str) -> Self {
        let mut command = task.coordinator(None);
        command.args(["--listen", &free_address(), "--run-dir"]).arg(&place.run_dir);
        command.args(flags.split_whitespace()).current_dir(place.path(""));
        Self { task, ..Self::of(Process::start("coordinator", &mut command), None) }
    }

    /// [`Fleet::start`] with each process on its own host.
    pub(crate) fn start_on(
        network: Option<Network>,
        place: &Place,
        workers: u32,
        flags: &str,
    ) -> Self {
        let host = network.as_ref().map(Network::host);
        let (listen, run_dir) = match &host {
            None => (free_address(), place.run_dir.display()),
            Some(host) => (format!("{}:50051", host.address()), place.run_dir.display()),
        };
        let flags = format!("--listen {listen} --run-dir {run_dir} --workers {workers} {flags}");
        let mut fleet = Self::of(coordinator_on(host.as_ref(), place, &flags), network);
        (0..workers).for_each(|rank| fleet.add(&format!("--rank {rank} --threads 1")));
        fleet
    }

    /// Starts one more worker.
    pub(crate) fn add(&mut self, flags: &str) {
        let host = self.network.as_ref().map(Network::host);
        self.workers.push(worker_on(self.task, host.as_ref(), &self.url, flags));
    }

    /// Starts one more worker, which comes to harm at a crash point.
    pub(crate) fn add_armed(&mut self, flags: &str, order: &str) {
        self.workers.push(armed_worker(&self.url, flags, order));
    }

    /// Waits until the run is in the middle of training: some steps are done.
    pub(crate) fn wait_for_progress(&mut self, place: &Place) {
        let before = place.step();
        self.coordinator.wait_until("the run makes progress", || place.step() > before);
    }

    /// Waits until the event log has `count` lines of a kind.
    pub(crate) fn wait_for_event(&mut self, place: &Place, kind: &str, count: usize) {
        let what = format!("{count} events {kind:?}");
        self.coordinator.wait_until(&what, || place.events(kind).len() >= count);
    }

    /// Waits until all processes have ended; returns the exits of the coordinator and of the
    /// workers.
    pub(crate) fn wait(self) -> (Exit, Vec<Exit>) {
        let Self { coordinator, workers, .. } = self;
        (coordinator.wait(), workers.into_iter().map(Process::wait).collect())
    }

    /// Waits until the run is complete.
    pub(crate) fn completed(self) -> Exit {
        let (coordinator, workers) = self.wait();
        workers.into_iter().for_each(|worker| drop(worker.succeeded()));
        coordinator.succeeded()
    }
}

/// The address of a coordinator's board, from its output, without the last slash.
pub(crate) fn board_of(coordinator: &Process) -> String {
    let line = coordinator.wait_for_line("Board: http://");
    line.rsplit(' ').next().unwrap().trim_end_matches('/').to_owned()
}
