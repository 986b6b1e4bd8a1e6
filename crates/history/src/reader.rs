//! Reads rows as they are written, from any position, over all files of a log.

use std::{
    fmt::{self, Display, Formatter},
    io,
    marker::PhantomData,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::de::DeserializeOwned;

use crate::{
    EVENTS, HistoryError, METRICS,
    event::EventRow,
    lines::{Line, LineReader},
    log_files::{self, ClosedFile},
    row::MetricsRow,
};

/// How many times a file that is renamed meanwhile is tried to be opened.
const OPEN_ATTEMPTS: u32 = 100;

/// The next item in a log.
#[derive(Clone, Debug, PartialEq)]
pub enum Item<R> {
    /// A row.
    Row(R),
    /// The earlier rows about steps after `step` are void: these steps are trained again, and their
    /// rows come again. Rows about epochs stay valid.
    Rewound {
        /// The last step that stays valid.
        step: u64,
    },
    /// All earlier rows are void, and all rows come again from the first. The reader's position was
    /// in a file that has been thinned or deleted.
    Restarted,
}

/// The position of a reader in a log. As text, it can be stored and parsed again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Number of the file; 0 for the first existing file.
    file: u64,
    /// Where the next line begins.
    offset: u64,
    /// Generation and step of the last row about steps.
    last: (u64, u64),
}

impl Display for Position {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}-{}", self.file, self.offset, self.last.0, self.last.1)
    }
}

/// The text is no position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a position in a log of rows")]
pub struct InvalidPosition;

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let numbers = text.split('-').map(|number| number.parse().map_err(|_| InvalidPosition));
        let numbers: Vec<u64> = numbers.collect::<Result<_, _>>()?;
        let [file, offset, generation, step] = numbers[..] else { return Err(InvalidPosition) };
        Ok(Self { file, offset, last: (generation, step) })
    }
}

/// Follows the metrics of a run.
#[derive(Debug)]
pub struct Metrics {
    log: Log<MetricsRow>,
    last: (u64, u64),
    /// The row after an [`Item::Rewound`] that was returned, and the position before both.
    held: Option<(MetricsRow, Position)>,
}

impl Metrics {
    /// Reads from the beginning.
    #[must_use]
    pub fn open(run_dir: &Path) -> Self {
        Self::open_at(run_dir, Position::default())
    }

    /// Reads from a position of an earlier reader.
    #[must_use]
    pub fn open_at(run_dir: &Path, position: Position) -> Self {
        Self { log: Log::new(run_dir, METRICS, position), last: position.last, held: None }
    }

    /// The next item; none if there is no complete row yet.
    ///
    /// # Errors
    /// When a file cannot be read. A line that is no row is skipped, and is no error.
    pub fn next_item(&mut self) -> Result<Option<Item<MetricsRow>>, HistoryError> {
        let before = self.position();
        let row = match self.held.take() {
            Some((row, _)) => row,
            None => match self.log.next_item()? {
                Some(Item::Row(row)) => row,
                other => {
                    self.last = if other.is_some() { (0, 0) } else { self.last };
                    return Ok(other);
                }
            },
        };
        if let MetricsRow::Steps(steps) = &row {
            let (generation, step) = self.last;
            self.last = (steps.generation, steps.step);
            if steps.generation != generation && steps.begin() < step {
                let step = steps.begin();
                self.held = Some((row, before));
                return Ok(Some(Item::Rewound { step }));
            }
        }
        Ok(Some(Item::Row(row)))
    }

    /// The position of the next row.
    #[must_use]
    pub fn position(&self) -> Position {
        let here = Position { last: self.last, ..self.log.position() };
        self.held.as_ref().map_or(here, |(_, before)| *before)
    }

    /// Lines that were no rows.
    #[must_use]
    pub fn bad_lines(&self) -> u64 {
        self.log.bad_lines
    }
}

/// Follows the events of a run.
#[derive(Debug)]
pub struct Events(Log<EventRow>);

impl Events {
    /// Reads from the beginning.
    #[must_use]
    pub fn open(run_dir: &Path) -> Self {
        Self::open_at(run_dir, Position::default())
    }

    /// Reads from a position of an earlier reader.
    #[must_use]
    pub fn open_at(run_dir: &Path, position: Position) -> Self {
        Self(Log::new(run_dir, EVENTS, position))
    }

    /// The next item; none if there is no complete row yet.
    ///
    /// # Errors
    /// When a file cannot be read. A line that is no row is skipped, and is no error.
    pub fn next_item(&mut self) -> Result<Option<Item<EventRow>>, HistoryError> {
        self.0.next_item()
    }

    /// The position of the next row.
    #[must_use]
    pub fn position(&self) -> Position {
        self.0.position()
    }

    /// Lines that were no rows.
    #[must_use]
    pub fn bad_lines(&self) -> u64 {
        self.0.bad_lines
    }
}

/// The rows of a log, over its files.
#[derive(Debug)]
struct Log<R> {
    folder: PathBuf,
    name: &'static str,
    begin: Position,
    open: Option<OpenFile>,
    bad_lines: u64,
    rows: PhantomData<R>,
}

