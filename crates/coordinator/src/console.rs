//! What a person sees: a progress bar on a terminal, plain lines elsewhere.
//!
//! The only place that writes to standard output. It does not know where its numbers come
//! from.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time between two plain lines of progress.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Standard output, shared by all that speak to the person. Clones are the same console.
#[derive(Clone, Debug)]
pub(crate) struct Console {
    bar: ProgressBar,
    is_terminal: bool,
    last_line: Arc<Mutex<Instant>>,
}

/// How far training is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    pub(crate) epoch: u64,
    pub(crate) epochs: u32,
    pub(crate) step: u64,
    pub(crate) steps: u64,
    /// Nats per image.
    pub(crate) loss: f64,
    pub(crate) images_per_second: f64,
}

impl Console {
    pub(crate) fn new() -> Self {
        let is_terminal = io::stdout().is_terminal();
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        Self { bar, is_terminal, last_line: Arc::new(Mutex::new(Instant::now())) }
    }

    /// Prints a line; the progress bar stays below it.
    pub(crate) fn line(&self, text: &str) {
        // A reader that went away must not end a run.
        self.bar.suspend(|| {
            let _closed = writeln!(io::stdout(), "{text}");
        });
    }

    /// Shows the progress bar, where there is a terminal, from `step` on.
    pub(crate) fn begin(&self, step: u64, steps: u64) {
        if !self.is_terminal {
            return;
        }
        self.bar.set_length(steps);
        self.bar.set_position(step);
        self.bar.reset_eta();
        if let Ok(style) = ProgressStyle::with_template(
            "{prefix} {wide_bar:.cyan/blue} {pos}/{len} steps, {msg}, {eta} left",
        ) {
            self.bar.set_style(style);
        }
        self.bar.set_draw_target(ProgressDrawTarget::stdout());
    }

    /// Shows progress: on the bar, or as a plain line now and then.
    pub(crate) fn progress(&self, progress: &Progress) {
        let Progress { epoch, epochs, step, steps, loss, images_per_second } = *progress;
        if self.is_terminal {
            self.bar.set_prefix(format!("Epoch {epoch}/{epochs}"));
            self.bar.set_message(format!("loss {loss:.2}, {images_per_second:.0} images/s"));
            self.bar.set_position(step);
            return;
        }
        let mut last = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() < LINE_INTERVAL {
            return;
        }
        *last = Instant::now();
        drop(last);
        self.line(&format!(
            "epoch {epoch}/{epochs} step {step}/{steps} loss {loss:.2} {images_per_second:.0} images/s"
        ));
    }

    /// Takes the progress bar away.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
        self.bar.set_draw_target(ProgressDrawTarget::hidden());
    }
}

/// A log line on its way to standard error, above the progress bar.
#[derive(Debug)]
pub(crate) struct LogLine(Console);

impl io::Write for LogLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.bar.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> telemetry::MakeWriter<'a> for Console {
    type Writer = LogLine;

    fn make_writer(&'a self) -> LogLine {
        LogLine(self.clone())
    }
}
