//! `--spawn`: workers as child processes. Their output is passed through. They are restarted when they
//! die, and a new coordinator takes over the workers of one that has died.

use std::{
    ffi::OsString,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    event::{PollFd, PollFlags},
    process::{Pid, PidfdFlags, Signal},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    process::{Child, Command},
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

use crate::{
    console::Console,
    control::{DRAIN_TIMEOUT, Input},
    hints,
    journal::{Entry, Journal, Process},
    launch::{Launch, Spawn},
    program::WorkerProgram,
    stop::Asked,
};

/// The most bytes of a worker's line that are passed through at a time.
const LINE_BYTES: usize = 8192;

/// Time before the first restart of a worker. It doubles with each restart, until a worker has lived
/// for [`STABLE_AFTER`].
const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// The longest time before a restart.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// A worker that lived this long did not fail at its start.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Exit codes of a worker that was not needed any more, or was told to leave by SIGHUP, SIGINT or
/// SIGTERM.
const LEFT: [i32; 4] = [0, 129, 130, 143];

/// How a worker's process ended.
#[derive(Clone, Debug)]
pub(crate) struct Exit {
    /// The end in words, for people.
    pub(crate) status: String,
    /// The exit code; none if a signal ended the process, or if the code is not known.
    code: Option<i32>,
    /// The signal that ended the process, if there was one.
    pub(crate) signal: Option<i32>,
    /// Whether this coordinator sent the signal.
    pub(crate) killed_here: bool,
}

/// The decision after a worker's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The worker left because it was told to.
    Left,
    /// The worker is started again after this time.
    Again(Duration),
    /// The worker is not started again.
    GivenUp,
}

/// The workers that this coordinator started.
#[derive(Debug, Default)]
pub(crate) struct Children {
    spawner: Option<Spawner>,
    slots: Vec<Slot>,
    /// A watcher for each process and each of its pipes.
    watchers: JoinSet<()>,
}

/// How workers are started.
#[derive(Debug)]
struct Spawner {
    program: PathBuf,
    arguments: Vec<OsString>,
    /// See [`Spawn`].
    devices: Vec<String>,
    max_restarts: u32,
    console: Console,
    inputs: mpsc::Sender<Input>,
}

/// A slot for a worker: one process after the other runs in it.
#[derive(Debug)]
struct Slot {
    process: Process,
    kill: Option<oneshot::Sender<()>>,
    begun: Instant,
    has_joined: bool,
    restarts: u32,
    backoff: Duration,
}

impl Slot {
    fn new(process: Process, kill: oneshot::Sender<()>) -> Self {
        let (restarts, backoff, has_joined) = (0, BACKOFF_MIN, false);
        Self { process, kill: Some(kill), begun: Instant::now(), has_joined, restarts, backoff }
    }
}

impl Children {
    /// Starts all workers of the run. Workers that the previous coordinator started and that still
    /// run are taken over.
    ///
    /// # Errors
    /// When a worker cannot be started; the workers that were started before it still run.
    pub(crate) fn start(
        &mut self,
        launch: &Launch,
        spawn: &Spawn,
        address: SocketAddr,
        console: &Console,
        inputs: &mpsc::Sender<Input>,
        journal: &mut Journal,
    ) -> Result<()> {
        let coordinator = format!("{}://{}", launch.security.scheme(), from_here(address));
        let word = launch.program.worker().subcommand();
        let arguments: [OsString; 8] = [
            "--coordinator".into(),
            coordinator.into(),
            "--data-dir".into(),
            launch.data_dir.clone().into(),
            "--log-format".into(),
            launch.log_format.name().into(),
            "--log-level".into(),
            launch.log_level.name().into(),
        ];
        let arguments = word.map(OsString::from).into_iter().chain(arguments);
        let spawner = Spawner {
            program: spawn.program.clone(),
            arguments: arguments
                .chain(launch.worker_arguments.iter().cloned())
                .chain(spawn.threads.map(|threads| format!("--threads={threads}").into()))
                .collect(),
            devices: spawn.devices.clone(),
            max_restarts: launch.max_restarts,
            console: console.clone(),
            inputs: inputs.clone(),
        };
        let mut running = launch.history.children();
        self.spawner = Some(spawner);
        for slot in 0..launch.config().operation.workers {
            let entry = match running.remove(&slot) {
                Some(process) => self.take_over(slot, process)?,
                None => self.spawn(slot, &["--rank", &slot.to_string()], journal)?,
            };
            self.slots.push(entry);
        }
        Ok(())
    }