/// The file that is being read.
#[derive(Debug)]
struct OpenFile {
    number: u64,
    /// Whether the writer has closed the file, so that it no longer grows.
    is_closed: bool,
    path: PathBuf,
    lines: LineReader,
}

impl<R: DeserializeOwned> Log<R> {
    fn new(folder: &Path, name: &'static str, begin: Position) -> Self {
        Self { folder: folder.into(), name, begin, open: None, bad_lines: 0, rows: PhantomData }
    }

    fn position(&self) -> Position {
        let Some(open) = &self.open else { return self.begin };
        Position { file: open.number, offset: open.lines.offset(), last: (0, 0) }
    }

    fn next_item(&mut self) -> Result<Option<Item<R>>, HistoryError> {
        if self.open.is_none() {
            let Position { file, offset, .. } = self.begin;
            match self.open_file(file, offset)? {
                Opened::Yes => {}
                Opened::NotThere => return Ok(None),
                Opened::Gone => return self.restart().map(Some),
            }
        }
        loop {
            let Some(open) = &mut self.open else { return Ok(None) };
            match open.lines.next_line().map_err(HistoryError::read(&open.path))? {
                Line::Whole(line) => match serde_json::from_slice(line) {
                    Ok(row) => return Ok(Some(Item::Row(row))),
                    Err(_) => self.bad_lines += u64::from(!line.trim_ascii().is_empty()),
                },
                Line::TooLong => self.bad_lines += 1,
                Line::End => match self.after_end()? {
                    Next::Read => {}
                    Next::Wait => return Ok(None),
                    Next::Restart => return self.restart().map(Some),
                },
            }
        }
    }

    /// Decides what to do if there is no complete line: the writer may have closed the file.
    fn after_end(&mut self) -> Result<Next, HistoryError> {
        let Some(open) = &mut self.open else { return Ok(Next::Wait) };
        if open.lines.is_cut().map_err(HistoryError::read(&open.path))? {
            return Ok(Next::Restart);
        }
        if !open.is_closed {
            let (closed, _) = self.list()?;
            let Some(open) = &mut self.open else { return Ok(Next::Wait) };
            // Rows may have been written between the last read and the closing, so a closed file is
            // read once more.
            open.is_closed = closed.iter().any(|file| file.last >= open.number);
            return Ok(if open.is_closed { Next::Read } else { Next::Wait });
        }
        let next = open.number + 1;
        Ok(match self.open_file(next, 0)? {
            Opened::Yes => Next::Read,
            Opened::NotThere => Next::Wait,
            Opened::Gone => Next::Restart,
        })
    }

    fn list(&self) -> Result<(Vec<ClosedFile>, Vec<ClosedFile>), HistoryError> {
        log_files::list(&self.folder, self.name).map_err(HistoryError::read(&self.folder))
    }

    fn restart(&mut self) -> Result<Item<R>, HistoryError> {
        self.begin = Position::default();
        self.open = None;
        let _there = self.open_file(0, 0)?;
        Ok(Item::Restarted)
    }

    /// Opens a file by its number; 0 for the first existing file.
    fn open_file(&mut self, number: u64, offset: u64) -> Result<Opened, HistoryError> {
        for _ in 0..OPEN_ATTEMPTS {
            let (closed, _) = self.list()?;
            let active = closed.last().map_or(1, |file| file.last + 1);
            let number = match (number, closed.first()) {
                (0, Some(first)) => first.first,
                (0, None) => active,
                (number, _) => number,
            };
            let (path, is_closed, last) = if number >= active {
                (self.folder.join(self.name), false, number)
            } else {
                match closed.iter().find(|file| file.contains(number)) {
                    // In a merged file, only the beginning is a known position.
                    Some(file) if file.first == number && (offset == 0 || file.last == number) => {
                        (file.path.clone(), true, file.last)
                    }
                    _ => return Ok(Opened::Gone),
                }
            };
            let file = match disk::open_regular(&path) {
                // The file was renamed meanwhile, or does not exist yet.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if is_closed || self.list()?.0 != closed {
                        continue;
                    }
                    return Ok(Opened::NotThere);
                }
                // A device such as `/dev/null` holds no rows.
                Err(_) if disk::is_device(&path) => return Ok(Opened::NotThere),
                file => file.map_err(HistoryError::read(&path))?,
            };
            let metadata = file.metadata().map_err(HistoryError::read(&path))?;
            if !is_closed && self.list()?.0 != closed {
                continue;
            }
            if metadata.len() < offset || number > active {
                return Ok(Opened::Gone);
            }
            let lines = LineReader::new(file, offset).map_err(HistoryError::read(&path))?;
            self.open = Some(OpenFile { number: last, is_closed, path, lines });
            return Ok(Opened::Yes);
        }
        Ok(Opened::NotThere)
    }
}

enum Next {
    Read,
    Wait,
    Restart,
}

enum Opened {
    Yes,
    NotThere,
    Gone,
}

#[cfg(test)]
mod tests;
