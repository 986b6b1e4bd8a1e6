//! `cargo xtask chaos`: runs with random faults drawn from seeds, and a table of the recovery
//! times; or one run in which workers are killed for some minutes.

mod table;

use std::fs;

use anyhow::{Context as _, ensure};

use crate::{child, setup, workspace};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Seeds to run: one seed, or the first and the last
    #[arg(long, default_value = "1..100", value_name = "FIRST..LAST", value_parser = seeds)]
    seeds: String,
    /// Instead of seeds, kill a worker every five seconds for this time, and compare each minute
    /// with the quiet seconds around it; at least 3
    #[arg(long, value_name = "MINUTES", conflicts_with = "seeds",
        value_parser = clap::value_parser!(u32).range(3..))]
    soak: Option<u32>,
}

/// Sets up, builds the programs, and runs the scenario `chaos`, seed after seed. Returns the exit
/// status of the build or of the tests.
pub(crate) fn run(options: &Options) -> anyhow::Result<u8> {
    setup::run(&setup::Options::default())?;
    let code = workspace::build_for_tests("test-programs")?;
    if code != child::SUCCESS {
        return Ok(code);
    }
    let mut tests = workspace::cargo();
    tests.args(["test", "--release", "--workspace", "--test", "scenarios", "--", "--nocapture"]);
    tests.args(["--test-threads", "1"]);
    if let Some(minutes) = options.soak {
        let minutes = minutes.to_string();
        let soak = tests.args(["--ignored", "--exact", "chaos::soak::soak"]);
        return child::run(soak.env("LOCKSTEP_CHAOS_SOAK", minutes));
    }
    let figures = tempfile::NamedTempFile::new().context("cannot make a file for the figures")?;
    tests.arg("chaos::disasters").env("LOCKSTEP_CHAOS_SEEDS", &options.seeds);
    let code = child::run(tests.env("LOCKSTEP_CHAOS_FIGURES", figures.path()))?;
    print(&table::tables(&fs::read_to_string(figures.path())?)?);
    Ok(code)
}

fn print(table: &str) {
    stdout::say!("{table}");
}

fn seeds(text: &str) -> anyhow::Result<String> {
    let number = |text: &str| text.parse::<u64>().with_context(|| format!("{text:?} is no seed"));
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    ensure!(number(first)? <= number(last)?, "there is no seed in {text}");
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_one_or_two_numbers() {
        assert!(seeds("7").is_ok() && seeds("1..100").is_ok());
        for wrong in ["", "a", "1..", "2..1", "1..=3"] {
            assert!(seeds(wrong).is_err(), "{wrong}");
        }
    }
}
