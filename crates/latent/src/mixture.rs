//! A Gaussian mixture fitted to latents by expectation maximisation, and its file.
//!
//! Dempster, Laird and Rubin 1977; each component has its own full covariance. The mixture is fitted
//! to draws from q(z|x), not to their means, because the decoder was trained on draws.

use std::{collections::HashMap, path::Path};

use anyhow::{Context as _, Result, ensure};
use data::{Domain, Stream};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use tch::{Device, Kind, Tensor};

use crate::{
    input,
    pca::floats,
    progress::Progress,
    threads,
    trained::{Purpose, normals},
};

const ITERATIONS_MAX: usize = 60;
/// The most rows that are fitted; the first ones are taken. More would cost time and change little.
const ROWS_MAX: usize = 20_000;
/// The fit ends when an iteration gains less than this, in nats per image.
const GAIN_MIN: f64 = 1e-3;
/// Added to every variance, so that no component collapses onto a point.
const FLOOR: f64 = 1e-4;
/// The most bytes of a mixture's file.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// The metadata field with the digest of the model that a mixture belongs to.
const MODEL: &str = "model_sha256";

/// Bytes that every mixture file holds.
pub(crate) const MARK: &[u8] = b"\"model_sha256\":";

/// Components in `dim` dimensions.
#[derive(Debug)]
pub(crate) struct Mixture {
    /// `[k]`; their sum is 1.
    weights: Tensor,
    /// `[k, dim]`.
    means: Tensor,
    /// Lower triangular matrices L, `[k, dim, dim]`; the covariances are L L'.
    factors: Tensor,
}

impl Mixture {
    /// Fits `k` components to rows of `dim` values, or as many components as there are rows, if that is fewer.
    pub(crate) fn fit(rows: &[f32], dim: usize, k: usize, seed: u64) -> Self {
        let x = table(&rows[..rows.len().min(ROWS_MAX * dim)], dim);
        let count = x.size()[0];
        let k = (k as i64).min(count);
        let starts = Tensor::from_slice(&starts(count, k, seed));
        let spread = (&x - x.mean_dim(0, true, Kind::Double)).tr();
        let covariance = spread.matmul(&spread.tr()) / count as f64 + floor(dim);
        let mut mixture = Self {
            weights: Tensor::full([k], 1.0 / k as f64, (Kind::Double, Device::Cpu)),
            means: x.index_select(0, &starts),
            factors: covariance.linalg_cholesky(false).unsqueeze(0).repeat([k, 1, 1]),
        };
        let bar = Progress::new("Fitting the mixture", ITERATIONS_MAX);
        let mut last = f64::NEG_INFINITY;
        for _ in 0..ITERATIONS_MAX {
            let joint = mixture.joint(&x);
            let density = joint.logsumexp(1, true);
            let now = density.mean(Kind::Double).double_value(&[]);
            mixture.maximise(&x, &(joint - density).exp());
            bar.inc(1);
            if now - last < GAIN_MIN {
                break;
            }
            last = now;
        }
        mixture
    }

    /// Sets the parameters to the most likely ones, given the share `[n, k]` of each component in each row.
    fn maximise(&mut self, x: &Tensor, shares: &Tensor) {
        let dim = x.size()[1];
        let mass = shares.sum_dim_intlist(0, false, Kind::Double) + 1e-10;
        self.weights = &mass / mass.sum(Kind::Double);
        self.means = shares.tr().matmul(x) / mass.unsqueeze(1);
        let part =
            |k: i64| (x.shallow_clone(), self.means.get(k), shares.select(1, k), mass.get(k));
        let parts = (0..self.components()).map(part).collect();
        let factors = threads::map(parts, |(x, mean, shares, mass)| {
            let spread = x - mean;
            let weighted = &spread * shares.unsqueeze(1);
            let covariance = weighted.tr().matmul(&spread) / mass;
            (covariance + floor(dim as usize)).linalg_cholesky(false)
        });
        self.factors = Tensor::stack(&factors, 0);
    }

    fn components(&self) -> i64 {
        self.weights.size()[0]
    }

    fn dim(&self) -> usize {
        self.means.size()[1] as usize
    }

    /// The log of weight times density, `[n, k]`.
    fn joint(&self, x: &Tensor) -> Tensor {
        let constant = 0.5 * self.dim() as f64 * std::f64::consts::TAU.ln();
        let part = |k: i64| (x.shallow_clone(), self.means.get(k), self.factors.get(k));
        let parts = (0..self.components()).map(part).collect();
        let columns = threads::map(parts, |(x, mean, factor)| {
            let unit = (x - mean).matmul(&Tensor::linalg_inv(&factor).tr());
            let log_root = factor.diagonal(0, 0, 1).log().sum(Kind::Double);
            unit.square().sum_dim_intlist(1, false, Kind::Double) * -0.5 - log_root - constant
        });
        Tensor::stack(&columns, 1) + self.weights.log()
    }

