//! One process: its output as lines, its end within a bound, and its certain death with the
//! test that started it.
//!
//! It does not know what the programs are.

use std::{
    fmt,
    io::{BufRead as _, BufReader, Read},
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, Once, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{DEADLINE, Host, POLL, descendants};

/// Lines that say why a process does not do what it should.
const LAST_WORDS: usize = 10;

/// Where a line was written to.
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
    /// What it runs on, if that is of the test's own; gone after the process.
    host: Option<Host>,
}

/// All that a process has written, as it comes.
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

/// Under nohup(1) SIGHUP is ignored, and stays so in the programs that are started. A signal with a
/// handler is back at its default there.
fn heed_hangup() {
    static HEEDED: Once = Once::new();
    HEEDED.call_once(|| {
        signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::default()).unwrap();
    });
}

impl Process {
    pub(crate) fn start(name: &str, command: &mut Command) -> Self {
        heed_hangup();
        if !command.get_envs().any(|(name, _)| name == "RUST_LOG") {
            command.env_remove("RUST_LOG");
        }
        let mut child = command
            // Where there is a panic, its trace is part of the output that tests look at.
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let output = Arc::new(Output::default());
        read(Pipe::Stdout, child.stdout.take().unwrap(), &output);
        read(Pipe::Stderr, child.stderr.take().unwrap(), &output);
        Self { name: name.to_owned(), child, output, host: None }
    }

    /// Notes the host that it was started on.
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

    /// Waits until it has ended or has said a line that contains `needle`, and tells whether it said
    /// that.
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

    /// Whether there is a line that contains both.
    pub(crate) fn says(&self, one: &str, other: &str) -> bool {
        let written = self.output.lock();
        written.lines.iter().any(|(_, line)| line.contains(one) && line.contains(other))
    }

    /// What it has said last.
    pub(crate) fn last_words(&self) -> String {
        let written = self.output.lock();
        let lines = &written.lines;
        shown(&lines[lines.len().saturating_sub(LAST_WORDS)..])
    }

    /// Waits until `done` holds. It is looked at again and again, also after the process ended,
    /// but then only once more.
    pub(crate) fn wait_until(&mut self, what: &str, mut done: impl FnMut() -> bool) {
        let begun = Instant::now();
        loop {
            let ended = self.child.try_wait().unwrap().is_some();
            if done() {
                return;
            }
            assert!(
                !ended && begun.elapsed() < DEADLINE,
                "{what}: not so after {:.1} s, {} {}:\n{}",
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
            // Most are gone by themselves, for want of a coordinator.
            let _gone = kill_process(id, Signal::KILL);
        }
    }
}

impl Output {
    fn lock(&self) -> std::sync::MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All lines, once the pipes are closed. A grandchild may hold them open for a while.
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
    /// All that was written, on both pipes.
    pub(crate) fn text(&self) -> String {
        self.lines.iter().map(|(_, line)| format!("{line}\n")).collect()
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(|(_, line)| &line[..])
    }

    /// Asserts that all went well.
    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        assert!(self.status.success(), "{self}");
        self
    }

    /// Asserts that it was killed, as by itself at a crash point.
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

    /// Asserts that the process said, in one line on standard error, what was wrong and that it
    /// contains each of `words`; and that there was no panic.
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
