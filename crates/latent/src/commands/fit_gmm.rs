//! `vae fit-gmm`: fits a Gaussian mixture to the training images' latents, to sample from.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use stdout::counted;

use crate::{
    args::Source,
    mixture::{MARK, Mixture},
    output::{self, MIXTURE, Output},
    trained::{Latents, Trained},
};

/// The name of the file in the model's folder.
const NAME: &str = "gmm.safetensors";
const COMPONENTS_MAX: usize = 1_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    fit: Fit,
    /// The mixture's file, ending in .safetensors [default: gmm.safetensors in the run directory]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// How to fit a mixture.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Fit {
    /// Components of the mixture
    #[arg(long, default_value_t = 30, value_name = "N",
          value_parser = manual::whole(1..=COMPONENTS_MAX))]
    components: usize,
    /// Seed of the latents' noise and of the first components
    #[arg(long, default_value_t = 0, value_name = "SEED",
          value_parser = manual::whole(0..=u64::MAX))]
    fit_seed: u64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    // A bad path is refused before a checkpoint is read.
    let named = options.output.as_deref().map(at).transpose()?;
    let mut trained = options.source.trained()?;
    let output = match named {
        Some(output) => output,
        None => at(&default_path(&trained))?,
    };
    let mixture = options.fit.run(&options.source, &mut trained)?;
    let what = format!("a mixture of {}", counted(options.fit.components as u64, "component"));
    output.write(&mixture.to_bytes(&trained.sha256)?, &what)
}

/// The place of the mixture's file. A path that holds a checkpoint or another model, with the same ending, is refused.
fn at(path: &Path) -> Result<Output> {
    let output = Output::new(path, MIXTURE)?;
    ensure!(
        disk::refuse_foreign(path, MARK).is_ok(),
        "{} is there already and is not a mixture, so it stays: name another file with --output",
        path.display()
    );
    Ok(output)
}

impl Fit {
    /// Fits a mixture to the training images, and reports how well it explains the test images' latents.
    pub(crate) fn run(&self, source: &Source, trained: &mut Trained) -> Result<Mixture> {
        let mnist = source.mnist(trained)?;
        let (train, test) = (trained.encode(&mnist.train)?, trained.encode(&mnist.test)?);
        let rows = train.draw(self.fit_seed);
        let mixture = Mixture::fit(&rows, trained.dim(), self.components, self.fit_seed);
        let rows = test.draw(self.fit_seed);
        output::say(&format!(
            "Test latents: {:.2} nats an image under the mixture, {:.2} under the prior",
            -mixture.log_density(&rows),
            -prior_density(&test, &rows),
        ));
        Ok(mixture)
    }
}

/// The mixture at `path`, else the mixture in the model's folder, else a mixture fitted now.
pub(crate) fn find(
    path: Option<&Path>,
    fit: &Fit,
    source: &Source,
    trained: &mut Trained,
) -> Result<Mixture> {
    let default = default_path(trained);
    match path {
        Some(path) => Mixture::read(path, &trained.sha256, trained.dim()),
        // The user did not name this file, so a mixture of an older checkpoint is ignored, not an error.
        None => Mixture::read(&default, &trained.sha256, trained.dim())
            .or_else(|_| fit.run(source, trained)),
    }
}

fn default_path(trained: &Trained) -> PathBuf {
    trained.folder().join(NAME)
}

/// The mean log density of the rows under the standard normal distribution, in nats.
fn prior_density(latents: &Latents, rows: &[f32]) -> f64 {
    let squares: f64 = rows.iter().map(|z| f64::from(*z).powi(2)).sum();
    let (count, dim) = (latents.len() as f64, latents.dim as f64);
    -0.5 * (squares / count + dim * std::f64::consts::TAU.ln())
}