    /// The mean log density of rows, in nats.
    pub(crate) fn log_density(&self, rows: &[f32]) -> f64 {
        let joint = self.joint(&table(rows, self.dim()));
        joint.logsumexp(1, false).mean(Kind::Double).double_value(&[])
    }

    /// Draws rows from the mixture; `temperature` scales the spread around each mean.
    pub(crate) fn sample(&self, count: usize, seed: u64, temperature: f32) -> Vec<f32> {
        let dim = self.dim();
        let noise = normals(seed, Purpose::Sample, 0, count * dim);
        let weights: Vec<f64> = floats(&self.weights);
        let (means, factors): (Vec<f64>, Vec<f64>) = (floats(&self.means), floats(&self.factors));
        let stream = Stream::new(seed, Domain::Sample, Purpose::Sample as u64, 1);
        let mut rows = Vec::with_capacity(count * dim);
        for (index, noise) in noise.chunks_exact(dim).enumerate() {
            let [word, ..] = stream.block(index as u32);
            let k = choose(&weights, f64::from(word) / 2.0_f64.powi(32));
            for row in 0..dim {
                let factor = &factors[(k * dim + row) * dim..][..dim];
                let spread: f64 = factor
                    .iter()
                    .zip(noise)
                    .map(|(factor, noise)| factor * f64::from(*noise))
                    .sum();
                rows.push((means[k * dim + row] + spread * f64::from(temperature)) as f32);
            }
        }
        rows
    }

    /// The bytes of a safetensors file with the mixture and the digest of its model.
    pub(crate) fn to_bytes(&self, model_sha256: &str) -> Result<Vec<u8>> {
        let bytes = |tensor: &Tensor| -> Vec<u8> {
            floats::<f64>(tensor).into_iter().flat_map(f64::to_le_bytes).collect()
        };
        let shape = |tensor: &Tensor| tensor.size().iter().map(|side| *side as usize).collect();
        let tensors =
            [("weights", &self.weights), ("means", &self.means), ("factors", &self.factors)];
        let data = tensors.map(|(name, tensor)| (name, shape(tensor), bytes(tensor)));
        let views = data
            .iter()
            .map(|(name, shape, bytes): &(&str, Vec<usize>, Vec<u8>)| {
                Ok((*name, TensorView::new(Dtype::F64, shape.clone(), bytes)?))
            })
            .collect::<Result<Vec<_>>>()?;
        let metadata = HashMap::from([(MODEL.to_owned(), model_sha256.to_owned())]);
        Ok(safetensors::serialize(views, Some(metadata))?)
    }

    /// Reads a file that [`Mixture::to_bytes`] has made for this model.
    pub(crate) fn read(path: &Path, model_sha256: &str, dim: usize) -> Result<Self> {
        let shown = path.display();
        let bytes = input::read(path, FILE_BYTES_MAX)?;
        let (_, header) = SafeTensors::read_metadata(&bytes).with_context(|| foreign(path))?;
        let model = header.metadata().as_ref().and_then(|metadata| metadata.get(MODEL));
        let model = model.with_context(|| foreign(path))?;
        ensure!(
            model == model_sha256,
            "{shown} was fitted to another model: fit one to this model with vae fit-gmm"
        );
        let file = SafeTensors::deserialize(&bytes)?;
        let read = |name: &str, shape: &[usize]| -> Result<Tensor> {
            let tensor = file.tensor(name)?;
            let fits = tensor.shape().len() == shape.len()
                && tensor.shape()[1..] == shape[1..]
                && tensor.dtype() == Dtype::F64;
            ensure!(fits, "{shown}: tensor {name} has shape {:?}", tensor.shape());
            let (values, _) = tensor.data().as_chunks();
            let values: Vec<f64> = values.iter().map(|value| f64::from_le_bytes(*value)).collect();
            let shape: Vec<i64> = tensor.shape().iter().map(|side| *side as i64).collect();
            Ok(Tensor::from_slice(&values).view(&shape[..]))
        };
        Ok(Self {
            weights: read("weights", &[0])?,
            means: read("means", &[0, dim])?,
            factors: read("factors", &[0, dim, dim])?,
        })
    }
}

fn table(rows: &[f32], dim: usize) -> Tensor {
    Tensor::from_slice(rows).view([-1, dim as i64]).to_kind(Kind::Double)
}

fn floor(dim: usize) -> Tensor {
    Tensor::eye(dim as i64, (Kind::Double, Device::Cpu)) * FLOOR
}

