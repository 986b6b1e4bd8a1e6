//! The progress of work that takes long, on standard error: a bar on a terminal, else a line now and then.

use std::{
    io::{self, IsTerminal as _},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use crate::output;

/// Time between two lines. Work that ends before the first one is silent.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Time between two redraws of the bar, so that it is seen to be alive.
const TICK: Duration = Duration::from_millis(200);

/// The progress of one piece of work; the bar disappears when it is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    what: &'static str,
    bar: ProgressBar,
    /// When the last line was printed; none on a terminal, which shows the bar.
    last_line: Option<Mutex<Instant>>,
}

impl Progress {
    /// Begins work of `steps` steps.
    pub(crate) fn new(what: &'static str, steps: usize) -> Self {
        let bar = ProgressBar::new(steps as u64).with_message(what);
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar:.cyan/blue} {eta} left") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TICK);
        let bar = bar.with_finish(ProgressFinish::AndClear);
        let last_line = (!io::stderr().is_terminal()).then(|| Mutex::new(Instant::now()));
        Self { what, bar, last_line }
    }

    /// Notes that `steps` more steps are done.
    pub(crate) fn inc(&self, steps: u64) {
        self.bar.inc(steps);
        self.print();
    }

    /// Notes how many steps are done.
    pub(crate) fn set(&self, done: u64) {
        self.bar.set_position(done);
        self.print();
    }

    fn print(&self) {
        let Some(last) = &self.last_line else { return };
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() >= LINE_INTERVAL {
            *last = Instant::now();
            let (done, all) = (self.bar.position(), self.bar.length().unwrap_or_default());
            output::complain(&format!("{}: {done} of {all}", self.what));
        }
    }
}
