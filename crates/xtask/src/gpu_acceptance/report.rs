//! The results: printed line by line, written as JSON after each stage, and printed as a table at
//! the end.

use std::{fs, path::PathBuf, time::Instant};

use anyhow::Context;
use serde_json::{Map, Value, json};

use crate::bench::table::Table;

/// The outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The result is as required.
    Passed,
    /// The result is not as required.
    Failed,
    /// A figure that reaches the wanted value.
    Reached,
    /// A figure that does not reach the wanted value; this is no failure.
    Missed,
    /// A figure without a wanted value.
    Found,
    /// The check could not be tried.
    LeftOut,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Reached => "reached",
            Self::Missed => "missed",
            Self::Found => "",
            Self::LeftOut => "left out",
        }
    }

    pub(super) fn of(passed: bool) -> Self {
        if passed { Self::Passed } else { Self::Failed }
    }

    pub(super) fn of_figure(reached: bool) -> Self {
        if reached { Self::Reached } else { Self::Missed }
    }
}

#[derive(Debug)]
struct Row {
    stage: String,
    what: String,
    found: String,
    wanted: String,
    verdict: Verdict,
}

#[derive(Debug)]
pub(super) struct Report {
    path: PathBuf,
    begun: Instant,
    stage: String,
    rows: Vec<Row>,
    figures: Map<String, Value>,
}

impl Report {
    pub(super) fn new(path: PathBuf) -> Self {
        let (stage, rows, figures) = (String::new(), Vec::new(), Map::new());
        Self { path, begun: Instant::now(), stage, rows, figures }
    }

    pub(super) fn begin(&mut self, stage: &str) {
        stage.clone_into(&mut self.stage);
        stdout::say!("== {stage} ({:.0} s)", self.begun.elapsed().as_secs_f64());
    }

    /// Prints a result, and keeps it.
    pub(super) fn note(&mut self, what: &str, verdict: Verdict, found: &str, wanted: &str) {
        let stage = self.stage.clone();
        let (what, found, wanted) = (what.to_owned(), found.to_owned(), wanted.to_owned());
        let aim = if wanted.is_empty() { String::new() } else { format!(" (wanted: {wanted})") };
        stdout::say!("{what}: {found}{aim} {}", verdict.word());
        self.rows.push(Row { stage, what, found, wanted, verdict });
    }

    /// A check that ended with an error; it counts as failed.
    pub(super) fn note_error(&mut self, what: &str, error: &anyhow::Error) {
        self.note(what, Verdict::Failed, &format!("{error:#}"), "");
    }

    /// Keeps a figure for the file only.
    pub(super) fn keep(&mut self, name: &str, value: Value) {
        self.figures.insert(name.to_owned(), value);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.rows.iter().any(|row| row.verdict == Verdict::Failed)
    }

    /// Writes the results so far as JSON.
    pub(super) fn write(&self) -> anyhow::Result<()> {
        let row = |row: &Row| {
            json!({
                "stage": row.stage,
                "what": row.what,
                "found": row.found,
                "wanted": row.wanted,
                "verdict": row.verdict.word(),
            })
        };
        let all = json!({
            "seconds": self.begun.elapsed().as_secs_f64(),
            "failed": self.has_failed(),
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "figures": self.figures,
        });
        let text = serde_json::to_string_pretty(&all)?;
        fs::write(&self.path, text).with_context(|| format!("cannot write {}", self.path.display()))
    }

    pub(super) fn table(&self) -> String {
        let mut table = Table::new(&["what", "found", "wanted", ""]);
        for row in &self.rows {
            let what = format!("{}: {}", row.stage, row.what);
            let word = row.verdict.word().to_owned();
            table.push(vec![what, row.found.clone(), row.wanted.clone(), word]);
        }
        table.render()
    }
}
