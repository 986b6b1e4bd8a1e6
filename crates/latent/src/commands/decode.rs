//! `vae decode`: decodes a table of latents to images, as a picture or an array.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use picture::{Canvas, Tile};
use stdout::counted;

use crate::{
    args::Source,
    output::{DIGITS, Output},
    table,
};

const ZOOM: usize = 1;
/// The most images in a picture: a person cannot inspect more.
const PICTURE_MAX: usize = 10_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    source: Source,
    /// The latents, one row per image: a table written by vae encode, or by NumPy or pandas as
    /// .npy, .csv or .parquet
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// The images: a .png picture, or an .npy array of n x height x width from 0 to 1, with a further
    /// dimension of 3 for RGB
    #[arg(long, default_value = "digits.png", value_name = "FILE")]
    output: PathBuf,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let output = Output::new(&options.output, DIGITS)?;
    output.is_no_input([&*options.input])?;
    table::check(&options.input)?;
    let mut trained = options.source.trained()?;
    let z = table::read(&options.input, trained.dim())?;
    let count = z.len() / trained.dim();
    ensure!(
        output.format() == "npy" || count <= PICTURE_MAX,
        "{count} images are too many for a picture: write an .npy array"
    );
    let (tile, images) = (trained.tile(), trained.decode(&z)?);
    let Tile { height, width, channels } = tile;
    let bytes = match (output.format(), channels) {
        ("npy", 1) => table::array(&[count, height, width], &images),
        ("npy", _) => table::array(&[count, height, width, channels], &images),
        _ => Canvas::grid(ZOOM, tile, &images).png()?,
    };
    output.write(&bytes, &counted(count as u64, "image"))
}
