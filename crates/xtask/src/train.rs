//! `cargo xtask train`: a whole training run on this machine, from a fresh checkout on.
//!
//! The coordinator says where the checkpoint and the picture are; this only gets it going.

use crate::workspace::{self, Build};
use crate::{child, setup};
use anyhow::Context as _;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

/// The flag that has the coordinator start its workers; it may be given once only.
const SPAWN: &str = "--spawn";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Flags for vae-coordinator
    ///
    /// For instance `cargo xtask train -- --epochs 20 --workers 2`. All of them:
    /// `cargo xtask train -- --help`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    flags: Vec<String>,
}

/// Sets up, builds and trains. Returns the exit status of what failed, or of the coordinator.
pub(crate) fn run(options: &Options) -> anyhow::Result<u8> {
    setup::run(&setup::Options::default())?;
    let coordinator =
        match workspace::build_programs(&["--bins", "-p", "coordinator", "-p", "worker"])? {
            Build::Failed(code) => return Ok(code),
            Build::Done(programs) => {
                let named =
                    |program: &PathBuf| program.file_name() == Some(OsStr::new("vae-coordinator"));
                programs.into_iter().find(named).context("the build has made no vae-coordinator")?
            }
        };
    let spawn = (!options.flags.iter().any(|flag| flag == SPAWN)).then_some(SPAWN);
    child::run(Command::new(coordinator).args(spawn).args(&options.flags))
}
