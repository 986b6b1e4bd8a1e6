//! The table of runs.

use std::path::Path;

use anyhow::{Result, ensure};
use history::Time;
use protocol::convert::printable;
use serde_json::json;
use stdout::counted;

use super::{
    found::{self, Run},
    shown,
};
use crate::terms::figure;

/// Digits of a digest that are shown.
const DIGEST_WIDTH: usize = 12;

/// Shows the runs in a folder.
pub(super) fn show(folder: &Path, is_json: bool) -> Result<String> {
    let (mut runs, mut unreadable) = (Vec::new(), 0);
    for path in found::list(folder)? {
        match Run::read_with_warning(&path) {
            Ok(run) => runs.push(run),
            // The folder is the only run that was asked for.
            Err(error) if path == folder => return Err(error),
            Err(error) => {
                tracing::warn!(
                    "{} is left out: {}",
                    shown(&path),
                    printable(&format!("{error:#}"))
                );
                unreadable += 1;
            }
        }
    }
    ensure!(
        !runs.is_empty() || unreadable == 0,
        "of {} in {}, none can be read",
        counted(unreadable, "run"),
        shown(folder)
    );
    runs.sort_by_key(|run| run.began);
    if is_json {
        return Ok(serde_json::to_string_pretty(&runs.iter().map(as_json).collect::<Vec<_>>())?);
    }
    if runs.is_empty() {
        return Ok(format!("No runs in {}", shown(folder)));
    }
    Ok(text(&runs, Time::now()))
}

fn as_json(run: &Run) -> serde_json::Value {
    json!({
        "name": run.title(),
        "note": run.note,
        "run_directory": run.path.to_string_lossy(),
        "run_id": run.id,
        "task": run.task,
        "example": run.example,
        "state": run.state.name(),
        "epoch": run.epoch,
        "epochs": run.epochs,
        "test_loss": run.test_loss(),
        "examples_per_second": run.examples_per_second,
        "digest": run.digest,
        "began": run.began,
    })
}

fn text(runs: &[Run], now: Time) -> String {
    let examples = match runs.iter().all(|run| run.example == runs[0].example) {
        true => format!("{}S/S", runs[0].example.to_uppercase()),
        false => "EXAMPLES/S".into(),
    };
    let heads = ["NAME", "STATE", "EPOCHS", "TEST LOSS", &examples, "DIGEST", "AGE"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for run in runs {
        let digest = run.digest.as_deref().and_then(|digest| digest.get(..DIGEST_WIDTH));
        rows.push(vec![
            run.title(),
            run.state.name().to_owned(),
            format!("{}/{}", run.epoch, run.epochs),
            loss(run.test_loss()),
            rate(run.examples_per_second),
            digest.unwrap_or("-").to_owned(),
            run.began.map_or_else(|| "-".into(), |began| age(began, now)),
        ]);
    }
    columns(&rows)
}

/// A loss; a dash for none.
pub(super) fn loss(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), figure)
}

/// Examples a second; a dash for none.
pub(super) fn rate(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.0}"))
}

fn age(began: Time, now: Time) -> String {
    let seconds = (now.unix_ms() - began.unix_ms()).max(0) / 1000;
    match (seconds / 86_400, seconds / 3600, seconds / 60) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, _) => format!("{hours} h"),
        (days, ..) => format!("{days} d"),
    }
}

/// Rows of words in columns, two spaces apart.
pub(super) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
