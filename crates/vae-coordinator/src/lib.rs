//! What `vae-coordinator` knows of the variational autoencoder: its flags and its description.

use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgMatches, Args as _, Command, FromArgMatches as _};
use config::Task;
use coordinator::{Preparing, Program, WorkerProgram};
use serde_json::Value;
use vae_options::VaeOptions;

/// The program.
pub fn main() -> ExitCode {
    coordinator::main(&VaeCoordinator, std::env::args_os())
}

/// Coordinates runs of the variational autoencoder.
#[derive(Debug)]
struct VaeCoordinator;

impl Program for VaeCoordinator {
    fn name(&self) -> &'static str {
        "vae-coordinator"
    }

    fn task(&self) -> &'static str {
        vae_options::NAME
    }

    fn about(&self) -> &'static str {
        "Train a variational autoencoder on MNIST, data-parallel: shard the data, start generations \
         of workers, and keep the run directory"
    }

    fn worker(&self) -> WorkerProgram {
        WorkerProgram::Beside("vae-worker")
    }

    fn add_flags(&self, command: Command) -> Command {
        VaeOptions::augment_args(command)
    }

    fn options(&self, matches: &ArgMatches) -> Result<Value> {
        let options = VaeOptions::from_arg_matches(matches)?;
        Ok(serde_json::to_value(options)?)
    }

    fn describe(&self, options: Value, _preparing: &Preparing<'_>) -> Result<Task> {
        let options: VaeOptions = serde_json::from_value(options)?;
        options.validate()?;
        Ok(options.describe(images::named::mnist())?)
    }

    fn upgrade(&self, configuration: &mut Value) {
        vae_options::upgrade(configuration, images::named::mnist);
    }
}
