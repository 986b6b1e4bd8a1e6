//! Sizes that no model can have are refused with an error that names the size.

use images::PIXELS;
use model::{Model, ModelError};
use vae::Vae;
use vae_options::{Architecture, Likelihood, ModelConfig};

fn config(hidden_dim: u32, latent_dim: u32) -> ModelConfig {
    ModelConfig {
        image: vae_options::MNIST_IMAGE,
        architecture: Architecture::Dense,
        hidden_dim,
        latent_dim,
        likelihood: Likelihood::Gaussian,
        beta: 1.0,
    }
}

#[test]
fn zero_is_refused_by_name() {
    for (sizes, expected) in [((0, 1), "hidden_dim"), ((1, 0), "latent_dim")] {
        let error = Vae::new(&config(sizes.0, sizes.1)).unwrap_err();
        assert!(
            matches!(error, ModelError::Size { name, value: 0, .. } if name == expected),
            "{error}"
        );
    }
}

#[test]
fn sizes_beyond_memory_are_refused_with_the_bytes() {
    // At least 16 bytes per parameter of the square middle layers.
    for (hidden, bytes_min) in [(1 << 24, 1_u64 << 53), (i32::MAX as u32, u64::MAX)] {
        let error = Vae::new(&config(hidden, 20)).unwrap_err();
        assert!(matches!(error, ModelError::Memory { bytes, .. } if bytes >= bytes_min), "{error}");
        assert!(error.to_string().contains(&format!("hidden_dim {hidden}")), "{error}");
    }
    for (hidden, latent) in [(u32::MAX, 20), (400, u32::MAX), (400, 1 << 30)] {
        let error = Vae::new(&config(hidden, latent)).unwrap_err();
        assert!(matches!(error, ModelError::Size { .. }), "{error}");
    }
}

#[test]
fn a_batch_beyond_memory_is_refused() {
    let mut vae = Vae::new(&config(16, 4)).unwrap();
    for images in [1 << 40, usize::MAX] {
        let error = vae.reserve(images).unwrap_err();
        assert!(matches!(error, ModelError::Memory { .. }), "{error}");
        assert!(error.to_string().contains("batch"), "{error}");
    }
    assert_eq!(vae.reserve(8), Ok(()));
}

#[test]
fn beta_must_be_a_finite_number_not_below_zero() {
    for beta in [-1.0, f64::NAN, f64::INFINITY] {
        let error = Vae::new(&ModelConfig { beta, ..config(16, 4) }).unwrap_err();
        assert!(matches!(error, ModelError::Number { name: "beta", .. }), "{error}");
    }
}

#[test]
fn the_layout_is_that_of_the_pytorch_module() {
    let vae = Vae::new(&config(400, 20)).unwrap();
    let found: Vec<_> = vae
        .layout()
        .entries()
        .iter()
        .map(|entry| (entry.name.as_str(), entry.shape.as_slice()))
        .collect();
    let expected: [(&str, &[usize]); 13] = [
        ("encoder.0.weight", &[400, PIXELS]),
        ("encoder.0.bias", &[400]),
        ("encoder.2.weight", &[400, 400]),
        ("encoder.2.bias", &[400]),
        ("encoder.4.weight", &[40, 400]),
        ("encoder.4.bias", &[40]),
        ("decoder.0.weight", &[400, 20]),
        ("decoder.0.bias", &[400]),
        ("decoder.2.weight", &[400, 400]),
        ("decoder.2.bias", &[400]),
        ("decoder.4.weight", &[PIXELS, 400]),
        ("decoder.4.bias", &[PIXELS]),
        ("log_variance", &[1]),
    ];
    assert_eq!(found, expected);
    assert_eq!(vae.layout().parameters() as u64, config(400, 20).parameters());
}
