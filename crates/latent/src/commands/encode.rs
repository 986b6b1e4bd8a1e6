//! `vae encode`: writes the latents of a split as a table, and reports the storage they would save.

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use half::f16;
use images::Images;
use stdout::counted;

use crate::{
    args::Source,
    output::{self, Output, TABLE},
    table::Table,
    trained::{Latents, Trained},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    source: Source,
    /// The part of the data set
    #[arg(long, value_enum, default_value_t = SplitArg::Test)]
    split: SplitArg,
    /// The table; its ending is .npy, .parquet or .csv
    #[arg(long, default_value = "latents.npy", value_name = "FILE")]
    output: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum SplitArg {
    Train,
    Test,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let output = Output::new(&options.output, TABLE)?;
    let mut trained = options.source.trained()?;
    let mnist = options.source.mnist(&trained)?;
    let images = match options.split {
        SplitArg::Train => &mnist.train,
        SplitArg::Test => &mnist.test,
    };
    let latents = trained.encode(images)?;
    let bytes = Table::new(images, &latents).to_bytes(output.format())?;
    report(&mut trained, images, &latents)?;
    let what = format!("mean and log-variance of {}", counted(latents.len() as u64, "image"));
    output.write(&bytes, &what)
}

/// How a latent could be stored.
#[derive(Clone, Copy, Debug)]
enum Storage {
    F32,
    F16,
    /// 256 levels between the smallest and the largest value of each dimension.
    Bits8,
}

impl Storage {
    const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bits8 => "8 bits",
        }
    }

    /// Bytes of `values` in `dim` dimensions.
    const fn bytes(self, values: usize, dim: usize) -> usize {
        match self {
            Self::F32 => 4 * values,
            Self::F16 => 2 * values,
            // The minimum and the maximum of each dimension are stored too.
            Self::Bits8 => values + 2 * 4 * dim,
        }
    }

    /// The values after they have been stored and read back.
    fn round(self, values: &[f32], dim: usize) -> Vec<f32> {
        match self {
            Self::F32 => values.to_vec(),
            Self::F16 => values.iter().map(|value| f16::from_f32(*value).to_f32()).collect(),
            Self::Bits8 => {
                let mut ends = vec![[f32::INFINITY, f32::NEG_INFINITY]; dim];
                for (place, value) in values.iter().enumerate() {
                    let [low, high] = &mut ends[place % dim];
                    (*low, *high) = (low.min(*value), high.max(*value));
                }
                let level = |(place, value): (usize, &f32)| {
                    let [low, high] = ends[place % dim];
                    let step = (high - low) / 255.0;
                    if step > 0.0 { ((value - low) / step).round().mul_add(step, low) } else { low }
                };
                values.iter().enumerate().map(level).collect()
            }
        }
    }
}

/// Reports the bytes saved by storing the means instead of the pixels, and the loss of quality.
fn report(trained: &mut Trained, images: &Images, latents: &Latents) -> Result<()> {
    let (count, dim) = (images.len(), latents.dim);
    let pixels = trained.pixels();
    let raw = count * pixels;
    output::say(&format!(
        "{} of {pixels} bytes: {raw} bytes. Storing their latent means instead \
         (without the decoder's {} parameters):",
        counted(count as u64, "image"),
        trained.options.model().parameters()
    ));
    output::say("stored as     bytes  smaller by  nats an image  squared error a pixel");
    for storage in [Storage::F32, Storage::F16, Storage::Bits8] {
        let bytes = storage.bytes(latents.mean.len(), dim);
        let z = storage.round(&latents.mean, dim);
        let nats = trained.reconstruction(images, &z)?.iter().sum::<f64>() / count as f64;
        let error = squared_error(images, &trained.decode(&z)?);
        let (name, ratio) = (storage.name(), raw as f64 / bytes as f64);
        output::say(&format!("{name:9}  {bytes:8}  {ratio:10.1}  {nats:13.3}  {error:21.5}"));
    }
    Ok(())
}

/// The mean squared error of the pixels, on a scale of 0 to 1.
fn squared_error(images: &Images, pixels: &[f32]) -> f64 {
    let error = |(index, pixels): (usize, &[f32])| -> f64 {
        let square =
            |(level, pixel): (&u8, &f32)| (f64::from(*level) / 255.0 - f64::from(*pixel)).powi(2);
        images.image(index as u32).iter().zip(pixels).map(square).sum()
    };
    let sum: f64 = pixels.chunks_exact(images.shape().bytes()).enumerate().map(error).sum();
    sum / pixels.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_is_near_and_its_size_is_known() {
        let values = [0.0_f32, -1.0, 3.0, 7.0, 1.5, 3.0];
        let error = |storage: Storage| {
            let back = storage.round(&values, 2);
            values.iter().zip(back).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
        };
        assert_eq!(error(Storage::F32), 0.0);
        assert!(error(Storage::F16) < 0.005);
        // Half a level of the dimension with the larger range.
        assert!(error(Storage::Bits8) <= 8.0 / 255.0 / 2.0 + 1e-6);
        let bytes = [Storage::F32, Storage::F16, Storage::Bits8].map(|s| s.bytes(6, 2));
        assert_eq!(bytes, [24, 12, 6 + 16]);
        // A constant dimension.
        assert_eq!(Storage::Bits8.round(&[2.0, 2.0], 1), [2.0, 2.0]);
    }
}