/// The index of the weight whose part of the unit interval contains `place`.
fn choose(weights: &[f64], place: f64) -> usize {
    let mut end = 0.0;
    let inside = weights.iter().position(|weight| {
        end += weight;
        place < end
    });
    inside.unwrap_or(weights.len() - 1)
}

/// `k` different rows of `count`, from which the components start.
fn starts(count: i64, k: i64, seed: u64) -> Vec<i64> {
    let stream = Stream::new(seed, Domain::Sample, Purpose::Mixture as u64, 0);
    let mut words = (0..).flat_map(|block| stream.block(block));
    let mut found = Vec::new();
    while (found.len() as i64) < k {
        let row = i64::from(words.next().unwrap_or(0)) % count;
        if !found.contains(&row) {
            found.push(row);
        }
    }
    found
}

fn foreign(path: &Path) -> String {
    format!("{} is not a mixture: make one with vae fit-gmm", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEIGHTS: [f64; 2] = [0.25, 0.75];

    /// Two clouds in the plane.
    fn known() -> Mixture {
        let means = Tensor::from_slice(&[-4.0, 0.0, 3.0, 2.0]).view([2, 2]);
        let factors = [0.5, 0.0, 0.0, 0.5, 1.0, 0.0, 0.8, 0.6];
        Mixture {
            weights: Tensor::from_slice(&WEIGHTS),
            means,
            factors: Tensor::from_slice(&factors).view([2, 2, 2]),
        }
    }

    #[test]
    fn what_was_drawn_is_found_again() {
        let rows = known().sample(4000, 3, 1.0);
        let found = Mixture::fit(&rows, 2, 2, 1);
        let weights: Vec<f64> = floats(&found.weights);
        let (small, large) = if weights[0] < weights[1] { (0, 1) } else { (1, 0) };
        assert!((weights[small as usize] - WEIGHTS[0]).abs() < 0.03, "{weights:?}");
        let close = |index: i64, name: &str, found: &Tensor, expected: &Tensor, which: i64| {
            let error = (found.get(index) - expected.get(which)).abs().max().double_value(&[]);
            assert!(error < 0.15, "{name}: {error}");
        };
        for (index, which) in [(small, 0), (large, 1)] {
            close(index, "means", &found.means, &known().means, which);
            close(index, "factors", &found.factors, &known().factors, which);
        }
        let (fitted, true_one) = (found.log_density(&rows), known().log_density(&rows));
        assert!(fitted >= true_one - 0.01 && fitted < true_one + 0.01, "{fitted} {true_one}");
    }

    #[test]
    fn one_component_is_the_mean_and_the_covariance() {
        let rows = known().sample(500, 5, 1.0);
        let found = Mixture::fit(&rows, 2, 1, 0);
        let x = table(&rows, 2);
        let error = (found.means.get(0) - x.mean_dim(0, false, Kind::Double)).abs().max();
        assert!(error.double_value(&[]) < 1e-9);
        let square = found.factors.get(0).matmul(&found.factors.get(0).tr());
        let spread = &x - x.mean_dim(0, true, Kind::Double);
        let error = (square - spread.tr().matmul(&spread) / 500.0 - floor(2)).abs();
        assert!(error.max().double_value(&[]) < 1e-9);
    }

    #[test]
    fn the_density_of_a_standard_normal_is_known() {
        let mixture = Mixture {
            weights: Tensor::from_slice(&[0.5, 0.5]),
            means: Tensor::zeros([2, 3], (Kind::Double, Device::Cpu)),
            factors: Tensor::eye(3, (Kind::Double, Device::Cpu)).unsqueeze(0).repeat([2, 1, 1]),
        };
        let expected = -1.5 * std::f64::consts::TAU.ln() - 0.5 * (1.0 + 4.0 + 0.25);
        assert!((mixture.log_density(&[1.0, -2.0, 0.5]) - expected).abs() < 1e-12);
    }

    #[test]
    fn a_file_is_read_back_for_its_model_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gmm.safetensors");
        std::fs::write(&path, known().to_bytes("model").unwrap()).unwrap();
        let read = Mixture::read(&path, "model", 2).unwrap();
        assert_eq!(read.sample(5, 1, 1.0), known().sample(5, 1, 1.0));
        let other = Mixture::read(&path, "other", 2).unwrap_err().to_string();
        assert!(other.contains("fitted to another model"), "{other}");
        assert!(Mixture::read(&path, "model", 3).is_err());
        std::fs::write(&path, b"nothing").unwrap();
        assert!(Mixture::read(&path, "model", 2).is_err());
    }

    #[test]
    fn fewer_rows_than_components_are_enough() {
        let mixture = Mixture::fit(&[1.0, 2.0, 3.0, 4.0], 2, 9, 0);
        assert_eq!(mixture.components(), 2);
        assert!(mixture.sample(10, 0, 1.0).iter().all(|value| value.is_finite()));
    }
}
