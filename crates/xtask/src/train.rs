//! `cargo xtask train`: a whole training run on this machine, also in a fresh checkout.
//!
//! This command starts the coordinator, which prints the paths of the checkpoint and of the
//! picture. Then it prints commands that show what the model has learned.

use crate::workspace::{self, Build};
use crate::{child, setup};
use advice::CommandLine;
use anyhow::Context as _;
use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The flag with which the coordinator starts its workers; it may be given only once.
const SPAWN: &str = "--spawn";

/// The coordinator's default for `--epochs`.
const EPOCHS: u32 = 5;

/// Arguments with which the coordinator does not train.
const NO_TRAINING: [&str; 10] =
    ["status", "runs", "board", "config", "certs", "help", "--help", "-h", "--version", "-V"];

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Flags for vae-coordinator
    ///
    /// For instance `cargo xtask train -- --epochs 20 --workers 2`. `cargo xtask train -- --help`
    /// lists all flags.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    flags: Vec<OsString>,
}

/// Sets up, builds and trains. Returns the exit status of a failed build, or of the coordinator.
pub(crate) fn run(options: &Options) -> anyhow::Result<u8> {
    let flags = &options.flags;
    let mut training = vec!["--bins", "-p", "vae-coordinator", "-p", "vae-worker"];
    if may_be_conv(flags) {
        setup::run(&setup::Options::default())?;
        training.extend(["-p", "vae-worker-conv"]);
    }
    let coordinator = match built(&training, "vae-coordinator")? {
        Build::Failed(code) => return Ok(code),
        Build::Done(program) => program,
    };
    let trains = !flags.iter().any(|flag| NO_TRAINING.iter().any(|word| flag == word));
    let spawn = (trains && !flags.iter().any(|flag| flag == SPAWN)).then_some(SPAWN);
    let code = child::run(Command::new(&coordinator).args(spawn).args(flags))?;
    if !trains || code != child::SUCCESS {
        return Ok(code);
    }
    // `vae` is built last, because it needs libtorch and packages that training does not need.
    let vae = coordinator.with_file_name("vae");
    stdout::say!("To look into the model, or to train on:{}", next(&coordinator, &vae, flags));
    stdout::say!("Building vae for these commands; the first time, this takes minutes.");
    setup::run(&setup::Options::default())
        .context("the run is complete, but vae cannot be built")?;
    Ok(match built(&[&training[..], &["-p", "latent"]].concat(), "vae")? {
        Build::Failed(code) => code,
        Build::Done(_) => child::SUCCESS,
    })
}

/// Whether the run may have convolutions: a file of flags, or the run that goes on, can say so too.
fn may_be_conv(flags: &[OsString]) -> bool {
    value(flags, "--architecture").is_some_and(|name| name == "conv")
        || has(flags, "--resume")
        || has(flags, "--config")
}

/// Whether a flag begins with this word, such as `--resume-or-begin` with `--resume`.
fn has(flags: &[OsString], word: &str) -> bool {
    flags.iter().any(|flag| flag.as_bytes().starts_with(word.as_bytes()))
}

/// Builds some packages; returns the program of this name.
fn built(selection: &[&str], name: &str) -> anyhow::Result<Build<PathBuf>> {
    Ok(match workspace::build_programs(workspace::RELEASE, selection, &[])? {
        Build::Failed(code) => Build::Failed(code),
        Build::Done(programs) => Build::Done(near(workspace::named(&programs, name)?)),
    })
}

