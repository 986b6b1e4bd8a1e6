//! `vae sample`: decodes images from the prior, or from a mixture fitted to the latents.

use std::path::PathBuf;

use anyhow::Result;
use clap::{ArgMatches, CommandFactory as _, ValueEnum, error::ErrorKind, parser::ValueSource};
use picture::Canvas;
use stdout::counted;

use crate::{
    args::{Args, LATENT_MAX, Source, number},
    commands::fit_gmm::{self, Fit},
    output::{Output, PICTURE},
    trained::{Purpose, normals},
};

/// The most images: a person cannot inspect a larger picture.
const COUNT_MAX: usize = 10_000;
/// The approximate side of an image in the picture, in pixels.
const SIDE: usize = 56;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    source: Source,
    /// Images to draw
    #[arg(long, default_value_t = 64, value_name = "N",
          value_parser = manual::whole(1..=COUNT_MAX))]
    count: usize,
    /// The picture, a PNG file
    #[arg(long, default_value = "samples.png", value_name = "FILE")]
    output: PathBuf,
    /// Seed of the latents; another seed draws other images
    #[arg(long, default_value_t = 0, value_parser = manual::whole(0..=u64::MAX))]
    seed: u64,
    /// Factor on the latents' standard deviation: a smaller one gives more typical images
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR", value_parser = temperature)]
    temperature: f32,
    /// Distribution of the latents
    #[arg(long, value_enum, default_value_t = Sampler::Prior)]
    sampler: Sampler,
    /// The file of the mixture [default: gmm.safetensors in the run directory, or fitted now]
    #[arg(long, value_name = "FILE", conflicts_with = "components")]
    gmm: Option<PathBuf>,
    #[command(flatten)]
    fit: Fit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sampler {
    /// The standard normal distribution that the model was trained towards
    Prior,
    /// A Gaussian mixture fitted to the training images' latents, by fit-gmm or now
    Gmm,
}

fn temperature(text: &str) -> Result<f32, String> {
    number(text, 0.0, LATENT_MAX)
}

/// Refuses options about a mixture where no mixture is sampled from.
pub(crate) fn check(matches: &ArgMatches) -> Result<(), clap::Error> {
    let Some(("sample", given)) = matches.subcommand() else { return Ok(()) };
    let is_given = |id: &&str| given.value_source(id) == Some(ValueSource::CommandLine);
    let ignored = ["gmm", "components", "fit_seed"].into_iter().find(is_given);
    match (ignored, given.get_one("sampler")) {
        (Some(id), Some(Sampler::Prior)) => Err(Args::command().error(
            ErrorKind::MissingRequiredArgument,
            format!(
                "--{} is about a mixture, which only --sampler gmm samples from: add it, or leave \
                 --{0} out",
                id.replace('_', "-")
            ),
        )),
        _ => Ok(()),
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { source, count, output, seed, temperature, sampler, gmm, fit } = options;
    let output = Output::new(output, PICTURE)?;
    let mut trained = source.trained()?;
    let z = match sampler {
        Sampler::Prior => {
            let mut z = normals(*seed, Purpose::Sample, 0, count * trained.dim());
            z.iter_mut().for_each(|z| *z *= temperature);
            z
        }
        Sampler::Gmm => fit_gmm::find(gmm.as_deref(), fit, source, &mut trained)?.sample(
            *count,
            *seed,
            *temperature,
        ),
    };
    let (tile, images) = (trained.tile(), trained.decode(&z)?);
    output.write(
        &Canvas::grid(tile.zoom(SIDE), tile, &images).png()?,
        &counted(*count as u64, "image"),
    )
}
