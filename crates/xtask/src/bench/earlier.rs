//! The figures of earlier pieces of a bench, read from `bench.json`. Does not know the meaning of
//! the figures.

use super::machine::Machine;
use super::plan::{self, Row};
use super::rounds::Figures;
use super::subject::Quantity;
use anyhow::{Context, ensure};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// The values that must be equal in `bench.json` and here, so that figures can be put together.
const SAME: [&str; 4] = ["cpu", "cores", "torch", "revision"];

/// The figures in a file, of all jobs that the rows need; empty if there is no file.
pub(super) fn read(file: &Path, rows: &[Row], machine: &Machine) -> anyhow::Result<Figures> {
    if !file.exists() {
        return Ok(Figures::default());
    }
    let found =
        || -> anyhow::Result<Value> { Ok(serde_json::from_str(&fs::read_to_string(file)?)?) };
    let found = found().with_context(|| format!("cannot read {}", file.display()))?;
    let (earlier, here) = (&found["machine"], machine.json());
    ensure!(
        SAME.iter().all(|name| earlier[name] == here[name]),
        "{} is of another machine or revision: remove it, or leave out --add",
        file.display()
    );
    Ok(figures(&found, rows))
}

fn figures(found: &Value, rows: &[Row]) -> Figures {
    let mut figures = Figures::default();
    for job in plan::jobs(rows) {
        for quantity in Quantity::all() {
            let (job_name, quantity_name) = (job.to_string(), quantity.to_string());
            let mut all = found["figures"].as_array().into_iter().flatten();
            let figure = all.find(|one| one["job"] == job_name && one["quantity"] == quantity_name);
            if let Some(rounds) = figure.and_then(|figure| figure["rounds"].as_array()) {
                let values = rounds.iter().map(Value::as_f64).collect();
                figures.restore((job, quantity), values);
            }
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Options, report};

    #[test]
    fn what_was_written_is_read_again() {
        let (rows, machine) = (plan::rows(&Options::default(), 2), Machine::here());
        let mut written = Figures::default();
        for (row, value) in rows.iter().zip(1_u8..) {
            written.restore(row.ours, vec![Some(f64::from(value)), None, Some(0.5)]);
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bench.json");
        assert_eq!(read(&file, &rows, &machine).unwrap().rounds(), 0);
        let json = report::json(&rows, &written, &machine);
        fs::write(&file, json.to_string()).unwrap();
        let found = read(&file, &rows, &machine).unwrap();
        assert!(found.all().eq(written.all()));

        let mut other = json;
        other["machine"]["revision"] = "another".into();
        fs::write(&file, other.to_string()).unwrap();
        assert!(read(&file, &rows, &machine).unwrap_err().to_string().contains("another machine"));
    }
}
