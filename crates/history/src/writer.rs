//! The only writer of a log. A full file is closed, and the next one is begun. If there are too many
//! closed files, a second thread thins or deletes some of them.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
    thread::JoinHandle,
};

use crate::{
    EVENTS, HistoryError,
    event::EventRow,
    lines::{self, Line, LineReader},
    log_files::{self, ClosedFile, closed_path},
    merge::merge,
    row::MetricsRow,
};

/// The newest closed files are not thinned, because a reader that is a little behind reads them.
const UNTOUCHED: usize = 2;

/// The bounds of the size of a log, which takes a little more than `file_bytes * (files + 1)` bytes.
/// For each epoch, its own row and at least one row about its steps always stay, in addition to this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A file is closed before it exceeds this many bytes.
    pub file_bytes: u64,
    /// The number of closed files that are kept.
    pub files: usize,
}

impl Limits {
    /// The limits of the metrics: 128 MiB of closed files.
    pub const METRICS: Self = Self { file_bytes: 8 << 20, files: 16 };

    /// The limits of the events: 32 MiB of closed files, some hundred thousand events.
    pub const EVENTS: Self = Self { file_bytes: 4 << 20, files: 8 };
}

/// The function that reduces the closed files if there are too many.
type Thin = fn(&Path, &'static str, &[ClosedFile]) -> io::Result<()>;

/// Appends to a log.
#[derive(Debug)]
pub(crate) struct Writer {
    folder: PathBuf,
    name: &'static str,
    limits: Limits,
    thin: Thin,
    file: File,
    bytes: u64,
    /// Whether the file can be renamed when it is closed: it is a regular file, and no link.
    is_plain: bool,
    thinning: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn open(
        folder: &Path,
        name: &'static str,
        limits: Limits,
        thin: Thin,
    ) -> Result<Self, HistoryError> {
        let path = folder.join(name);
        let (_, covered) = log_files::list(folder, name).map_err(HistoryError::read(folder))?;
        for left_over in covered {
            fs::remove_file(&left_over.path).map_err(HistoryError::write(left_over.path))?;
        }
        let opened = lines::append_lines(&path).and_then(|file| {
            let is_plain = fs::symlink_metadata(&path)?.is_file();
            Ok((file.metadata()?.len(), is_plain, file))
        });
        let (bytes, is_plain, file) = opened.map_err(HistoryError::write(&path))?;
        let folder = folder.to_owned();
        Ok(Self { folder, name, limits, thin, file, bytes, is_plain, thinning: None })
    }

    fn path(&self) -> PathBuf {
        self.folder.join(self.name)
    }

    pub(crate) fn append(&mut self, row: &impl serde::Serialize) -> Result<(), HistoryError> {
        let line = lines::line(row).map_err(HistoryError::write(self.path()))?;
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.limits.file_bytes {
            self.close_file().map_err(HistoryError::write(self.path()))?;
        }
        self.file.write_all(&line).map_err(HistoryError::write(self.path()))?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    fn close_file(&mut self) -> io::Result<()> {
        if !self.is_plain {
            return Ok(());
        }
        let (closed, _) = log_files::list(&self.folder, self.name)?;
        let number = closed.last().map_or(1, |file| file.last + 1);
        fs::rename(self.path(), closed_path(&self.folder, self.name, number, number))?;
        self.file = lines::append_lines(&self.path())?;
        self.bytes = 0;
        let is_thinning = self.thinning.as_ref().is_some_and(|thread| !thread.is_finished());
        if closed.len() < self.limits.files || is_thinning {
            return Ok(());
        }
        let (folder, name, thin) = (self.folder.clone(), self.name, self.thin);
        // If thinning fails, the files stay, and it is tried again when the next file is closed.
        let work = move || {
            let _stays =
                log_files::list(&folder, name).and_then(|(closed, _)| thin(&folder, name, &closed));
        };
        self.thinning = std::thread::Builder::new().name("history".into()).spawn(work).ok();
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(thread) = self.thinning.take() {
            let _ended = thread.join();
        }
    }
}

/// Merges two neighbouring files into one with about half their rows. It chooses the pair that covers the
/// fewest numbers; of several such pairs, the oldest.
pub(crate) fn thin_metrics(
    folder: &Path,
    name: &'static str,
    closed: &[ClosedFile],
) -> io::Result<()> {
    let span = |pair: &&[ClosedFile]| pair[1].last - pair[0].first;
    let old = &closed[..closed.len().saturating_sub(UNTOUCHED)];
    let Some([one, next]) = old.windows(2).min_by_key(span) else { return Ok(()) };
    let path = closed_path(folder, name, one.first, next.last);
    let draft = path.with_extension("draft");
    let written = write_thinned(&draft, [one, next]).and_then(|()| fs::rename(&draft, &path));
    written.inspect_err(|_| drop(fs::remove_file(&draft)))?;
    // From here on, readers and writers use the new file instead of both.
    fs::remove_file(&one.path)?;
    fs::remove_file(&next.path)
}

fn write_thinned(draft: &Path, sources: [&ClosedFile; 2]) -> io::Result<()> {
    let mut thinned = BufWriter::new(File::create(draft)?);
    let mut held: Option<MetricsRow> = None;
    let mut put = |row: &MetricsRow| thinned.write_all(&lines::line(row)?);
    for source in sources {
        let mut reader = LineReader::new(File::open(&source.path)?, 0)?;
        loop {
            let row = match reader.next_line()? {
                Line::End => break,
                Line::TooLong => continue,
                Line::Whole(line) => serde_json::from_slice::<MetricsRow>(line),
            };
            let Ok(row) = row else { continue };
            let Some(before) = held.take() else {
                held = Some(row);
                continue;
            };
            match merge(before, row) {
                Ok(merged) => put(&merged)?,
                Err(rows) => {
                    put(&rows.0)?;
                    held = Some(rows.1);
                }
            }
        }
    }
    if let Some(row) = held {
        put(&row)?;
    }
    thinned.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

/// Deletes the oldest file.
fn delete_oldest(_: &Path, _: &'static str, closed: &[ClosedFile]) -> io::Result<()> {
    closed.first().map_or(Ok(()), |oldest| fs::remove_file(&oldest.path))
}

/// Writes the events of a run.
#[derive(Debug)]
pub struct EventWriter(Writer);

impl EventWriter {
    /// Opens the events in a run directory; makes the file if there is none.
    ///
    /// # Errors
    /// When the file cannot be opened, or a last line that was cut off cannot be removed.
    pub fn open(run_dir: &Path, limits: Limits) -> Result<Self, HistoryError> {
        Writer::open(run_dir, EVENTS, limits, delete_oldest).map(Self)
    }

    /// Appends a row.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append(&mut self, row: &EventRow) -> Result<(), HistoryError> {
        self.0.append(row)
    }
}

#[cfg(test)]
mod tests;
