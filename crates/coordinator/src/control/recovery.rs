//! Measures the pause between two generations, and how its time was spent.

use std::time::{Duration, Instant};

use tracing::Span;

/// The most causes that are kept for the status.
const ERRORS: usize = 20;

/// The state of the pause between two generations.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// When the end of the generation was detected, and its cause.
    detected: Option<(Instant, String)>,
    /// Whether the cause was printed at that time.
    is_told: bool,
    started: Option<Instant>,
    transfer: Duration,
    errors: Vec<String>,
    /// The tracing span of the pause.
    span: Option<Span>,
}

/// The pause before a generation that has done its first step.
#[derive(Clone, Debug)]
pub(super) struct Recovered {
    /// Why the previous generation ended; none for the first.
    pub(super) cause: Option<String>,
    /// Whether the cause was printed when it was detected.
    pub(super) is_told: bool,
    /// Time from the detection until the new generation was decided on.
    pub(super) agreement: Duration,
    /// The longest state transfer within that time.
    pub(super) transfer: Duration,
    /// Time from the decision until the first step was done.
    pub(super) connection: Duration,
}

impl Recovery {
    /// Records that the generation is about to end; `is_told` says whether the cause was printed.
    /// Returns whether the end was not known before.
    pub(super) fn detect(&mut self, cause: &str, is_told: bool) -> bool {
        let is_news = self.detected.is_none() || self.started.is_some();
        if is_news {
            (self.started, self.transfer) = (None, Duration::ZERO);
            self.detected = Some((Instant::now(), cause.to_owned()));
            self.is_told = is_told;
            self.span = Some(tracing::info_span!("recovery", cause));
            self.errors.push(cause.to_owned());
            let surplus = self.errors.len().saturating_sub(ERRORS);
            self.errors.drain(..surplus);
        }
        is_news
    }

    /// Records that a state was copied.
    pub(super) fn transferred(&mut self, seconds: f64) {
        let took = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        self.transfer = self.transfer.max(took);
    }

    /// Records that the next generation was decided on.
    pub(super) fn start(&mut self) {
        self.started = Some(Instant::now());
    }

    /// Records a step. Returns the pause before it if the step is the first of its generation.
    pub(super) fn first_step(&mut self) -> Option<Recovered> {
        let started = self.started.take()?;
        self.span = None;
        let (cause, agreement) = match self.detected.take() {
            Some((detected, cause)) => (Some(cause), started - detected),
            None => (None, Duration::ZERO),
        };
        let transfer = std::mem::take(&mut self.transfer);
        let is_told = self.is_told;
        Some(Recovered { cause, is_told, agreement, transfer, connection: started.elapsed() })
    }

    /// Why the last generations ended, the oldest first.
    pub(super) fn errors(&self) -> &[String] {
        &self.errors
    }
}
