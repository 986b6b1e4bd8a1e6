//! The PyTorch processes: one Python process per mode, which measures on request.

use std::{path::Path, time::Duration};

use anyhow::{Context, anyhow};

use super::scene::Scene;
use crate::bench::{
    process::{self, Process},
    speed_in,
};

/// The modes in which PyTorch trains, with their names; `gpu_peers.py` describes each mode.
pub(super) const MODES: [(&str, &str); 3] = [
    ("eager", "PyTorch eager"),
    ("compiled", "torch.compile reduce-overhead"),
    ("graph", "whole-step CUDA graph"),
];

/// How long the first answer for a batch size may take, with compilation, and how long a later
/// answer.
const FIRST_BOUND: Duration = Duration::from_secs(100);
const ANSWER_BOUND: Duration = Duration::from_secs(30);

/// A Python process that waits for requests.
pub(super) struct Peer {
    process: Process,
    answers: usize,
}

impl Peer {
    /// Starts a peer; its output goes to files in `folder`.
    pub(super) fn start(scene: &Scene, mode: &str, folder: &Path) -> anyhow::Result<Self> {
        let torch = scene.torch.as_ref().map_err(|reason| anyhow!("{reason}"))?;
        let mut command = process::command(Path::new("python3"));
        command.arg("-B").arg(scene.peers()).arg("--data-dir").arg(scene.data());
        command.args(["--mode", mode, "--device", &torch.device]);
        command.env("TORCHINDUCTOR_CACHE_DIR", folder.join("inductor"));
        Ok(Self { process: Process::start_listening(mode, &mut command, folder)?, answers: 0 })
    }

    /// Lets the peer compile for a batch size.
    pub(super) fn prepare(&mut self, scene: &Scene, batch: u32) -> anyhow::Result<()> {
        self.ask(scene, batch, 0.1, FIRST_BOUND).map(|_| ())
    }

    /// Images a second at a batch size, measured for `seconds`.
    pub(super) fn measure(
        &mut self,
        scene: &Scene,
        batch: u32,
        seconds: f64,
    ) -> anyhow::Result<f64> {
        self.ask(scene, batch, seconds, ANSWER_BOUND)
    }

    fn ask(
        &mut self,
        scene: &Scene,
        batch: u32,
        seconds: f64,
        bound: Duration,
    ) -> anyhow::Result<f64> {
        self.process.say(&format!("{batch} {seconds}\n"))?;
        let answered = self.answers;
        let answer = process::recv(&mut self.process, scene.bound(bound)?, |output| {
            let whole = output.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            whole.filter(|line| line.starts_with('{')).nth(answered).map(str::to_owned)
        })?;
        self.answers += 1;
        Ok(speed_in(&answer).context("the answer contains no speed")?.0)
    }
}
