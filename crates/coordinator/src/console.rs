//! What a person sees: lines, and on a terminal a status line below them, which shows how far
//! training is or what the run waits for. The wording of the numbers is in [`figures`].
//!
//! The only place that writes to standard output. It does not know where its numbers come
//! from.
//!
//! The status line begins in the first column, and the cursor is put back there. So erasing from
//! the cursor on removes all of it, also after the terminal was made narrower and has wrapped it,
//! and after it has echoed Ctrl-C.

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

/// Standard output, shared by all that speak to the person. Clones are the same console.
#[derive(Clone, Debug)]
pub(crate) struct Console {
    is_terminal: bool,
    screen: Arc<Mutex<Screen>>,
}

/// What is shown below the lines, and when the last plain line of progress was written.
#[derive(Debug)]
struct Screen {
    progress: Option<Progress>,
    waiting: Option<String>,
    remaining: Remaining,
    is_drawn: bool,
    last_line: Instant,
}

impl Screen {
    /// Draws the status line, if there is one, in the place of what was there.
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

    /// Shows, where there is a terminal, how far training is that begins now.
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

    /// Shows, where there is a terminal, what the run waits for; none if it waits for nothing.
    pub(crate) fn waiting(&self, waiting: Option<String>) {
        let mut screen = self.screen();
        if self.is_terminal && screen.waiting != waiting {
            screen.waiting = waiting;
            screen.draw();
        }
    }

    /// Takes the status line away.
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