/// The commands to type after a training run, each on a line.
fn next(coordinator: &Path, vae: &Path, flags: &[OsString]) -> String {
    let run_dir = value(flags, "--run-dir");
    let data_dir = value(flags, "--data-dir");
    let with = |line: CommandLine, flag: &str, value: &Option<OsString>| match value {
        Some(value) => line.arg(flag).arg(value),
        None => line,
    };
    let look = |command| with(CommandLine::program(vae).arg(command), "--checkpoint", &run_dir);
    let with_data = |command| with(look(command), "--data-dir", &data_dir);
    let mut lines = vec![look("sample")];
    lines.extend(["reconstruct", "map", "evaluate"].map(with_data));
    if let Some(epochs) = more_epochs(flags) {
        let more = with(CommandLine::program(coordinator).arg("--resume"), "--run-dir", &run_dir);
        let more = with(more, "--data-dir", &data_dir).args([SPAWN, "--epochs"]);
        lines.push(more.arg(epochs.to_string()));
    }
    lines.iter().map(|line| format!("\n  {line}")).collect()
}

/// Twice the epochs of the run; none if the number is unknown or cannot be increased.
fn more_epochs(flags: &[OsString]) -> Option<u32> {
    let is_fixed = value(flags, "--learning-rate-schedule").is_some_and(|name| name == "cosine");
    if has(flags, "--resume") || is_fixed {
        return None;
    }
    match value(flags, "--epochs") {
        Some(epochs) => epochs.to_str()?.parse::<u32>().ok()?.checked_mul(2),
        None => Some(2 * EPOCHS),
    }
}

/// The value of one of the coordinator's flags.
fn value(flags: &[OsString], flag: &str) -> Option<OsString> {
    let joined = format!("{flag}=");
    flags.iter().enumerate().find_map(|(index, word)| {
        if word == flag {
            return flags.get(index + 1).cloned();
        }
        let value = word.as_bytes().strip_prefix(joined.as_bytes())?;
        Some(OsStr::from_bytes(value).to_owned())
    })
}

/// A program's path, relative to the current folder if the program is below it.
fn near(program: &Path) -> PathBuf {
    let here = env::current_dir().unwrap_or_default();
    match program.strip_prefix(&here) {
        Ok(below) if below.components().count() > 1 => below.to_owned(),
        _ => program.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(flags: &[&str]) -> Vec<String> {
        let flags: Vec<OsString> = flags.iter().map(OsString::from).collect();
        let text = next(Path::new("target/vae-coordinator"), Path::new("target/vae"), &flags);
        text.lines().skip(1).map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn the_commands_are_about_the_run_that_was_trained() {
        let lines = said(&["--workers", "2"]);
        assert_eq!(lines[0], "target/vae sample");
        assert_eq!(lines[3], "target/vae evaluate");
        assert_eq!(lines[4], "target/vae-coordinator --resume --spawn --epochs 10");
        let lines = said(&["--run-dir=my run", "--data-dir", "data", "--epochs", "30"]);
        assert_eq!(lines[0], "target/vae sample --checkpoint 'my run'");
        assert_eq!(lines[2], "target/vae map --checkpoint 'my run' --data-dir data");
        let more = "--resume --run-dir 'my run' --data-dir data --spawn --epochs 60";
        assert_eq!(lines[4], format!("target/vae-coordinator {more}"));
        assert_eq!(said(&["--learning-rate-schedule", "cosine"]).len(), 4);
        assert_eq!(said(&["--resume"]).len(), 4);
    }

    #[test]
    fn convolutions_may_be_asked_for_elsewhere() {
        let may = |flags: &str| {
            let flags: Vec<OsString> = flags.split(' ').map(OsString::from).collect();
            may_be_conv(&flags)
        };
        assert!(may("--architecture=conv") && may("--epochs 2 --architecture conv"));
        assert!(may("--config run.toml") && may("--resume-or-begin"));
        assert!(!may("--epochs 2 --workers 3"));
    }

    #[test]
    fn a_program_below_this_folder_is_named_from_here() {
        let here = env::current_dir().unwrap();
        assert_eq!(near(&here.join("target/release/vae")), Path::new("target/release/vae"));
        assert_eq!(near(Path::new("/elsewhere/vae")), Path::new("/elsewhere/vae"));
        // The shell would look for a bare name in PATH.
        assert_eq!(near(&here.join("vae")), here.join("vae"));
    }
}
