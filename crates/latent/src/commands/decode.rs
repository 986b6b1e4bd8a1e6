//! `vae decode`: digits of a table of latents, as a picture or an array.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use picture::{Canvas, SIDE};

use crate::{
    args::Source,
    output::{DIGITS, Output},
    table,
};

const ZOOM: usize = 1;
/// More digits do not make a picture that can be looked at.
const PICTURE_MAX: usize = 10_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    source: Source,
    /// The latents, a row a digit: a table as vae encode writes it, or what NumPy or pandas writes
    /// as .npy, .csv or .parquet
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// The digits: a .png picture, or an .npy array of n x 28 x 28 from 0 to 1
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
        "{count} digits are too many for a picture: write an .npy array"
    );
    let digits = trained.decode(&z);
    let bytes = match output.format() {
        "npy" => table::array(&[count, SIDE, SIDE], &digits),
        _ => Canvas::grid(ZOOM, &digits).png()?,
    };
    output.write(&bytes, &format!("{count} digits"))
}
