//! One process: its output as lines, and its end within a bound. A process is always killed at the
//! end of its test.
//!
//! This file does not know the programs.

use std::{
    fmt,
    io::{BufRead as _, BufReader, ErrorKind, Read},
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, Once, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{DEADLINE, Host, POLL, descendants};

/// How many lines of output an error message shows.
const LAST_WORDS: usize = 10;

/// The pipe of a line of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pipe {
    Stdout,
    Stderr,
}

/// A running process.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    output: Arc<Output>,
    /// The host of the process, if it is on a [`super::Network`]; dropped after the process.
    host: Option<Host>,
}

/// The output of a process so far.
#[derive(Debug, Default)]
struct Output {
    written: Mutex<Written>,
    more: Condvar,
}

#[derive(Clone, Debug, Default)]
struct Written {
    lines: Vec<(Pipe, String)>,
    closed_pipes: usize,
}

/// A process that has ended.
#[derive(Debug)]
pub(crate) struct Exit {
    name: String,
    pub(crate) status: ExitStatus,
    lines: Vec<(Pipe, String)>,
}

/// Installs a handler for SIGHUP. Under nohup(1) SIGHUP is ignored, and started programs would
/// inherit this; a signal with a handler has its default action in them.
fn heed_hangup() {
    static HEEDED: Once = Once::new();
    HEEDED.call_once(|| {
        signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::default()).unwrap();
    });
}

/// Starts a command. A program that was just copied may be busy: another test that starts a process at this moment lets
/// it inherit the file, which is open for writing, until it executes its own program.
fn spawned(command: &mut Command) -> Child {
    let begun = Instant::now();
    loop {
        match command.spawn() {
            Ok(child) => return child,
            Err(error)
                if error.kind() == ErrorKind::ExecutableFileBusy && begun.elapsed() < DEADLINE =>
            {
                thread::sleep(POLL);
            }
            Err(error) => panic!("cannot start {command:?}: {error}"),
        }
    }
}

