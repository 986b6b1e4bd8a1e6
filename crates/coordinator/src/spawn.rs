//! `--spawn`: workers as child processes, their output passed through.

use std::{collections::HashMap, net::SocketAddr, path::PathBuf, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use collective::Rank;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    process::{Child, Command},
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::{console::Console, control::FAREWELL, control::Input, launch::Launch};

/// Bytes of a worker's line that are passed through at a time.
const LINE_BYTES: usize = 8192;

/// The workers that this coordinator started.
#[derive(Debug, Default)]
pub(crate) struct Children {
    /// One for each process and each of its pipes.
    watchers: JoinSet<()>,
    kills: HashMap<Rank, oneshot::Sender<()>>,
}

impl Children {
    /// Starts all workers of the run.
    pub(crate) fn start(
        launch: &Launch,
        address: SocketAddr,
        console: &Console,
        inputs: &mpsc::Sender<Input>,
    ) -> Result<Self> {
        let program = worker_program()?;
        let mut children = Self::default();
        for rank in (0..launch.config().operation.workers).map(Rank) {
            let mut child = Command::new(&program)
                .arg("--coordinator")
                .arg(format!("http://{address}"))
                .arg("--rank")
                .arg(rank.to_string())
                .arg("--data-dir")
                .arg(&launch.data_dir)
                .arg("--log-format")
                .arg(launch.log_format.name())
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                // Ctrl-C at the terminal is for the coordinator, which stops the workers itself.
                .process_group(0)
                .kill_on_drop(true)
                .spawn()
                .with_context(|| format!("cannot start {}", program.display()))?;
            if let Some(stdout) = child.stdout.take() {
                children.watchers.spawn(pass_through(rank, stdout, console.clone()));
            }
            if let Some(stderr) = child.stderr.take() {
                children.watchers.spawn(pass_through(rank, stderr, console.clone()));
            }
            let (kill, killed) = oneshot::channel();
            children.kills.insert(rank, kill);
            children.watchers.spawn(watch(rank, child, killed, inputs.clone()));
        }
        Ok(children)
    }

    /// Kills the worker that was started for a rank, if one was.
    pub(crate) fn kill(&mut self, rank: Rank) {
        if let Some(kill) = self.kills.remove(&rank) {
            let _exited = kill.send(());
        }
    }

    /// Waits, within a bound, for all workers to exit and to have said all; what is left then
    /// is killed.
    pub(crate) async fn finish(mut self) {
        let all = async { while self.watchers.join_next().await.is_some() {} };
        if tokio::time::timeout(FAREWELL, all).await.is_err() {
            tracing::warn!("killing workers that did not exit");
            // Dropping the children kills them.
            self.watchers.shutdown().await;
        }
    }
}

/// The worker's program, beside this one.
fn worker_program() -> Result<PathBuf> {
    let me = std::env::current_exe().context("cannot find this program's own file")?;
    let program = me.with_file_name("vae-worker");
    ensure!(
        program.exists(),
        "--spawn needs {}: build it with `cargo build --bin vae-worker`",
        program.display()
    );
    Ok(program)
}

async fn watch(
    rank: Rank,
    mut child: Child,
    killed: oneshot::Receiver<()>,
    inputs: mpsc::Sender<Input>,
) {
    let exited = tokio::select! {
        exited = child.wait() => exited,
        Ok(()) = killed => child.kill().await.and(child.wait().await),
    };
    let status = match exited {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    let _ended = inputs.send(Input::ChildExited(rank, status)).await;
}

async fn pass_through(rank: Rank, output: impl AsyncRead + Unpin, console: Console) {
    use tokio::io::AsyncReadExt as _;
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut bounded = (&mut output).take(LINE_BYTES as u64);
        match bounded.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line);
                console.line(&format!("[rank {rank}] {}", text.trim_end()));
            }
        }
    }
}
