//! The programs: a coordinator alone, a worker alone, or a coordinator with workers that the
//! test can get at.

use std::process::Command;

use super::{Exit, Place, Process, programs};

/// Starts a coordinator with the given flags, separated by blanks, and no others.
pub(crate) fn coordinator(place: &Place, flags: &str) -> Process {
    coordinator_in("", place, flags)
}

/// Starts a coordinator with these variables in its environment, separated by blanks.
pub(crate) fn coordinator_in(environment: &str, place: &Place, flags: &str) -> Process {
    let mut command = Command::new(programs().join("vae-coordinator"));
    command.args(flags.split_whitespace()).current_dir(place.path(""));
    command.envs(variables(environment));
    Process::start("coordinator", &mut command)
}

fn variables(environment: &str) -> impl Iterator<Item = (&str, &str)> {
    environment.split_whitespace().filter_map(|pair| pair.split_once('='))
}

/// Starts a coordinator of the run in `place`, on a free port.
pub(crate) fn coordinator_at(place: &Place, flags: &str) -> Process {
    let run_dir = place.run_dir.display();
    coordinator(place, &format!("--listen 127.0.0.1:0 --run-dir {run_dir} {flags}"))
}

/// Starts a worker with the given flags, separated by blanks.
pub(crate) fn worker(url: &str, flags: &str) -> Process {
    let mut command = Command::new(programs().join("vae-worker"));
    command.args(["--coordinator", url]).args(flags.split_whitespace());
    Process::start("worker", &mut command)
}

/// Starts a worker as a launcher does that sets these variables, separated by blanks.
pub(crate) fn worker_in(environment: &str, flags: &str) -> Process {
    let mut command = Command::new(programs().join("vae-worker"));
    command.args(flags.split_whitespace());
    command.envs(variables(environment));
    Process::start("worker", &mut command)
}

/// A coordinator and workers that are processes of the test.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) coordinator: Process,
    pub(crate) url: String,
    /// In rank order.
    pub(crate) workers: Vec<Process>,
}

impl Fleet {
    /// Starts a coordinator in `place`, still without workers.
    pub(crate) fn without_workers(place: &Place, flags: &str) -> Self {
        let coordinator = coordinator_at(place, flags);
        let line = coordinator.wait_for_line("Listening on ");
        let url = line.rsplit(' ').next().unwrap().to_owned();
        Self { coordinator, url, workers: Vec::new() }
    }

    /// Starts a coordinator in `place` and this many workers of one thread each.
    pub(crate) fn start(place: &Place, workers: u32, flags: &str) -> Self {
        let mut fleet = Self::without_workers(place, &format!("--workers {workers} {flags}"));
        (0..workers).for_each(|rank| fleet.add(&format!("--rank {rank} --threads 1")));
        fleet
    }

    /// Starts one more worker.
    pub(crate) fn add(&mut self, flags: &str) {
        self.workers.push(worker(&self.url, flags));
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

    /// Waits for all processes to end; the coordinator is the first of the answer.
    pub(crate) fn wait(self) -> (Exit, Vec<Exit>) {
        let Self { coordinator, workers, .. } = self;
        (coordinator.wait(), workers.into_iter().map(Process::wait).collect())
    }

    /// Waits for the run to complete.
    pub(crate) fn completed(self) -> Exit {
        let (coordinator, workers) = self.wait();
        workers.into_iter().for_each(|worker| drop(worker.succeeded()));
        coordinator.succeeded()
    }
}
