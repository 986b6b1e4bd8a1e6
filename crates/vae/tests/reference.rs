//! The hand-written VAE and Adam give the same results as PyTorch.
//!
//! `tests/reference/make_reference.py` of the workspace writes the reference file.

use std::{error::Error, fs, path::Path};

use model::{Adam, Layout, Model, State};
use safetensors::SafeTensors;
use vae::Vae;
use vae_options::{Architecture, Likelihood, ModelConfig};

type Outcome = Result<(), Box<dyn Error>>;

/// The largest |a - b| of a tensor, relative to its largest |b|.
const TOLERANCE: f64 = 1e-5;

/// The same constants as in `make_reference.py`.
const HIDDEN: u32 = 16;
const LATENT: u32 = 4;
const IMAGES: u32 = 6;
const STEPS: usize = 3;
const LEARNING_RATE: f64 = 1e-3;
const SAMPLE_FROM: usize = 1000;
const SAMPLE_STRIDE: usize = 29;

#[test]
fn bernoulli() -> Outcome {
    check("bernoulli.1.0", Likelihood::Bernoulli, 1.0)
}

#[test]
fn bernoulli_with_half_the_divergence() -> Outcome {
    check("bernoulli.0.5", Likelihood::Bernoulli, 0.5)
}

#[test]
fn gaussian() -> Outcome {
    check("gaussian.1.0", Likelihood::Gaussian, 1.0)
}

#[test]
fn gaussian_with_half_the_divergence() -> Outcome {
    check("gaussian.0.5", Likelihood::Gaussian, 0.5)
}

/// Three training steps from PyTorch's initial parameters, with PyTorch's noise.
fn check(case: &str, likelihood: Likelihood, beta: f64) -> Outcome {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference");
    let bytes = fs::read(path.join("reference.safetensors"))?;
    let file = SafeTensors::deserialize(&bytes)?;
    let config = ModelConfig {
        image: vae_options::MNIST_IMAGE,
        architecture: Architecture::Dense,
        hidden_dim: HIDDEN,
        latent_dim: LATENT,
        likelihood,
        beta,
    };
    let mut vae = Vae::new(&config)?;
    let layout = vae.layout().clone();

    let mut state = State::initial(&vae, 0);
    for entry in layout.entries() {
        let tensor = file.tensor(&format!("initial.{}", entry.name))?;
        assert_eq!(tensor.shape(), entry.shape, "{}", entry.name);
        state.parameters[entry.range.clone()].copy_from_slice(&floats(tensor.data()));
    }
    let pixels = file.tensor("pixels")?.data().iter().map(|&x| f32::from(x) / 255.0);
    let pixels: Vec<f32> = pixels.collect();
    let noise = floats(file.tensor("noise")?.data());
    let mut gradient = vec![f32::NAN; layout.len()];
    let adam = Adam::new(LEARNING_RATE);

    for (step, noise) in (1..=STEPS).zip(noise.chunks(noise.len() / STEPS)) {
        let sums = vae.gradient_from(&state.parameters, &pixels, noise, &mut gradient);
        let expected = doubles(file.tensor(&format!("{case}.terms.{step}"))?.data());
        for (found, expected) in sums.terms.iter().zip(&expected) {
            close(&[found / f64::from(IMAGES)], &[*expected], &format!("terms of step {step}"));
        }
        if step == 1 {
            let mean: Vec<f32> = gradient.iter().map(|sum| sum / IMAGES as f32).collect();
            compare(&file, &format!("{case}.gradient"), &layout, &mean)?;
            for entry in layout.entries() {
                let values = &mean[entry.range.clone()];
                let norm = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
                let name = format!("{case}.gradient_norm.{}", entry.name);
                close(&[norm], &doubles(file.tensor(&name)?.data()), &name);
            }
        }
        adam.apply(&mut state, &gradient, IMAGES);
        if step == 1 || step == STEPS {
            compare(&file, &format!("{case}.after_{step}"), &layout, &state.parameters)?;
        }
    }
    Ok(())
}

/// Compares every tensor of `vector` with the tensor of that name in the file.
fn compare(file: &SafeTensors<'_>, prefix: &str, layout: &Layout, vector: &[f32]) -> Outcome {
    for entry in layout.entries() {
        let name = format!("{prefix}.{}", entry.name);
        let values = &vector[entry.range.clone()];
        let stride = if values.len() > SAMPLE_FROM { SAMPLE_STRIDE } else { 1 };
        let found: Vec<f64> = values.iter().step_by(stride).map(|&x| x.into()).collect();
        let expected = floats(file.tensor(&name)?.data());
        let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
        close(&found, &expected, &name);
    }
    Ok(())
}

#[track_caller]
fn close(found: &[f64], expected: &[f64], name: &str) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let largest = expected.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
    assert!(largest > 0.0, "{name} is zero: nothing is compared");
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= TOLERANCE * largest, "{name}: {a} is not {b}");
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

fn doubles(bytes: &[u8]) -> Vec<f64> {
    bytes.as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect()
}