    fn spawn(&mut self, slot: u32, more: &[&str], journal: &mut Journal) -> Result<Slot> {
        let spawner = self.spawner.as_ref().context("no workers are started here")?;
        let device = spawner.devices.iter().cycle().nth(slot as usize);
        let mut child = Command::new(&spawner.program)
            .args(&spawner.arguments)
            .args(more)
            // All workers are on this host. If it has several GPUs, each worker takes another GPU.
            .arg(format!("--local-rank={slot}"))
            .args(device.map(|device| format!("--device={device}")))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C at the terminal is for the coordinator, which stops the workers itself.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", spawner.program.display()))?;
        let process = Process::here(child.id().unwrap_or_default());
        journal.note(&Entry::Spawned {
            slot,
            process: process.id,
            birth: process.birth.clone(),
        })?;
        if let Some(stdout) = child.stdout.take() {
            self.watchers.spawn(pass_through(slot, stdout, spawner.console.clone()));
        }
        if let Some(stderr) = child.stderr.take() {
            self.watchers.spawn(pass_through(slot, stderr, spawner.console.clone()));
        }
        let (kill, killed) = oneshot::channel();
        self.watchers.spawn(watch(slot, child, killed, spawner.inputs.clone()));
        Ok(Slot::new(process, kill))
    }

    /// Watches a process that the previous coordinator has started.
    fn take_over(&mut self, slot: u32, process: Process) -> Result<Slot> {
        let spawner = self.spawner.as_ref().context("no workers are started here")?;
        let (kill, killed) = oneshot::channel();
        self.watchers.spawn(watch_other(slot, process.clone(), killed, spawner.inputs.clone()));
        Ok(Slot { has_joined: true, ..Slot::new(process, kill) })
    }

    /// Marks a process as able to join the run, because it has joined.
    pub(crate) fn note_joined(&mut self, process: &Process) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.process.is(process)) {
            slot.has_joined = true;
        }
    }

    /// Whether this coordinator started a process or has taken it over.
    pub(crate) fn started(&self, process: &Process) -> bool {
        self.slots.iter().any(|slot| slot.process.is(process))
    }

    /// Decides what follows from the end of a slot's process. If the worker is to be restarted,
    /// [`Input::Restart`] is sent after the backoff.
    pub(crate) fn exited(&mut self, slot: u32, exit: &Exit) -> Verdict {
        // Joins the watchers that have ended, so that their memory is freed.
        while self.watchers.try_join_next().is_some() {}
        let (Some(spawner), Some(entry)) = (&self.spawner, self.slots.get_mut(slot as usize))
        else {
            return Verdict::GivenUp;
        };
        entry.kill = None;
        if exit.code.is_some_and(|code| LEFT.contains(&code)) {
            return Verdict::Left;
        }
        // A process that exits by itself before it has joined would fail in the same way again.
        let is_hopeless = !entry.has_joined && exit.code.is_some();
        if is_hopeless || entry.restarts >= spawner.max_restarts {
            return Verdict::GivenUp;
        }
        if entry.begun.elapsed() >= STABLE_AFTER {
            entry.backoff = BACKOFF_MIN;
        }
        let after = entry.backoff;
        entry.backoff = (after * 2).min(BACKOFF_MAX);
        entry.restarts += 1;
        let inputs = spawner.inputs.clone();
        self.watchers.spawn(async move {
            tokio::time::sleep(after).await;
            let _ended = inputs.send(Input::Restart(slot)).await;
        });
        Verdict::Again(after)
    }

    /// Starts the worker of a slot again, with any free rank.
    pub(crate) fn restart(&mut self, slot: u32, journal: &mut Journal) -> Result<()> {
        // The explicit `any` overrides a rank in the environment, which was not meant for workers
        // that the coordinator starts.
        let fresh = self.spawn(slot, &["--rank", "any"], journal)?;
        if let Some(entry) = self.slots.get_mut(slot as usize) {
            *entry = Slot { restarts: entry.restarts, backoff: entry.backoff, ..fresh };
        }
        Ok(())
    }

    /// Kills a process, if it is in a slot.
    pub(crate) fn kill(&mut self, process: &Process) {
        let slot = self.slots.iter_mut().find(|slot| slot.process.is(process));
        if let Some(kill) = slot.and_then(|slot| slot.kill.take()) {
            let _exited = kill.send(());
        }
    }

    /// Kills all workers in slots that still run. Returns their number.
    pub(crate) fn kill_all(&mut self) -> usize {
        let kills = self.slots.iter_mut().filter_map(|slot| slot.kill.take());
        kills.filter_map(|kill| kill.send(()).ok()).count()
    }

    /// Waits until all workers have exited and their output is read. At [`DRAIN_TIMEOUT`], or when
    /// signals ask for an immediate end, the remaining workers are killed. Workers that have never
    /// joined are killed at once: they have nothing to save, and would keep looking for a coordinator.
    pub(crate) async fn finish(mut self, mut asked: watch::Receiver<Asked>) {
        for slot in self.slots.iter_mut().filter(|slot| !slot.has_joined) {
            let _exited = slot.kill.take().map(|kill| kill.send(()));
        }
        let must_end_now = async {
            // If the sender is gone, no signal can ask for an immediate end.
            if asked.wait_for(Asked::must_end_now).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let all_exited = tokio::select! {
            all_exited = self.all_exit() => all_exited,
            () = must_end_now => false,
        };
        if all_exited {
            return;
        }
        let killed = self.kill_all();
        if killed > 0 {
            tracing::warn!(workers = killed, "killing those that did not exit");
        }
        if !self.all_exit().await {
            self.watchers.shutdown().await;
        }
    }

    async fn all_exit(&mut self) -> bool {
        let all = async { while self.watchers.join_next().await.is_some() {} };
        tokio::time::timeout(DRAIN_TIMEOUT, all).await.is_ok()
    }
}

