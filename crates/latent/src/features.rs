//! Compares the errors of linear classifiers of three kinds of features: the latent means, as many principal
//! components, and the pixels themselves.

use anyhow::Result;
use data::Splits;
use images::Images;
use serde::Serialize;
use tch::{Kind, Tensor};

use crate::{logistic::Logistic, pca::Pca, progress::Progress, trained::Trained};

/// The numbers of labels to train with; at most the number of images.
const LABELS: [usize; 3] = [100, 1_000, 60_000];

/// Errors on the test images as shares of 1, by the number of labels used for training.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Errors {
    pub(crate) labels: usize,
    pub(crate) latent_means: f64,
    pub(crate) principal_components: f64,
    pub(crate) pixels: f64,
}

/// Features of one kind, of the training and the test images.
struct Features {
    train: Tensor,
    test: Tensor,
}

/// Returns the pixel classifier trained on all labels, and the errors of all classifiers.
pub(crate) fn compare(
    trained: &mut Trained,
    mnist: &Splits<Images>,
) -> Result<(Logistic, Vec<Errors>)> {
    let (dim, width) = (trained.dim(), trained.pixels());
    let classes = mnist.train.label_count().max(mnist.test.label_count()) as usize;
    let (train_pixels, test_pixels) = (pixels(&mnist.train), pixels(&mnist.test));
    let pca = Pca::fit(&train_pixels, width, dim);
    let project = |pixels: &[f32]| pca.project(pixels);
    let components = Features::standard(&project(&train_pixels), &project(&test_pixels), dim);
    let (train, test) = (trained.encode(&mnist.train)?, trained.encode(&mnist.test)?);
    let means = Features::standard(&train.mean, &test.mean, dim);
    let pixels = Features { train: rows(&train_pixels, width), test: rows(&test_pixels, width) };
    let (train_labels, test_labels) = (labels(&mnist.train), labels(&mnist.test));

    let mut counts = LABELS.map(|count| count.min(mnist.train.len())).to_vec();
    counts.dedup();
    let bar = Progress::new("Reading features", 3 * counts.len());
    let fit = |features: &Features, count: usize| {
        let count = count as i64;
        let x = features.train.narrow(0, 0, count);
        let reader = Logistic::fit(&x, &train_labels.narrow(0, 0, count), classes);
        bar.inc(1);
        (reader.error(&features.test, &test_labels), reader)
    };
    let mut reader = None;
    let errors = counts.into_iter().map(|labels| {
        let (latent_means, _) = fit(&means, labels);
        let (principal_components, _) = fit(&components, labels);
        let (pixels, of_pixels) = fit(&pixels, labels);
        reader = Some(of_pixels);
        Errors { labels, latent_means, principal_components, pixels }
    });
    let errors: Vec<Errors> = errors.collect();
    let reader = reader.unwrap_or_else(|| fit(&pixels, mnist.train.len()).1);
    Ok((reader, errors))
}

impl Features {
    /// Scales each dimension to mean 0 and variance 1 over the training images.
    fn standard(train: &[f32], test: &[f32], dim: usize) -> Self {
        let (train, test) = (rows(train, dim), rows(test, dim));
        let mean = train.mean_dim(0, true, Kind::Float);
        let spread = (&train - &mean).square().mean_dim(0, true, Kind::Float).sqrt() + 1e-6;
        Self { train: (train - &mean) / &spread, test: (test - mean) / spread }
    }
}

fn rows(values: &[f32], dim: usize) -> Tensor {
    Tensor::from_slice(values).view([-1, dim as i64])
}

/// All pixels from 0 to 1, one row per image.
fn pixels(images: &Images) -> Vec<f32> {
    let levels = (0..images.len()).flat_map(|index| images.image(index as u32));
    levels.map(|level| f32::from(*level) / 255.0).collect()
}

fn labels(images: &Images) -> Tensor {
    let mut labels = Vec::new();
    let indices: Vec<u32> = (0..images.len() as u32).collect();
    images.gather_labels(&indices, &mut labels);
    Tensor::from_slice(&labels)
}
