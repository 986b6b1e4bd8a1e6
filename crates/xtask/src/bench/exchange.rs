//! Measures the all-reduce alone. The transports' own benchmark program and `gloo.py` print lines
//! of JSON of the same form, one for each number of members and size.

use super::process::{self, Process};
use super::pytorch::PyTorch;
use super::subject::{LENGTHS, MEMBERS, Quantity, Transport};
use anyhow::{Context, ensure};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// How long all sizes over one transport may take.
const BOUND: Duration = Duration::from_mins(4);

/// Measures all numbers of members and sizes over a transport of Lockstep.
pub(super) fn ours(program: &Path, transport: Transport) -> anyhow::Result<Vec<(Quantity, f64)>> {
    let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
    let mut command = process::command(program);
    let started = Process::start("all-reduce", command.arg(transport.to_string()), folder.path())?;
    let mut processes = [started];
    process::wait(&mut processes, BOUND, |_| {})?;
    found_in(&processes[0].output())
}

/// Measures the same numbers of members and sizes with gloo.
pub(super) fn gloo(pytorch: &PyTorch) -> anyhow::Result<Vec<(Quantity, f64)>> {
    let mut found = Vec::new();
    for members in MEMBERS {
        found.extend(found_in(&pytorch.all_reduce(members, &LENGTHS)?)?);
    }
    Ok(found)
}

fn found_in(output: &str) -> anyhow::Result<Vec<(Quantity, f64)>> {
    let lines = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let found: Vec<_> = lines.flat_map(|line| times_in(&line)).collect();
    ensure!(!found.is_empty(), "the benchmark program printed no times");
    Ok(found)
}

fn times_in(line: &Value) -> Vec<(Quantity, f64)> {
    let members = line["members"].as_u64().and_then(|members| u32::try_from(members).ok());
    let (Some(members), Some(bytes)) = (members, line["bytes"].as_u64()) else {
        return Vec::new();
    };
    let times = [(false, "median_ms"), (true, "fresh_median_ms")];
    let time = |(fresh, name)| {
        Some((Quantity::Milliseconds { members, bytes, fresh }, line[name].as_f64()?))
    };
    times.into_iter().filter_map(time).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_from_lines_of_json() {
        let output = "a warning\n{\"transport\":\"shm\",\"members\":2,\"bytes\":4000,\
                      \"rounds\":9,\"median_ms\":0.5,\"fresh_median_ms\":0.75}\n";
        let time = |fresh| Quantity::Milliseconds { members: 2, bytes: 4000, fresh };
        assert_eq!(found_in(output).unwrap(), [(time(false), 0.5), (time(true), 0.75)]);
        assert!(found_in("nothing\n").is_err());
    }
}
