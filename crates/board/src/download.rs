//! Downloads of a run's rows: as a CSV table, and as JSON lines.

use std::{io::Read as _, path::Path, sync::Arc};

use axum::{
    extract::{RawQuery, State},
    http::{
        HeaderValue, StatusCode,
        header::{CONTENT_DISPOSITION, CONTENT_TYPE},
    },
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use history::{Events, HistoryError, Item, Metrics, MetricsRow, StepsRow, newest_rows};
use serde::Serialize;

use crate::{
    query::Query,
    routes::{Board, Shared, aside, no_such_run},
    stream::{self, Parts},
};

/// The most bytes of a picture that are sent.
const PICTURE_BYTES_MAX: u64 = 32 << 20;

/// About the number of bytes that are sent at a time.
const PART_BYTES: usize = 64 * 1024;

/// The first [`PICTURE_BYTES_MAX`] bytes of a picture's file.
pub(crate) fn read_picture(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    disk::open_regular(path).ok()?.take(PICTURE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

pub(crate) async fn csv(State(board): Shared, RawQuery(query): RawQuery) -> Response {
    download(board, query, "csv", "text/csv; charset=utf-8", |run_dir, parts| {
        write_csv(run_dir, &mut Lines::new(parts))
    })
    .await
}

pub(crate) async fn metrics(State(board): Shared, RawQuery(query): RawQuery) -> Response {
    download(board, query, "metrics.jsonl", "application/jsonl", |run_dir, parts| {
        let mut rows = Metrics::open(run_dir);
        write_rows(|| rows.next_item(), &mut Lines::new(parts))
    })
    .await
}

pub(crate) async fn events(State(board): Shared, RawQuery(query): RawQuery) -> Response {
    download(board, query, "events.jsonl", "application/jsonl", |run_dir, parts| {
        let mut rows = Events::open(run_dir);
        write_rows(|| rows.next_item(), &mut Lines::new(parts))
    })
    .await
}

async fn download(
    board: Arc<Board>,
    query: Option<String>,
    ending: &'static str,
    kind: &'static str,
    write: impl FnOnce(&Path, Parts) -> Result<(), HistoryError> + Send + 'static,
) -> Response {
    let key = Query::parse(query.as_deref()).text("run");
    let shared = Arc::clone(&board);
    let found = aside(move || {
        let mut runs = shared.runs();
        let run = runs.get(key.as_deref())?;
        Some((run.path.clone(), run.about.run_id.clone()))
    });
    let Some((path, id)) = found.await.flatten() else { return no_such_run() };
    let Ok(turn) = Arc::clone(&board.downloads).try_acquire_owned() else {
        let why = "other files are being downloaded: try again when they are done\n";
        return (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    };
    let (parts, body) = stream::body();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = write(&path, parts) {
            tracing::debug!("a download broke off: {error}");
        }
        drop(turn);
    });
    let plain = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
    let id: String = id.chars().filter(plain).take(64).collect();
    let name = format!("attachment; filename=\"lockstep-{id}.{ending}\"");
    let name = HeaderValue::from_str(&name).unwrap_or(HeaderValue::from_static("attachment"));
    let headers = [(CONTENT_TYPE, HeaderValue::from_static(kind)), (CONTENT_DISPOSITION, name)];
    (headers, body).into_response()
}

/// Sends lines to a browser, in parts.
struct Lines {
    parts: Parts,
    buffer: Vec<u8>,
}

impl Lines {
    fn new(parts: Parts) -> Self {
        Self { parts, buffer: Vec::new() }
    }

    /// Adds a line. Returns whether the browser still reads.
    fn line(&mut self, line: &[u8]) -> bool {
        self.buffer.extend_from_slice(line);
        self.buffer.push(b'\n');
        self.buffer.len() < PART_BYTES || self.end()
    }

    fn json(&mut self, row: &impl Serialize) -> bool {
        serde_json::to_vec(row).is_ok_and(|line| self.line(&line))
    }

    fn end(&mut self) -> bool {
        self.parts.blocking_send(Bytes::from(std::mem::take(&mut self.buffer))).is_ok()
    }
}

/// Sends all rows, as long as the browser reads.
fn write_rows<R: Serialize>(
    mut next: impl FnMut() -> Result<Option<Item<R>>, HistoryError>,
    lines: &mut Lines,
) -> Result<(), HistoryError> {
    while let Some(item) = next()? {
        if let Item::Row(row) = item
            && !lines.json(&row)
        {
            return Ok(());
        }
    }
    lines.end();
    Ok(())
}

/// Sends the rows about steps as a table, with a column for each number that any row has.
fn write_csv(run_dir: &Path, lines: &mut Lines) -> Result<(), HistoryError> {
    let mut names: Vec<String> = Vec::new();
    for row in newest_rows(run_dir)? {
        if let MetricsRow::Steps(row) = row? {
            for (name, _) in row.values.iter().chain(row.factors.iter()) {
                if !names.iter().any(|known| known == name) {
                    names.push(name.to_owned());
                }
            }
        }
    }
    let fixed = "step,epoch,generation,time,examples,seconds,examples_per_second,learning_rate,\
                 gradient_norm";
    let header: Vec<String> = names.iter().map(|name| quoted(name)).collect();
    let header = [vec![fixed.to_owned()], header].concat().join(",");
    if !lines.line(header.as_bytes()) {
        return Ok(());
    }
    for row in newest_rows(run_dir)? {
        if let MetricsRow::Steps(row) = row?
            && !lines.line(csv_line(&row, &names).as_bytes())
        {
            return Ok(());
        }
    }
    lines.end();
    Ok(())
}

fn csv_line(row: &StepsRow, names: &[String]) -> String {
    let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
    let mut cells = vec![
        row.step.to_string(),
        row.epoch.to_string(),
        row.generation.to_string(),
        row.time.map_or(String::new(), |time| time.to_string()),
        row.examples.to_string(),
        number(row.seconds),
        number(row.examples_per_second),
        number(row.learning_rate),
        number(row.gradient_norm),
    ];
    cells.extend(names.iter().map(|name| number(row.values.get(name).or(row.factors.get(name)))));
    cells.join(",")
}

/// A cell of the table, quoted if needed.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-. ".contains(c);
    if text.chars().all(is_plain) {
        text.into()
    } else {
        format!("\"{}\"", text.replace('"', "\"\""))
    }
}
