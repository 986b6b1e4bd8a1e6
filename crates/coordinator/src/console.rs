//! The output for a person: lines, and on a terminal a status line below them. The status line shows
//! the progress of training, or what the run waits for. [`figures`] words the numbers.
//!
//! During a run, only this module writes to standard output.
//!
//! The status line begins in the first column, and the cursor is put back there. So erasing from
//! the cursor on removes the whole status line, even after the terminal was made narrower and has
//! wrapped it, or after the terminal has echoed Ctrl-C.

mod figures;

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use console::Term;
use telemetry::Outlet;

pub(crate) use self::figures::{EpochLine, Progress, Rate};
use self::figures::{Remaining, fitted};

/// Time between two plain lines of progress.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Moves to the first column and erases from there to the end of the screen.
const ERASE: &str = "\r\x1b[J";

/// Standard output, shared by all parts that print. Clones share the same console.
#[derive(Clone, Debug)]
pub(crate) struct Console {
    is_terminal: bool,
    screen: Arc<Mutex<Screen>>,
}

/// The status line, and the time of the last plain line of progress.
#[derive(Debug)]
struct Screen {
    progress: Option<Progress>,
    waiting: Option<String>,
    remaining: Remaining,
    is_drawn: bool,
    last_line: Instant,
}

impl Screen {
    /// Erases the old status line and draws the new one, if there is one.
    fn draw(&mut self) {
        let width = Term::stdout().size_checked().map_or(80, |(_, columns)| usize::from(columns));
        // The last column stays free: some terminals wrap as soon as it is written to.
        let width = width.saturating_sub(1);
        let text = match (&self.waiting, &self.progress) {
            (Some(waiting), _) => Some(waiting.chars().take(width).collect()),
            (None, Some(progress)) => Some(fitted(progress, self.remaining.time(), width)),
            (None, None) => None,
        };
        let mut drawn = if self.is_drawn { ERASE.to_owned() } else { String::new() };
        if let Some(text) = &text {
            let _infallible = write!(drawn, "\r{text}\r");
        }
        self.is_drawn = text.is_some();
        print(&drawn);
    }

    fn erase(&mut self) {
        if std::mem::take(&mut self.is_drawn) {
            print(ERASE);
        }
    }
}

fn print(text: &str) {
    Outlet::Stdout.say(text.as_bytes());
}

impl Console {
    pub(crate) fn new() -> Self {
        let screen = Screen {
            progress: None,
            waiting: None,
            remaining: Remaining::default(),
            is_drawn: false,
            last_line: Instant::now(),
        };
        Self { is_terminal: io::stdout().is_terminal(), screen: Arc::new(Mutex::new(screen)) }
    }

    fn screen(&self) -> MutexGuard<'_, Screen> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a status line can be shown.
    pub(crate) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Prints a line; the status line stays below it.
    pub(crate) fn line(&self, text: &str) {
        self.above(|| print(&format!("{text}\n")));
    }

    /// Writes something above the status line.
    fn above<T>(&self, write: impl FnOnce() -> T) -> T {
        let mut screen = self.screen();
        screen.erase();
        let written = write();
        if self.is_terminal {
            screen.draw();
        }
        written
    }

    /// Shows the progress of training that begins now, on a terminal only.
    pub(crate) fn begin(&self, progress: Progress) {
        if self.is_terminal {
            let mut screen = self.screen();
            screen.remaining = Remaining::default();
            screen.progress = Some(progress);
            screen.draw();
        }
    }

    /// Shows progress: on the status line, or as a plain line now and then.
    pub(crate) fn progress(&self, progress: &Progress) {
        let mut screen = self.screen();
        if self.is_terminal {
            screen.remaining.note(progress);
            screen.progress = Some(progress.clone());
            return screen.draw();
        }
        if screen.last_line.elapsed() >= LINE_INTERVAL {
            screen.last_line = Instant::now();
            print(&format!("{progress}\n"));
        }
    }

    /// Shows what the run waits for, on a terminal only; none if the run waits for nothing.
    pub(crate) fn waiting(&self, waiting: Option<String>) {
        let mut screen = self.screen();
        if self.is_terminal && screen.waiting != waiting {
            screen.waiting = waiting;
            screen.draw();
        }
    }

    /// Removes the status line.
    pub(crate) fn end(&self) {
        let mut screen = self.screen();
        (screen.progress, screen.waiting) = (None, None);
        screen.erase();
    }
}

/// A log line on its way to standard error, above the status line.
#[derive(Debug)]
pub(crate) struct LogLine(Console);

impl io::Write for LogLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.above(|| Outlet::Stderr.say(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> telemetry::MakeWriter<'a> for Console {
    type Writer = LogLine;

    fn make_writer(&'a self) -> LogLine {
        LogLine(self.clone())
    }
}
