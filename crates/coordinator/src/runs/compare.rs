//! Compares runs side by side.

use std::collections::{BTreeMap, BTreeSet};

use protocol::convert::printable;
use serde_json::Value;

use super::{
    found::Run,
    table::{self, columns},
};

/// The most epochs that are shown; from more, a selection that includes the first and the last.
const EPOCHS_MAX: usize = 20;

pub(super) fn compare(runs: &[Run]) -> String {
    let mut rows = vec![with_first("", runs.iter().map(Run::title))];
    rows.extend(differences(runs));
    if rows.len() == 1 {
        rows.push(vec!["same flags".into()]);
    }
    rows.push(Vec::new());
    rows.push(with_first("state", runs.iter().map(|run| run.state.name().to_owned())));
    for epoch in epochs(runs) {
        let loss = |run: &Run| {
            let found = run.tests.iter().find(|(other, ..)| *other == epoch);
            table::loss(found.map(|(.., loss)| *loss))
        };
        rows.push(with_first(&format!("test loss, epoch {epoch}"), runs.iter().map(loss)));
    }
    let rate = |run: &Run| table::rate(run.examples_per_second);
    rows.push(with_first(&format!("{}s/s", runs[0].example), runs.iter().map(rate)));
    let digest = |run: &Run| run.digest.clone().unwrap_or_else(|| "-".into());
    rows.push(with_first("digest", runs.iter().map(digest)));
    let mut text = columns(&rows);
    for names in same_bits(runs) {
        text += &format!("\nsame bits: {}", names.join(", "));
    }
    text
}

fn with_first(first: &str, rest: impl Iterator<Item = String>) -> Vec<String> {
    [first.to_owned()].into_iter().chain(rest).collect()
}

/// A row for each flag in which the runs differ.
fn differences(runs: &[Run]) -> Vec<Vec<String>> {
    let flags: BTreeSet<&String> = runs.iter().flat_map(|run| run.settings.keys()).collect();
    let differs = |flag: &&String| {
        runs.iter().any(|run| run.settings.get(*flag) != runs[0].settings.get(*flag))
    };
    let row = |flag: &String| {
        let value = |run: &Run| match run.settings.get(flag) {
            None | Some(Value::Null) => "-".to_owned(),
            Some(Value::String(text)) => printable(text),
            Some(value) => printable(&value.to_string()),
        };
        with_first(&printable(flag), runs.iter().map(value))
    };
    flags.into_iter().filter(differs).map(row).collect()
}

/// The epochs to show, the first and the last among them.
fn epochs(runs: &[Run]) -> Vec<u64> {
    let tested = runs.iter().flat_map(|run| run.tests.iter().map(|(epoch, ..)| *epoch));
    let tested: Vec<u64> = tested.collect::<BTreeSet<_>>().into_iter().collect();
    let last = tested.len().saturating_sub(1);
    if tested.len() <= EPOCHS_MAX {
        return tested;
    }
    (0..EPOCHS_MAX).map(|index| tested[index * last / (EPOCHS_MAX - 1)]).collect()
}

/// The names of runs that ended in the same state.
fn same_bits(runs: &[Run]) -> Vec<Vec<String>> {
    let mut by_digest: BTreeMap<&String, Vec<String>> = BTreeMap::new();
    for run in runs {
        if let Some(digest) = &run.digest {
            by_digest.entry(digest).or_default().push(run.title());
        }
    }
    by_digest.into_values().filter(|names| names.len() > 1).collect()
}
