//! The task of `vae-coordinator`, the variational autoencoder: its flags and its description.

mod explore;

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::{ArgMatches, Args as _, Command, FromArgMatches as _};
use config::Task;
use coordinator::{Explorer, Preparing, Program, WorkerProgram};
use serde_json::Value;
use vae_options::{Color, VaeOptions};

use self::explore::LatentSpace;

/// Time between two lines about the packing of a data set.
const TELL_INTERVAL: Duration = Duration::from_secs(3);

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

    fn revision(&self) -> u32 {
        vae_options::REVISION
    }

    fn about(&self) -> &'static str {
        "Train a variational autoencoder on images, data-parallel: shard the data, start generations \
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

    fn describe(&self, options: Value, preparing: &Preparing<'_>) -> Result<Task> {
        let mut options: VaeOptions = serde_json::from_value(options)?;
        let set = dataset(&options, preparing)?;
        options.image = [set.shape.height, set.shape.width, set.shape.channels];
        options.validate()?;
        Ok(options.describe(set.manifest)?)
    }

    fn explorer(&self, data_dir: Option<PathBuf>) -> Option<Arc<dyn Explorer>> {
        Some(Arc::new(LatentSpace { data_dir }))
    }

    fn upgrade(&self, configuration: &mut Value) {
        vae_options::upgrade(configuration, images::named::mnist);
    }
}

/// The data set that the options name; a data set at a path is packed first.
fn dataset(options: &VaeOptions, preparing: &Preparing<'_>) -> Result<images::Dataset> {
    let colour = match options.color {
        Color::Auto => images::Colour::Auto,
        Color::Grey => images::Colour::Grey,
        Color::Rgb => images::Colour::Rgb,
    };
    let how = images::Options { side: options.image_size, colour };
    let mut told = Instant::now();
    let mut progress = |done: u64, total: u64| {
        if told.elapsed() >= TELL_INTERVAL {
            told = Instant::now();
            (preparing.tell)(&format!("Packing the data set: {done} of {total} images"));
        }
    };
    Ok(images::dataset(options.dataset.as_ref(), &how, preparing.cache, &mut progress)?)
}
