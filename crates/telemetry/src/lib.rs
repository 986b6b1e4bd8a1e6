//! Log lines of the programs on standard error, and with the feature `opentelemetry` traces, for a
//! collector that the environment names.
//!
//! Events are log lines, spans are traces. Without the feature, spans are not recorded and cost nothing.

mod outlet;
#[cfg(feature = "opentelemetry")]
mod traces;
#[cfg(not(feature = "opentelemetry"))]
#[path = "no_traces.rs"]
mod traces;

use std::io::{self, IsTerminal as _};

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
pub use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt as _, filter_fn},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

pub use self::{
    outlet::Outlet,
    traces::{Traces, note_run},
};

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// A JSON object on each line.
    Json,
}

impl LogFormat {
    /// The value of the flag for this format.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// The lowest level that is logged if `RUST_LOG` is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Errors that end a run.
    Error,
    /// Problems that may need a person.
    Warn,
    /// Events of the run.
    Info,
    /// Details, to find a fault.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The value of the flag for this level.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// The logging of a program.
#[derive(Clone, Copy, Debug)]
pub struct Log<W> {
    /// The program's name in traces.
    pub program: &'static str,
    /// The format of lines.
    pub format: LogFormat,
    /// The lowest level that is logged if `RUST_LOG` is not set.
    pub level: LogLevel,
    /// Whether a line names the module that it comes from; a line of text then also has the time.
    pub detailed: bool,
    /// The writer of the lines.
    pub writer: W,
}

impl<W> Log<W>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    /// Starts logging and sending traces. The traces end when the returned value is dropped.
    #[must_use]
    pub fn start(self) -> Traces {
        let (traces, problem) = Traces::start(self.program);
        let subscriber = tracing_subscriber::registry().with(self.lines());
        #[cfg(feature = "opentelemetry")]
        let subscriber = subscriber.with(traces.layer());
        subscriber.init();
        if let Some(problem) = problem {
            tracing::warn!("no traces: {problem}");
        }
        traces
    }

    fn lines(self) -> impl Layer<Registry> {
        let filter =
            EnvFilter::builder().with_default_directive(LevelFilter::from(self.level).into());
        let filter = filter.from_env_lossy().and(filter_fn(|metadata| metadata.is_event()));
        let lines = fmt::layer()
            .with_ansi(io::stderr().is_terminal())
            .with_writer(self.writer)
            .with_target(self.detailed)
            // A closed pipe must not end a run.
            .log_internal_errors(false);
        let lines = match (self.format, self.detailed) {
            (LogFormat::Text, true) => lines.boxed(),
            (LogFormat::Text, false) => lines.without_time().boxed(),
            (LogFormat::Json, _) => lines.json().boxed(),
        };
        lines.with_filter(filter)
    }
}
