//! A table of latents: what `vae encode` writes and `vae decode` reads.
//!
//! A row an image: its index in the set, its label, and mean and log-variance of every
//! dimension. The format is chosen by the file's extension.

mod csv;
mod npy;
mod parquet;

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use data::Images;

pub(crate) use npy::array;

use crate::trained::Latents;

/// Bytes of a table that are read at the most.
const FILE_BYTES_MAX: u64 = 4 << 30;

/// Latents with what they are of.
#[derive(Debug)]
pub(crate) struct Table<'a> {
    pub(crate) labels: Vec<u8>,
    pub(crate) latents: &'a Latents,
}

/// How a table is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// A NumPy array of records.
    Npy,
    /// Apache Parquet, a column a number.
    Parquet,
    /// Text, a line a row.
    Csv,
}

impl Format {
    /// The format that an extension stands for.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("npy") => Ok(Self::Npy),
            Some("parquet") => Ok(Self::Parquet),
            Some("csv") => Ok(Self::Csv),
            _ => bail!("{}: a table of latents ends in .npy, .parquet or .csv", path.display()),
        }
    }
}

impl<'a> Table<'a> {
    pub(crate) fn new(images: &Images, latents: &'a Latents) -> Self {
        let labels = (0..images.len()).map(|index| images.label(index as u32)).collect();
        Self { labels, latents }
    }

    /// The file's bytes.
    pub(crate) fn to_bytes(&self, format: Format) -> Result<Vec<u8>> {
        match format {
            Format::Npy => Ok(npy::write(self)),
            Format::Parquet => parquet::write(self),
            Format::Csv => Ok(csv::write(self).into_bytes()),
        }
    }

    /// Each row's label, mean and log-variance.
    fn rows(&self) -> impl Iterator<Item = (u8, &[f32], &[f32])> {
        let Latents { dim, mean, log_variance } = self.latents;
        let moments = mean.chunks_exact(*dim).zip(log_variance.chunks_exact(*dim));
        self.labels.iter().zip(moments).map(|(label, (mean, lv))| (*label, mean, lv))
    }
}

/// The means `[n, dim]` in a table's file.
pub(crate) fn read(path: &Path, dim: usize) -> Result<Vec<f32>> {
    let format = Format::of(path)?;
    let shown = path.display();
    let size = fs::metadata(path).with_context(|| format!("cannot read {shown}"))?.len();
    ensure!(size <= FILE_BYTES_MAX, "{shown} is too large: {size} bytes");
    let bytes = fs::read(path).with_context(|| format!("cannot read {shown}"))?;
    let means = match format {
        Format::Npy => npy::read(&bytes, dim),
        Format::Parquet => parquet::read(bytes, dim),
        Format::Csv => csv::read(&bytes, dim),
    };
    let means = means.with_context(|| format!("{shown} is no table of {dim} latents"))?;
    ensure!(!means.is_empty(), "{shown} has no rows");
    ensure!(means.iter().all(|mean| mean.is_finite()), "{shown} holds what is no finite number");
    Ok(means)
}

#[cfg(test)]
mod tests {
    use data::PIXELS;

    use super::*;

    fn latents() -> Latents {
        let values = |scale: f32| (0..6).map(|i| scale * (i as f32 - 2.5) / 3.0).collect();
        Latents { dim: 3, mean: values(1.0), log_variance: values(-7.0) }
    }

    #[test]
    fn every_format_gives_the_means_back_to_the_bit() {
        let latents = latents();
        let images = Images::new(vec![0; 2 * PIXELS], vec![4, 9]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.npy", "a.parquet", "a.csv"] {
            let path = folder.path().join(name);
            let bytes = Table::new(&images, &latents).to_bytes(Format::of(&path).unwrap()).unwrap();
            fs::write(&path, &bytes).unwrap();
            assert_eq!(read(&path, 3).unwrap(), latents.mean, "{name}");
            let error = read(&path, 4).unwrap_err().to_string();
            assert!(error.contains("no table of 4 latents"), "{error}");
            for bytes in [&bytes[..bytes.len() / 2], b"", b"\x93NUMPY\x01\x00\xff\xff", b"PAR1PAR1"]
            {
                fs::write(&path, bytes).unwrap();
                assert!(read(&path, 3).is_err(), "{name}");
            }
        }
        assert!(Format::of(Path::new("a.txt")).is_err());
    }

    #[test]
    fn a_plain_array_will_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("z.npy");
        fs::write(&path, array(&[2, 3], &latents().mean)).unwrap();
        assert_eq!(read(&path, 3).unwrap(), latents().mean);
        assert!(read(&path, 2).is_err());
    }
}
