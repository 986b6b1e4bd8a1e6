//! The rows of a run's metrics and events, as types, with a writer and readers.
//!
//! # The files
//!
//! A run directory has `metrics.jsonl` and `events.jsonl`, a JSON object a line. [`MetricsRow`] and
//! [`EventRow`] are their rows. A field that is not known is null or absent. Rows of older versions
//! lack the newer fields and can still be read.
//!
//! `time` is the wall clock in UTC by RFC 3339, to the millisecond, as in
//! `2026-03-01T12:00:00.250Z`. A number of Unix seconds can be read too.
//!
//! The volume is bounded: see [`Limits`]. A full file is closed as `metrics.000001.jsonl`, and the
//! next file is begun. If there are too many closed files of metrics, two neighbouring files are
//! merged: every two rows about steps become one row with the sums and means of both. If there are
//! too many closed files of events, the oldest is deleted.
//!
//! # Reading
//!
//! [`newest_rows`] gives the valid rows of a run: if steps were trained again after a resume, only
//! the rows of the newest generation. [`Metrics`] and [`Events`] follow files that grow:
//!
//! ```no_run
//! use history::{Item, Metrics};
//!
//! # fn main() -> Result<(), history::HistoryError> {
//! let mut metrics = Metrics::open("runs/latest".as_ref());
//! while let Some(item) = metrics.next_item()? {
//!     match item {
//!         Item::Row(row) => println!("{row:?}"),
//!         // Rows about steps beyond this one are void: they are trained again.
//!         Item::Rewound { step } => println!("back to {step}"),
//!         // All rows read before are void: all rows come again.
//!         Item::Restarted => println!("from the beginning"),
//!     }
//! }
//! // No row for now: ask again later, or go on from here in another process.
//! let position = metrics.position().to_string();
//! # drop(position);
//! # Ok(())
//! # }
//! ```
//!
//! No reader holds a file in memory. A line that is no row is skipped and counted. An incomplete last
//! line is not read until it is complete.
//!
//! The crate does not know what is trained: a task's metrics are [`Values`] by name, and so are the
//! factors of its schedule.

mod event;
mod lines;
mod log_files;
mod merge;
mod metrics;
mod newest;
mod numbered;
mod parse;
mod reader;
mod row;
mod serialize;
mod time;
mod writer;

use std::{io, path::PathBuf};

use thiserror::Error;

pub use self::{
    event::{Event, EventRow},
    lines::{append_line, append_lines},
    merge::merge,
    metrics::MetricsWriter,
    newest::{NewestRows, newest_rows},
    numbered::{Numbered, SAMPLES, samples_path},
    parse::is_reserved,
    reader::{Events, Item, Metrics, Position},
    row::{EpochRow, MetricsRow, RANKS_MAX, RankRow, StepsRow, Values},
    time::Time,
    writer::{EventWriter, Limits},
};

/// The file of the metrics in a run directory.
pub const METRICS: &str = "metrics.jsonl";

/// The file of the events in a run directory.
pub const EVENTS: &str = "events.jsonl";

/// Why a file cannot be read or written.
#[derive(Debug, Error)]
pub enum HistoryError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

impl HistoryError {
    fn read(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |source| Self::Read { path, source }
    }

    fn write(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |source| Self::Write { path, source }
    }
}
