//! A table of latents: what `vae encode` writes and `vae decode` reads.
//!
//! A row per image: its index in the set, its label, and mean and log-variance of every
//! dimension. The format follows the file's ending. Tables written by NumPy and pandas are
//! read too, with any number type, any order, and further columns. Only the means are read from a table.

mod csv;
mod npy;
mod parquet;

use std::{fs, path::Path};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use images::Images;

pub(crate) use npy::array;

use crate::{input, output::TABLE, trained::Latents};

/// The most bytes of a table that are read.
const FILE_BYTES_MAX: u64 = 4 << 30;

/// Latents with the labels of their images.
#[derive(Debug)]
pub(crate) struct Table<'a> {
    /// The labels; -1 if the set has no labels.
    pub(crate) labels: Vec<i32>,
    pub(crate) latents: &'a Latents,
}

impl<'a> Table<'a> {
    pub(crate) fn new(images: &Images, latents: &'a Latents) -> Self {
        let labels = (0..images.len())
            .map(|index| images.label(index as u32).map_or(-1, |label| label as i32))
            .collect();
        Self { labels, latents }
    }

    /// The bytes of the file in one of [`TABLE`]'s formats.
    pub(crate) fn to_bytes(&self, format: &str) -> Result<Vec<u8>> {
        match format {
            "parquet" => parquet::write(self),
            "csv" => csv::write(self),
            _ => Ok(npy::write(self)),
        }
    }

    /// Each row's label, mean and log-variance.
    fn rows(&self) -> impl Iterator<Item = (i32, &[f32], &[f32])> {
        let Latents { dim, mean, log_variance } = self.latents;
        let moments = mean.chunks_exact(*dim).zip(log_variance.chunks_exact(*dim));
        self.labels.iter().zip(moments).map(|(label, (mean, lv))| (*label, mean, lv))
    }
}

/// Refuses a file whose ending is not that of a table, and a file that does not exist.
pub(crate) fn check(path: &Path) -> Result<&'static str> {
    let shown = path.display();
    let size = fs::metadata(path).with_context(|| format!("cannot read {shown}"))?.len();
    ensure!(size <= FILE_BYTES_MAX, "{shown} is too large: {size} bytes");
    TABLE.format(path).ok_or_else(|| anyhow!("cannot read {shown}: {}", TABLE.named()))
}

/// Reads the means `[n, dim]` from a table's file.
pub(crate) fn read(path: &Path, dim: usize) -> Result<Vec<f32>> {
    let format = check(path)?;
    let shown = path.display();
    let bytes = input::read(path, FILE_BYTES_MAX)?;
    let means = match format {
        "parquet" => parquet::read(bytes, dim),
        "csv" => csv::read(&bytes, dim),
        _ => npy::read(&bytes, dim),
    };
    let means = means.with_context(|| format!("{shown} is not a table of {dim} latents"))?;
    ensure!(!means.is_empty(), "{shown} has no rows");
    if let Some(place) = means.iter().position(|mean| !mean.is_finite()) {
        let (row, dimension) = (place / dim, place % dim);
        bail!("{shown} does not hold a finite number in row {row} (from 0) of latent {dimension}");
    }
    Ok(means)
}

/// The places of the columns of the means. Their names are `mean_0`, `mean_1` ... as `vae encode` writes them, or `0`,
/// `1` ... as pandas names the columns of an array.
fn columns<T: AsRef<str>>(names: &[T], dim: usize) -> Result<Vec<usize>> {
    let place = |prefix: &str, dimension: usize| {
        let name = format!("{prefix}{dimension}");
        names.iter().position(|other| other.as_ref().trim() == name)
    };
    let of_array = place("mean_", 0).is_none() && place("", 0).is_some();
    let prefix = if of_array { "" } else { "mean_" };
    let missing = |dimension| format!("it has no column {prefix}{dimension}");
    let find = |dimension| place(prefix, dimension).with_context(|| missing(dimension));
    let places = (0..dim).map(find).collect::<Result<Vec<_>>>()?;
    ensure!(place(prefix, dim).is_none(), "it has a column {prefix}{dim}");
    Ok(places)
}

#[cfg(test)]
mod tests {
    use images::{PIXELS, Shape};

    use super::*;

    pub(super) fn latents() -> Latents {
        let values = |scale: f32| (0..6).map(|i| scale * (i as f32 - 2.5) / 3.0).collect();
        Latents { dim: 3, mean: values(1.0), log_variance: values(-7.0) }
    }

    fn written(format: &str) -> Vec<u8> {
        let latents = latents();
        let images = Images::new(Shape::grey(28, 28), vec![0; 2 * PIXELS], vec![4, 9]).unwrap();
        Table::new(&images, &latents).to_bytes(format).unwrap()
    }

    #[test]
    fn every_format_gives_the_means_back_to_the_bit() {
        let folder = tempfile::tempdir().unwrap();
        for format in ["npy", "parquet", "csv"] {
            let path = folder.path().join(format!("a.{format}"));
            let bytes = written(format);
            fs::write(&path, &bytes).unwrap();
            assert_eq!(read(&path, 3).unwrap(), latents().mean, "{format}");
            let error = read(&path, 4).unwrap_err().to_string();
            assert!(error.contains("not a table of 4 latents"), "{error}");
            assert!(read(&path, 2).is_err(), "{format}");
            for bytes in [&bytes[..bytes.len() / 2], b"", b"\x93NUMPY\x01\x00\xff\xff", b"PAR1PAR1"]
            {
                fs::write(&path, bytes).unwrap();
                assert!(read(&path, 3).is_err(), "{format}");
            }
        }
        let text = folder.path().join("a.txt");
        fs::write(&text, "0").unwrap();
        assert!(read(&text, 3).unwrap_err().to_string().contains(".npy, .parquet or .csv"));
    }

    /// Files with one or two bytes changed, and some truncated. Any result is fine, but not a panic.
    #[test]
    fn no_file_makes_a_reader_panic() {
        let mut state = 1_u64;
        let mut draw = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % below
        };
        for (format, rounds) in [("npy", 3_000), ("csv", 3_000), ("parquet", 3_000)] {
            let sound = written(format);
            for _ in 0..rounds {
                let mut bytes = sound.clone();
                for _ in 0..=draw(2) {
                    let place = draw(bytes.len());
                    bytes[place] = draw(256) as u8;
                }
                bytes.truncate(bytes.len() - draw(4) * draw(bytes.len()) / 8);
                let _any_answer = match format {
                    "npy" => npy::read(&bytes, 3),
                    "csv" => csv::read(&bytes, 3),
                    _ => parquet::read(bytes, 3),
                };
            }
        }
    }

    #[test]
    fn columns_are_found_by_name() {
        assert_eq!(columns(&["index", "mean_1", "mean_0"], 2).unwrap(), [2, 1]);
        assert_eq!(columns(&["", "0", "1"], 2).unwrap(), [1, 2]);
        // Columns named by numbers, beside named means, have another meaning.
        assert_eq!(columns(&["0", "mean_0"], 1).unwrap(), [1]);
        assert!(columns(&["0", "1", "2"], 2).unwrap_err().to_string().contains("a column 2"));
        assert!(columns(&["x"], 1).unwrap_err().to_string().contains("no column mean_0"));
    }

    #[test]
    fn what_is_no_number_is_named_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("z.npy");
        fs::write(&path, array(&[2, 2], &[0.0, 1.0, f32::NAN, 2.0])).unwrap();
        let error = read(&path, 2).unwrap_err().to_string();
        assert!(error.contains("a finite number in row 1 (from 0) of latent 0"), "{error}");
    }
}
