//! Runs the package managers (npm, apt-get) as child processes: each in its own temporary folder and with a time
//! limit. They are killed when this program ends. This file does not know what they download.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::download::Tell;

/// The characters of a program's output that go into an error. The first lines say what is wrong.
const OUTPUT_CHARS_MAX: usize = 400;
/// The bytes of an output file that are read for the error.
const OUTPUT_BYTES_MAX: u64 = 16 << 10;
const POLL: Duration = Duration::from_millis(20);
/// Time between two progress lines about a program that is still running.
const TELL_INTERVAL: Duration = Duration::from_secs(5);

/// How to call a program.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// The program, and the arguments that come before all others.
    pub(crate) command: Vec<OsString>,
    /// How long it may take before it is killed.
    pub(crate) wait: Duration,
}

impl Client {
    pub(crate) fn new(program: &str, wait: Duration) -> Self {
        Self { command: vec![program.into()], wait }
    }

    /// Runs the program in `place` to its end, and returns the path of the file with its standard output.
    pub(crate) fn run(
        &self,
        arguments: &[impl AsRef<OsStr>],
        place: &Path,
        tell: Tell<'_>,
    ) -> Result<PathBuf, String> {
        // The output goes to files, not to pipes: nothing has to read it while the program runs, and a grandchild
        // process cannot hold a pipe open.
        let outputs = ["stdout", "stderr"].map(|name| place.join(name));
        let (program, wait) = (self.command[0].display(), self.wait);
        let id = self.start(arguments, place, &outputs).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => format!("{program} is not installed"),
            _ => format!("cannot start {program}: {error}"),
        })?;
        let name = Path::new(&self.command[0]).file_name().unwrap_or_default().to_string_lossy();
        let ended = wait_at_most(id, wait, &name, tell).map_err(|error| error.to_string())?;
        let Some(status) = ended else {
            let said = said(&outputs);
            return Err(format!("killed after more than {} s{said}", wait.as_secs_f32()));
        };
        if !status.success() {
            return Err(format!("{status}{}", said(&outputs)));
        }
        let [stdout, _] = outputs;
        Ok(stdout)
    }

    /// Starts the program, and returns its process id.
    fn start(
        &self,
        arguments: &[impl AsRef<OsStr>],
        place: &Path,
        [stdout, stderr]: &[PathBuf; 2],
    ) -> io::Result<u32> {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).args(arguments).current_dir(place).stdin(Stdio::null());
        command.stdout(File::create(stdout)?).stderr(File::create(stderr)?);
        // Held until the child is noted, so that none is started unnoticed while all are killed.
        let mut running = running();
        let child = command.spawn()?;
        let id = child.id();
        running.push(child);
        Ok(id)
    }
}

/// The child processes that are running now.
static RUNNING: Mutex<Vec<Child>> = Mutex::new(Vec::new());

fn running() -> MutexGuard<'static, Vec<Child>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills the child processes, for a program that is about to end.
pub(crate) fn kill_children() {
    for mut child in running().drain(..) {
        let _ended_by_itself = child.kill().and_then(|()| child.wait());
    }
}

/// Waits for a running child to end. At the time limit the child is killed, and the result is `None`.
fn wait_at_most(
    id: u32,
    wait: Duration,
    name: &str,
    tell: Tell<'_>,
) -> io::Result<Option<ExitStatus>> {
    let begun = Instant::now();
    let deadline = begun + wait;
    let mut next_line = begun + TELL_INTERVAL;
    loop {
        {
            let mut running = running();
            let Some(index) = running.iter().position(|child| child.id() == id) else {
                return Ok(None);
            };
            if running[index].try_wait()?.is_some() {
                return running.swap_remove(index).wait().map(Some);
            }
            if Instant::now() >= deadline {
                let mut child = running.swap_remove(index);
                let killed = child.kill();
                child.wait()?;
                return killed.map(|()| None);
            }
        }
        if Instant::now() >= next_line {
            next_line += TELL_INTERVAL;
            tell(&format!("  {name} still runs, after {} s", begun.elapsed().as_secs()));
        }
        std::thread::sleep(POLL);
    }
}

/// What the program in `place` printed, on one line after a colon; an empty text if it printed nothing.
pub(crate) fn printed(place: &Path) -> String {
    said(&["stdout", "stderr"].map(|name| place.join(name)))
}

fn said(outputs: &[PathBuf; 2]) -> String {
    let mut text = Vec::new();
    for path in outputs.iter().rev() {
        if let Ok(file) = File::open(path) {
            // Output that cannot be read is left out.
            let _ = file.take(OUTPUT_BYTES_MAX).read_to_end(&mut text);
            text.push(b' ');
        }
    }
    let text = String::from_utf8_lossy(&text);
    let words: Vec<_> = text.split_whitespace().collect();
    let line: String = words.join(" ").chars().take(OUTPUT_CHARS_MAX).collect();
    if line.is_empty() { line } else { format!(": {line}") }
}

/// A file in the folder with this extension.
pub(crate) fn find(place: &Path, ending: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(place).ok()?;
    let mut paths = entries.flatten().map(|entry| entry.path());
    paths.find(|path| path.extension() == Some(ending.as_ref()))
}