impl Process {
    pub(crate) fn start(name: &str, command: &mut Command) -> Self {
        heed_hangup();
        if !command.get_envs().any(|(name, _)| name == "RUST_LOG") {
            command.env_remove("RUST_LOG");
        }
        // With this a panic prints a trace, which tests look for in the output.
        command.env("RUST_BACKTRACE", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawned(command);
        let output = Arc::new(Output::default());
        read(Pipe::Stdout, child.stdout.take().unwrap(), &output);
        read(Pipe::Stderr, child.stderr.take().unwrap(), &output);
        Self { name: name.to_owned(), child, output, host: None }
    }

    /// Notes the host on which the process was started.
    pub(crate) fn on(mut self, host: Option<Host>) -> Self {
        self.host = host;
        self
    }

    pub(crate) fn host(&self) -> Option<&Host> {
        self.host.as_ref()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for a line that contains `needle`, on either pipe.
    pub(crate) fn wait_for_line(&self, needle: &str) -> String {
        let begun = Instant::now();
        let mut written = self.output.lock();
        loop {
            if let Some((_, line)) = written.lines.iter().find(|(_, line)| line.contains(needle)) {
                return line.clone();
            }
            let left = DEADLINE.saturating_sub(begun.elapsed());
            if left.is_zero() || written.closed_pipes == 2 {
                let lines = written.lines.clone();
                drop(written);
                panic!("{} never said {needle:?}:\n{}", self.name, shown(&lines));
            }
            let waited = self.output.more.wait_timeout(written, left);
            written = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the process has ended or has printed a line that contains `needle`; returns
    /// whether it printed this line.
    pub(crate) fn ends_or_says(&self, needle: &str) -> bool {
        let begun = Instant::now();
        let mut written = self.output.lock();
        loop {
            if written.lines.iter().any(|(_, line)| line.contains(needle)) {
                return true;
            }
            let left = DEADLINE.saturating_sub(begun.elapsed());
            assert!(!left.is_zero(), "{} never said {needle:?}, nor ended", self.name);
            if written.closed_pipes == 2 {
                return false;
            }
            let waited = self.output.more.wait_timeout(written, left);
            written = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether a line contains both texts.
    pub(crate) fn says(&self, one: &str, other: &str) -> bool {
        let written = self.output.lock();
        written.lines.iter().any(|(_, line)| line.contains(one) && line.contains(other))
    }

    /// The last lines of output.
    pub(crate) fn last_words(&self) -> String {
        let written = self.output.lock();
        let lines = &written.lines;
        shown(&lines[lines.len().saturating_sub(LAST_WORDS)..])
    }

    /// Waits until `done` is true. After the end of the process, `done` is checked only once more.
    pub(crate) fn wait_until(&mut self, what: &str, mut done: impl FnMut() -> bool) {
        let begun = Instant::now();
        loop {
            let ended = self.child.try_wait().unwrap().is_some();
            if done() {
                return;
            }
            assert!(
                !ended && begun.elapsed() < DEADLINE,
                "{what}: not true after {:.1} s, {} {}:\n{}",
                begun.elapsed().as_secs_f64(),
                self.name,
                if ended { "has ended" } else { "still runs" },
                shown(&self.output.lock().lines)
            );
            thread::sleep(POLL);
        }
    }

    /// Waits for the process to end.
    pub(crate) fn wait(self) -> Exit {
        self.wait_within(DEADLINE)
    }

    /// Waits for the process to end within `bound`.
    pub(crate) fn wait_within(mut self, bound: Duration) -> Exit {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                let lines = self.output.all();
                return Exit { name: self.name.clone(), status, lines };
            }
            assert!(
                begun.elapsed() < bound,
                "{} has not ended within {:.1} s:\n{}",
                self.name,
                bound.as_secs_f64(),
                shown(&self.output.lock().lines)
            );
            thread::sleep(POLL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let own = descendants(self.child.id());
        let _exited = self.child.kill();
        let _reaped = self.child.wait();
        for id in own {
            // Most have ended by themselves, without a coordinator.
            let _gone = kill_process(id, Signal::KILL);
        }
    }
}

impl Output {
    fn lock(&self) -> std::sync::MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All lines, after the pipes are closed. A descendant may hold the pipes open for a while.
    fn all(&self) -> Vec<(Pipe, String)> {
        let closing = |written: &mut Written| written.closed_pipes < 2;
        let waited = self.more.wait_timeout_while(self.lock(), DEADLINE, closing);
        waited.unwrap_or_else(PoisonError::into_inner).0.lines.clone()
    }
}

fn read(pipe: Pipe, source: impl Read + Send + 'static, output: &Arc<Output>) {
    let output = Arc::clone(output);
    thread::spawn(move || {
        for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            output.lock().lines.push((pipe, line));
            output.more.notify_all();
        }
        output.lock().closed_pipes += 1;
        output.more.notify_all();
    });
}

impl Exit {
    /// The whole output, from both pipes.
    pub(crate) fn text(&self) -> String {
        self.lines.iter().map(|(_, line)| format!("{line}\n")).collect()
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(|(_, line)| &line[..])
    }

    /// Asserts that the exit status is success.
    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        assert!(self.status.success(), "{self}");
        self
    }

    /// Asserts that the process was killed, for example at a crash point.
    #[track_caller]
    pub(crate) fn killed(self) -> Self {
        assert_eq!(self.status.signal(), Some(Signal::KILL.as_raw()), "{self}");
        self
    }

    /// Asserts this exit code.
    #[track_caller]
    pub(crate) fn exited_with(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{self}");
        self
    }

    /// Asserts that the process failed without a panic, with exactly one error line on standard
    /// error, which contains each of `words`.
    #[track_caller]
    pub(crate) fn failed_with(self, words: &[&str]) -> Self {
        assert!(self.status.code().is_some_and(|code| code != 0), "{self}");
        let text = self.text();
        assert!(!text.contains("panicked") && !text.contains("stack backtrace"), "{self}");
        let is_error =
            |(pipe, line): &&(Pipe, String)| *pipe == Pipe::Stderr && line.starts_with("error: ");
        let errors: Vec<_> = self.lines.iter().filter(is_error).collect();
        let [(_, error)] = errors[..] else { panic!("not exactly one error line: {self}") };
        for word in words {
            assert!(error.contains(word), "no {word:?} in {error:?}: {self}");
        }
        self
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ended with {}:\n{}", self.name, self.status, shown(&self.lines))
    }
}

fn shown(lines: &[(Pipe, String)]) -> String {
    let mark = |pipe| if pipe == Pipe::Stdout { "out" } else { "err" };
    lines.iter().map(|(pipe, line)| format!("  {} | {line}\n", mark(*pipe))).collect()
}
