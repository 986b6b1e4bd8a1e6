//! How long the members stood still between two generations, and where that time went.

use std::time::{Duration, Instant};

use tracing::Span;

/// Errors that are kept for people who ask.
const ERRORS: usize = 20;

/// What is going on between two generations.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// When it was known that the generation ends, and why.
    detected: Option<(Instant, String)>,
    /// Whether people were told of it then.
    is_told: bool,
    started: Option<Instant>,
    transfer: Duration,
    errors: Vec<String>,
    /// Begins and ends with it.
    span: Option<Span>,
}

/// A generation that does its first step.
#[derive(Clone, Debug)]
pub(super) struct Recovered {
    /// Why the one before had ended; none for the first.
    pub(super) cause: Option<String>,
    /// Whether people were told the cause when it was detected.
    pub(super) is_told: bool,
    /// From then until the new generation was decided on.
    pub(super) agreement: Duration,
    /// The longest state transfer of that.
    pub(super) transfer: Duration,
    /// From the decision until the first step was done.
    pub(super) connection: Duration,
}

impl Recovery {
    /// Notes that the generation is about to end, of which people were or were not told; says
    /// whether that was not known before.
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

    /// Notes that a state was taken over.
    pub(super) fn transferred(&mut self, seconds: f64) {
        let took = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        self.transfer = self.transfer.max(took);
    }

    /// Notes that the next generation was decided on.
    pub(super) fn start(&mut self) {
        self.started = Some(Instant::now());
    }

    /// Notes a step; something to tell if it is the first of its generation.
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