/// The address by which a process on this machine connects to a listener at `address`.
fn from_here(address: SocketAddr) -> SocketAddr {
    let mut address = address;
    match address {
        SocketAddr::V4(any) if any.ip().is_unspecified() => {
            address.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        SocketAddr::V6(any) if any.ip().is_unspecified() => {
            address.set_ip(Ipv6Addr::LOCALHOST.into());
        }
        _ => {}
    }
    address
}

/// The file of the worker's program.
pub(crate) fn worker_program(program: WorkerProgram) -> Result<PathBuf> {
    let me = std::env::current_exe().context("cannot find this program's own file")?;
    let WorkerProgram::Beside(name) = program else { return Ok(me) };
    let program = me.with_file_name(name);
    ensure!(
        advice::is_program(&program),
        "--spawn needs {}, which is not there: {}",
        program.display(),
        hints::get_worker(&program)
    );
    Ok(program)
}

async fn watch(
    slot: u32,
    mut child: Child,
    killed: oneshot::Receiver<()>,
    inputs: mpsc::Sender<Input>,
) {
    let (exited, killed_here) = tokio::select! {
        exited = child.wait() => (exited, false),
        Ok(()) = killed => (child.kill().await.and(child.wait().await), true),
    };
    let exit = match exited {
        Ok(status) => Exit {
            code: ExitStatus::code(&status),
            signal: status.signal(),
            status: format!("ended with {status}"),
            killed_here,
        },
        Err(error) => Exit { code: None, signal: None, status: error.to_string(), killed_here },
    };
    let _ended = inputs.send(Input::ChildExited(slot, exit)).await;
}

/// Watches a process that is not a child of this process.
async fn watch_other(
    slot: u32,
    process: Process,
    killed: oneshot::Receiver<()>,
    inputs: mpsc::Sender<Input>,
) {
    let status = "ended; the coordinator before this one had started it".to_owned();
    let exit = Exit { code: None, signal: None, status, killed_here: false };
    let pid = Pid::from_raw(process.id.cast_signed());
    let handle = pid.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
    // The process is checked again now that the handle is open, because another process could have
    // taken over its number in between.
    if let Some(handle) = handle.filter(|_| process.runs_here()).map(Arc::new) {
        let watched = Arc::clone(&handle);
        let mut gone = tokio::task::spawn_blocking(move || {
            let mut exit = [PollFd::new(&*watched, PollFlags::IN)];
            let _exited = rustix::event::poll(&mut exit, None);
        });
        tokio::select! {
            _gone = &mut gone => {}
            Ok(()) = killed => {
                let _exited = rustix::process::pidfd_send_signal(&*handle, Signal::KILL);
                let _exited = gone.await;
            }
        }
    }
    let _ended = inputs.send(Input::ChildExited(slot, exit)).await;
}

async fn pass_through(slot: u32, output: impl AsyncRead + Unpin, console: Console) {
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
                console.line(&format!("[worker {slot}] {}", text.trim_end()));
            }
        }
    }
}
