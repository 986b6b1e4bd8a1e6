//! `cargo xtask test`: runs the whole test suite, also in a fresh checkout.

use crate::test_tools::{AXE, MOTO, ONNX_RUNTIME, TENSORBOARD};
use crate::{child, setup, workspace};
use anyhow::Context as _;
use std::collections::BTreeSet;
use std::num::NonZero;
use std::{env, fs, thread};

/// The variable with the number of tests that run at a time.
const THREADS: &str = "RUST_TEST_THREADS";

/// How many more tests than cores run at a time: scenarios mostly wait, for processes and for time
/// limits.
const TESTS_MORE: usize = 2;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Arguments for cargo test
    ///
    /// For instance `cargo xtask test -- -p model` for the tests of one crate, or
    /// `cargo xtask test -- -- --nocapture` to see what the tests print.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<String>,
}

/// Sets up, builds the programs that the scenarios start, and runs the tests. Returns the exit status
/// of the build or of the tests.
pub(crate) fn run(options: &Options) -> anyhow::Result<u8> {
    setup::run(&setup::Options::default())?;
    if !names_packages(&options.arguments) {
        MOTO.ensure()?;
        TENSORBOARD.ensure()?;
        ONNX_RUNTIME.ensure()?;
        AXE.ensure()?;
    }
    let code = workspace::build_for_tests("test-programs")?;
    if code != child::SUCCESS {
        return Ok(code);
    }
    if !names_packages(&options.arguments) {
        let code = workspace::build_for_tests("armed-programs")?;
        if code != child::SUCCESS {
            return Ok(code);
        }
    }
    let mut tests = workspace::cargo();
    tests.args(["test", "--release"]);
    if !names_packages(&options.arguments) {
        tests.arg("--workspace");
    }
    if env::var_os(THREADS).is_none() {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        tests.env(THREADS, (cores + TESTS_MORE).to_string());
    }
    let notes = tempfile::NamedTempFile::new().context("cannot make a file for a list")?;
    let code = child::run(tests.args(&options.arguments).env(left_out::LIST, notes.path()))?;
    list_left_out(&fs::read_to_string(notes.path())?);
    Ok(code)
}

/// Lists the tests that were left out on this machine, each once.
fn list_left_out(lines: &str) {
    let lines: BTreeSet<&str> = lines.lines().collect();
    if !lines.is_empty() {
        stdout::say!("\nNot tested here:");
    }
    for line in lines {
        stdout::say!("  {line}");
    }
}

/// Whether the user has chosen packages; cargo would ignore the choice beside `--workspace`.
fn names_packages(arguments: &[String]) -> bool {
    let for_cargo = arguments.iter().take_while(|argument| *argument != "--");
    for_cargo.into_iter().any(|argument| {
        argument == "--package"
            || argument.starts_with("--package=")
            || (argument.starts_with("-p") && !argument.starts_with("--"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_of_packages_takes_the_place_of_the_workspace() {
        for (arguments, expected) in [
            ("", false),
            ("-p model", true),
            ("-pmodel", true),
            ("--package=model --no-fail-fast", true),
            ("--no-fail-fast", false),
            ("--profile dev", false),
            ("-- -p", false),
        ] {
            let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
            assert_eq!(names_packages(&arguments), expected, "{arguments:?}");
        }
    }
}
