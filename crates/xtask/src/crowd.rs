//! `cargo xtask crowd`: a coordinator with a thousand workers without tensors, and the time and
//! memory that it needs.

use crate::{child, setup, workspace};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Workers, all in one process; half of them are lost
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=4096))]
    workers: u32,
    /// Number of measurements; each takes a quarter of a minute
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

/// Sets up, builds the programs, and runs the measuring scenario. Returns the exit status of the
/// build or of the tests.
pub(crate) fn run(options: &Options) -> anyhow::Result<u8> {
    setup::run(&setup::Options::default())?;
    let code = workspace::build_for_tests("test-programs")?;
    if code != child::SUCCESS {
        return Ok(code);
    }
    let mut tests = workspace::cargo();
    tests.args(["test", "--release", "--workspace", "--test", "scenarios", "--", "--nocapture"]);
    tests.args(["--ignored", "--exact", "crowd::measure::measure"]);
    tests.env("LOCKSTEP_CROWD_WORKERS", options.workers.to_string());
    child::run(tests.env("LOCKSTEP_CROWD_ROUNDS", options.rounds.to_string()))
}
