//! `--notify`: runs a person's command for every event. Training never waits for the command.

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use history::EventRow;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Serialize;

/// The most events that wait for the command; further ones are dropped.
const WAITING_MAX: usize = 64;

/// How long the command may take for one event before it is killed.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// How long the last events may take at the end of a run.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);

/// Time between two checks whether the command has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The command's input: a JSON object in one line.
#[derive(Serialize)]
struct Message<'a> {
    run_id: &'a str,
    run_directory: &'a str,
    name: Option<&'a str>,
    /// The event as a sentence.
    text: String,
    #[serde(flatten)]
    row: &'a EventRow,
}

/// Sends events to the thread that runs the command.
#[derive(Debug)]
pub(crate) struct Notifier {
    lines: Option<SyncSender<Vec<u8>>>,
    ended: Receiver<()>,
    run_id: String,
    run_directory: String,
    name: Option<String>,
    dropped: u64,
}

impl Notifier {
    /// Starts the thread that runs `command`, a line for `sh`.
    pub(crate) fn start(
        command: &str,
        run_id: String,
        run_directory: String,
        name: Option<String>,
    ) -> std::io::Result<Self> {
        let (lines, waiting) = sync_channel::<Vec<u8>>(WAITING_MAX);
        let (end, ended) = sync_channel(1);
        let command = command.to_owned();
        let tell = move || {
            for line in waiting {
                if let Err(error) = run(&command, line) {
                    tracing::warn!("--notify: {error}");
                }
            }
            let _nobody_waits = end.send(());
        };
        thread::Builder::new().name("notify".into()).spawn(tell)?;
        Ok(Self { lines: Some(lines), ended, run_id, run_directory, name, dropped: 0 })
    }

    /// Queues an event, or drops it if the queue is full.
    pub(crate) fn tell(&mut self, row: &EventRow) {
        let message = Message {
            run_id: &self.run_id,
            run_directory: &self.run_directory,
            name: self.name.as_deref(),
            text: row.event.to_string(),
            row,
        };
        let Ok(mut line) = serde_json::to_vec(&message) else { return };
        line.push(b'\n');
        let Some(lines) = &self.lines else { return };
        if let Err(TrySendError::Full(_)) = lines.try_send(line) {
            self.dropped += 1;
            if self.dropped == 1 {
                tracing::warn!("--notify: the command is too slow: events are left out");
            }
        }
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.lines = None;
        if self.ended.recv_timeout(DRAIN_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("--notify: the command is too slow: the last events are left out");
        }
    }
}

/// Runs the command for one event, in its own process group.
fn run(command: &str, line: Vec<u8>) -> Result<(), String> {
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|error| format!("cannot start sh: {error}"))?;
    if let Some(mut input) = child.stdin.take() {
        // The line is shorter than a pipe's buffer, so the write never blocks. The command need not
        // read it.
        let _unread = input.write_all(&line);
    }
    let begun = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("the command failed with {status}")),
            Ok(None) if begun.elapsed() < TIME_LIMIT => thread::sleep(POLL_INTERVAL),
            Ok(None) => {
                kill(&mut child);
                let limit = TIME_LIMIT.as_secs();
                return Err(format!("the command took more than {limit} s and was killed"));
            }
            Err(error) => return Err(format!("the command is lost: {error}")),
        }
    }
}

fn kill(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _gone = kill_process_group(group, Signal::KILL);
    }
    let _reaped = child.wait();
}
