//! The processes of one run: a coordinator, and workers that can be added and removed, all in the
//! environment of the archive's programs.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::scene::Scene;
use crate::bench::{
    address_in,
    process::{self, Process},
};

/// How long a coordinator may take until it listens; it reads the data set first.
const LISTEN_BOUND: Duration = Duration::from_secs(30);

const POLL: Duration = Duration::from_millis(10);

/// A run. When it is dropped, its processes are killed and its folder is removed.
pub(super) struct Fleet<'a> {
    scene: &'a Scene,
    address: String,
    /// The coordinator, then the workers.
    processes: Vec<Process>,
    started: usize,
    folder: tempfile::TempDir,
}

/// The result of a run.
#[derive(Clone, Debug)]
pub(super) struct Summary {
    pub(super) digest: String,
    pub(super) images_per_second: f64,
}

impl<'a> Fleet<'a> {
    /// A coordinator with these flags, separated by blanks, and no worker.
    pub(super) fn start(scene: &'a Scene, flags: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        let (coordinator, address) = coordinator(scene, &folder, flags)?;
        Ok(Self { scene, address, processes: vec![coordinator], started: 0, folder })
    }

    /// Kills all processes, and starts a coordinator that resumes the run.
    pub(super) fn resumed(self, flags: &str) -> anyhow::Result<Self> {
        let Self { scene, processes, started, folder, .. } = self;
        drop(processes);
        let (coordinator, address) = coordinator(scene, &folder, &format!("--resume {flags}"))?;
        Ok(Self { scene, address, processes: vec![coordinator], started, folder })
    }

    /// Starts a worker.
    pub(super) fn add(&mut self, flags: &str) -> anyhow::Result<()> {
        let mut command = self.scene.program("vae-worker");
        command.args(["--coordinator", &self.address]).args(flags.split_whitespace());
        command.arg("--data-dir").arg(self.scene.data());
        let name = format!("worker-{}", self.started);
        self.started += 1;
        self.processes.push(Process::start(&name, &mut command, self.folder.path())?);
        Ok(())
    }

    /// Removes the worker that was started last from this fleet, and returns it.
    pub(super) fn take_worker(&mut self) -> Option<Process> {
        if self.processes.len() > 1 { self.processes.pop() } else { None }
    }

    /// The first line with these words in the standard error of the processes.
    pub(super) fn complaint(&self, words: &str) -> Option<String> {
        let complaints = self.processes.iter().map(Process::complaint);
        let lines = complaints.filter_map(|text| {
            text.lines().find(|line| line.contains(words)).map(|line| line.trim().to_owned())
        });
        lines.into_iter().next()
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("run").join(name)
    }

    /// Waits until `done` holds.
    pub(super) fn wait_until(
        &self,
        what: &str,
        bound: Duration,
        done: impl Fn(&Self) -> bool,
    ) -> anyhow::Result<()> {
        let bound = self.scene.bound(bound)?;
        let deadline = Instant::now() + bound;
        while !done(self) {
            ensure!(
                Instant::now() < deadline,
                "waited for {:.0} s in vain: {what}",
                bound.as_secs_f64()
            );
            ensure!(!self.file("summary.json").exists(), "the run ended before: {what}");
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// The number of events of a kind so far.
    pub(super) fn events(&self, kind: &str) -> usize {
        let text = fs::read_to_string(self.file("events.jsonl")).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["kind"] == kind).count()
    }

    /// Waits until the run is complete. All remaining processes must end with success.
    pub(super) fn completed(&mut self, bound: Duration) -> anyhow::Result<Summary> {
        let bound = self.scene.bound(bound)?;
        process::wait(&mut self.processes, bound, |_| {})?;
        let text = fs::read_to_string(self.file("summary.json"));
        let text = text.context("the run has no summary")?;
        let summary: Value = serde_json::from_str(&text)?;
        summary_in(&summary).context("the summary lacks digest or speed")
    }
}

fn coordinator(
    scene: &Scene,
    folder: &tempfile::TempDir,
    flags: &str,
) -> anyhow::Result<(Process, String)> {
    let mut command = scene.program("vae-coordinator");
    command.args(["--listen=127.0.0.1:0", "--no-board", "--offline"]);
    command.args(flags.split_whitespace());
    command.arg("--run-dir").arg(folder.path().join("run")).arg("--data-dir").arg(scene.data());
    let mut coordinator = Process::start("coordinator", &mut command, folder.path())?;
    let bound = scene.bound(LISTEN_BOUND)?;
    let address = process::recv(&mut coordinator, bound, address_in)?;
    Ok((coordinator, address))
}

fn summary_in(summary: &Value) -> Option<Summary> {
    Some(Summary {
        digest: summary["digest"].as_str()?.to_owned(),
        images_per_second: summary["train_examples_per_second"].as_f64()?,
    })
}
