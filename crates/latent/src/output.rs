//! What a command leaves and says: whole files, lines, progress.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

/// Whether a file goes to standard output, as with `--output /dev/stdout`. Lines then go to standard
/// error, since they would spoil the file.
static IS_STDOUT_AN_OUTPUT: AtomicBool = AtomicBool::new(false);

/// A file to be written, whose place was looked at before the work began.
#[derive(Debug)]
pub(crate) struct Output {
    path: PathBuf,
}

impl Output {
    /// Refuses a place where no file can be.
    pub(crate) fn new(path: &Path) -> Result<Self> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let shown = path.display();
        ensure!(!path.is_dir(), "cannot write {shown}: it is a folder");
        ensure!(folder.is_dir(), "cannot write {shown}: there is no folder {}", folder.display());
        disk::try_write(path)?;
        if disk::is_standard_output(path) {
            IS_STDOUT_AN_OUTPUT.store(true, Ordering::Relaxed);
        }
        Ok(Self { path: path.into() })
    }

    /// The place's extension in lower case.
    pub(crate) fn extension(&self) -> String {
        let extension = self.path.extension().unwrap_or_default();
        extension.to_string_lossy().to_lowercase()
    }

    /// Writes the file, whole or not at all, and says so.
    pub(crate) fn write(&self, bytes: &[u8], what: &str) -> Result<()> {
        match disk::write_whole(&self.path, bytes) {
            // As for whatever else is said there.
            Err(error) if error.is_closed_pipe() && disk::is_standard_output(&self.path) => {
                return Ok(());
            }
            written => written?,
        }
        say(&format!("Wrote {} ({what})", self.path.display()));
        Ok(())
    }
}

/// Makes a folder, parents included, where there is none.
pub(crate) fn create_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// Says a line on standard output. A reader that went away is no reason to fail.
pub(crate) fn say(line: &str) {
    if IS_STDOUT_AN_OUTPUT.load(Ordering::Relaxed) {
        return complain(line);
    }
    let _closed = writeln!(io::stdout(), "{line}");
}

/// Says a line on standard error.
pub(crate) fn complain(line: &str) {
    let _closed = writeln!(io::stderr(), "{line}");
}

/// Progress of `steps` on standard error, where that is a terminal; gone when dropped.
pub(crate) fn progress(what: &'static str, steps: usize) -> ProgressBar {
    let bar = ProgressBar::new(steps as u64).with_message(what);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar:.cyan/blue} {eta} left") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar.with_finish(indicatif::ProgressFinish::AndClear)
}
