//! `vae sample`: digits decoded from the prior, or from a mixture fitted to the latents.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{ValueEnum, builder::RangedU64ValueParser};
use picture::{Canvas, SIDE, WHITE};

use crate::{
    args::Source,
    output::Output,
    trained::{Purpose, normals},
};

/// More would not fit a picture that can be looked at.
const COUNT_MAX: u64 = 10_000;
/// Each pixel becomes a square of this many.
const ZOOM: usize = 2;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    source: Source,
    /// Digits to draw
    #[arg(long, default_value_t = 64, value_name = "N",
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=COUNT_MAX))]
    count: usize,
    /// The picture, a PNG file
    #[arg(long, default_value = "samples.png", value_name = "FILE")]
    output: PathBuf,
    /// Key of the latents; another seed draws other digits
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Standard deviation of the latents, in those of the sampler: less is more typical
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    temperature: f32,
    /// What the latents are drawn from
    #[arg(long, value_enum, default_value_t = Sampler::Prior)]
    sampler: Sampler,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sampler {
    /// The standard normal distribution that the model was trained towards
    Prior,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { source, count, output, seed, temperature, sampler } = options;
    ensure!(
        temperature.is_finite() && *temperature >= 0.0,
        "--temperature must be a number that is not negative, not {temperature}"
    );
    let output = Output::new(output)?;
    let mut trained = source.trained()?;
    let z = match sampler {
        Sampler::Prior => {
            let mut z = normals(*seed, Purpose::Sample, 0, count * trained.dim());
            z.iter_mut().for_each(|z| *z *= temperature);
            z
        }
    };
    let digits = trained.decode(&z);
    let columns = count.isqrt() + usize::from(count.isqrt().pow(2) < *count);
    let (width, height) = (columns * SIDE * ZOOM, count.div_ceil(columns) * SIDE * ZOOM);
    let mut canvas = Canvas::new(width, height, WHITE);
    canvas.digits(0, 0, ZOOM, columns, &digits);
    output.write(&canvas.png()?, &format!("{count} digits"))
}
