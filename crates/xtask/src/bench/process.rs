//! Processes of a measurement: started in a clean environment with their output in files, watched
//! while they run, bounded in time, and killed by id when they are dropped.

use crate::{child, interrupt};
use anyhow::{Context, bail, ensure};
use std::env;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Time between two looks at running processes. A look takes some ten microseconds.
const POLL: Duration = Duration::from_millis(50);

/// Variables whose names begin with one of these change the speed of a program; they are removed,
/// and a measurement sets its own.
const CLEARED: [&str; 12] = [
    "LD_PRELOAD",
    "GLIBC_TUNABLES",
    "MALLOC_",
    "MKL_",
    "OMP_",
    "GOMP_",
    "KMP_",
    "TORCH_",
    "TORCHINDUCTOR_",
    "JAX_",
    "XLA_",
    "RUST_LOG",
];

/// A process; killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    output: PathBuf,
    complaint: PathBuf,
}

impl Process {
    /// Starts a command; its standard output and standard error go to files in `folder`.
    pub(crate) fn start(
        name: &str,
        command: &mut Command,
        folder: &Path,
    ) -> anyhow::Result<Process> {
        Self::spawn(name, command.stdin(Stdio::null()), folder)
    }

    /// Starts a command with a pipe as its standard input, for [`Process::say`].
    pub(crate) fn start_listening(
        name: &str,
        command: &mut Command,
        folder: &Path,
    ) -> anyhow::Result<Process> {
        Self::spawn(name, command.stdin(Stdio::piped()), folder)
    }

    /// Writes to the standard input of a command that was started with
    /// [`Process::start_listening`].
    pub(crate) fn say(&mut self, words: &str) -> anyhow::Result<()> {
        self.ended()?;
        let input = self.child.stdin.as_mut().context("it does not listen")?;
        input.write_all(words.as_bytes()).with_context(|| format!("{} does not read", self.name))
    }

    fn spawn(name: &str, command: &mut Command, folder: &Path) -> anyhow::Result<Process> {
        let output = folder.join(format!("{name}.out"));
        let complaint = folder.join(format!("{name}.err"));
        let create = |path: &Path| {
            File::create(path).with_context(|| format!("cannot create {}", path.display()))
        };
        command.stdout(create(&output)?).stderr(create(&complaint)?);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Process { name: name.to_owned(), child, output, complaint })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its standard output so far.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Its standard error so far.
    pub(crate) fn complaint(&self) -> String {
        fs::read_to_string(&self.complaint).unwrap_or_default()
    }

    /// Whether the process has ended with success; any other end is an error.
    fn ended(&mut self) -> anyhow::Result<bool> {
        let status = self.child.try_wait().context("cannot wait for a process")?;
        let Some(status) = status else { return Ok(false) };
        if status.success() {
            return Ok(true);
        }
        let reason =
            reason(&self.complaint()).or_else(|| reason(&self.output())).unwrap_or_default();
        bail!("{} ended with exit status {}: {reason}", self.name, child::code(status))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A command without the [`CLEARED`] variables in its environment.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        if CLEARED.iter().any(|start| name.to_string_lossy().starts_with(start)) {
            command.env_remove(name);
        }
    }
    command
}

/// Waits until all processes have ended with success, and calls `look` before every poll. It is an
/// error if a process fails or if they take longer than `bound`; the caller then drops the others.
pub(crate) fn wait(
    processes: &mut [Process],
    bound: Duration,
    mut look: impl FnMut(&[Process]),
) -> anyhow::Result<()> {
    let deadline = Instant::now() + bound;
    loop {
        look(processes);
        let mut all_ended = true;
        for process in processes.iter_mut() {
            all_ended &= process.ended()?;
        }
        if all_ended {
            return Ok(());
        }
        pause(deadline)?;
    }
}

/// Waits until `find` finds a value in the output of the process.
pub(crate) fn recv<T>(
    process: &mut Process,
    bound: Duration,
    find: impl Fn(&str) -> Option<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + bound;
    loop {
        let ended = process.ended()?;
        if let Some(found) = find(&process.output()) {
            return Ok(found);
        }
        ensure!(!ended, "{} ended without the expected output", process.name);
        pause(deadline)?;
    }
}

fn pause(deadline: Instant) -> anyhow::Result<()> {
    ensure!(!interrupt::seen(), "interrupted");
    ensure!(Instant::now() < deadline, "it took too long and was stopped");
    thread::sleep(POLL);
    Ok(())
}

/// The most useful line of a complaint: the first line that begins with "error:", or else the last
/// line.
fn reason(complaint: &str) -> Option<String> {
    let lines = || complaint.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines().find(|line| line.starts_with("error:")).or_else(|| lines().next_back())?;
    Some(line.chars().take(300).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, folder: &Path) -> Process {
        let mut command = command(Path::new("sh"));
        Process::start("shell", command.args(["-c", script]), folder).unwrap()
    }

    #[test]
    fn the_reason_of_a_failure_is_its_error_or_its_last_line() {
        for (complaint, expected) in [
            ("error: no flag --x\n\nUsage: y\n", Some("error: no flag --x")),
            ("Traceback:\n  line 3\nValueError: no\n\n", Some("ValueError: no")),
            ("\n", None),
        ] {
            assert_eq!(reason(complaint).as_deref(), expected);
        }
    }

    #[test]
    fn processes_are_waited_for_and_a_failure_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let bound = Duration::from_secs(10);
        let mut good = [shell("echo done", folder.path())];
        wait(&mut good, bound, |_| {}).unwrap();
        assert_eq!(good[0].output(), "done\n");
        let mut bad = [shell("echo 'it broke' >&2; exit 3", folder.path())];
        let error = wait(&mut bad, bound, |_| {}).unwrap_err().to_string();
        assert_eq!(error, "shell ended with exit status 3: it broke");
    }

    #[test]
    fn what_takes_too_long_is_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let mut slow = [shell("exec sleep 60", folder.path())];
        let process = slow[0].id();
        assert!(wait(&mut slow, Duration::from_millis(1), |_| {}).is_err());
        drop(slow);
        assert!(!Path::new(&format!("/proc/{process}")).exists());
    }

    #[test]
    fn a_process_is_heard() {
        let folder = tempfile::tempdir().unwrap();
        let mut speaker = shell("echo port 7; exec sleep 60", folder.path());
        let port = |text: &str| text.trim().strip_prefix("port ")?.parse::<u16>().ok();
        assert_eq!(recv(&mut speaker, Duration::from_secs(10), port).unwrap(), 7);
        let mut silent = shell("exit 0", folder.path());
        assert!(recv(&mut silent, Duration::from_secs(10), port).is_err());
    }
}
