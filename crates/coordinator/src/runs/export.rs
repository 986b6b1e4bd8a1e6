//! The metrics of a run for other programs.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use anyhow::{Context as _, Result};
use history::{MetricsRow, Time, Values, newest_rows};

use super::{
    found::{Run, State},
    owned, shown,
};
use crate::tensorboard::Tensorboard;

/// Columns that every table has.
const COLUMNS: [&str; 12] = [
    "kind",
    "time",
    "generation",
    "epoch",
    "step",
    "examples",
    "seconds",
    "examples_per_second",
    "learning_rate",
    "gradient_norm",
    "compute_seconds",
    "waiting_seconds",
];

/// Writes the valid rows as a table; rows of steps that were trained again are left out.
pub(super) fn csv(run: &Run, file: &Path) -> Result<String> {
    if file == Path::new("-") {
        let mut table = Vec::new();
        write(run, &mut table)?;
        let table = String::from_utf8_lossy(&table);
        return Ok(table.trim_end().to_owned());
    }
    owned::refuse(file, std::slice::from_ref(run))?;
    disk::try_write(file)?;
    let mut table = Vec::new();
    let rows = write(run, &mut table)?;
    disk::write_whole(file, &table)?;
    Ok(format!("{rows} rows in {}", shown(file)))
}

fn write(run: &Run, output: impl Write) -> Result<u64> {
    // The names of all metrics are known only after all rows were read.
    let mut names: Vec<String> = Vec::new();
    let mut note = |prefix: &str, values: &Values| {
        for (name, _) in values.iter() {
            let name = format!("{prefix}{name}");
            if !names.contains(&name) {
                names.push(name);
            }
        }
    };
    for row in newest_rows(&run.path)? {
        match row? {
            MetricsRow::Steps(row) => {
                note("", &row.values);
                note("", &row.factors);
            }
            MetricsRow::Epoch(row) => {
                note("", &row.train);
                note("test_", &row.test);
            }
        }
    }
    let mut table = csv::Writer::from_writer(output);
    table.write_record(COLUMNS.into_iter().chain(names.iter().map(String::as_str)))?;
    let mut count = 0;
    for row in newest_rows(&run.path)? {
        let row = row?;
        let metrics = names.iter().map(|name| {
            let value = match &row {
                MetricsRow::Steps(row) => row.values.get(name).or_else(|| row.factors.get(name)),
                MetricsRow::Epoch(row) => match name.strip_prefix("test_") {
                    Some(name) => row.test.get(name),
                    None => row.train.get(name),
                },
            };
            field(value)
        });
        table.write_record(fixed(&row).into_iter().chain(metrics))?;
        count += 1;
    }
    table.flush()?;
    Ok(count)
}

/// A row's values in the columns that every table has.
fn fixed(row: &MetricsRow) -> [String; COLUMNS.len()] {
    let text = |time: Option<Time>| time.map(|time| time.to_string()).unwrap_or_default();
    match row {
        MetricsRow::Steps(row) => {
            let compute = row.ranks.iter().map(|rank| rank.compute_seconds);
            let waiting = row.ranks.iter().map(|rank| rank.waiting_seconds);
            [
                "steps".to_owned(),
                text(row.time),
                row.generation.to_string(),
                row.epoch.to_string(),
                row.step.to_string(),
                row.examples.to_string(),
                field(row.seconds),
                field(row.examples_per_second),
                field(row.learning_rate),
                field(row.gradient_norm),
                field(compute.reduce(|one, next| one + next)),
                field(waiting.reduce(|one, next| one + next)),
            ]
        }
        MetricsRow::Epoch(row) => [
            "epoch".to_owned(),
            text(row.time),
            row.generation.map(|generation| generation.to_string()).unwrap_or_default(),
            row.epoch.to_string(),
            row.step.to_string(),
            row.examples_counted.map(|examples| examples.to_string()).unwrap_or_default(),
            String::new(),
            field(row.examples_per_second),
            String::new(),
            String::new(),
            String::new(),
            String::new(),
        ],
    }
}

fn field(value: Option<f64>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// Writes the valid rows, the samples and the flags as an event file for TensorBoard.
pub(super) fn tensorboard(run: &Run, folder: &Path) -> Result<String> {
    let context = || format!("cannot write into {}", folder.display());
    let began = run.began.unwrap_or_else(Time::now);
    let mut events = Tensorboard::create(folder, &run.path, began).with_context(context)?;
    if let Err(error) = write_events(run, &mut events, began) {
        // The file is new; a part of it would be taken for the whole.
        let _removed = fs::remove_file(events.path());
        return Err(error).with_context(context);
    }
    Ok(format!("Events in {}", shown(events.path())))
}

fn write_events(run: &Run, events: &mut Tensorboard, began: Time) -> io::Result<()> {
    events.begin(&run.settings, &run.title(), began)?;
    for row in newest_rows(&run.path).map_err(io::Error::other)? {
        let row = row.map_err(io::Error::other)?;
        events.row(&row)?;
        if let MetricsRow::Epoch(epoch) = &row {
            events.samples(epoch)?;
        }
    }
    if run.state != State::Running {
        events.end(run.state == State::Complete)?;
    }
    Ok(())
}
