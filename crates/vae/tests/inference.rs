//! A trained model encodes, decodes and reconstructs, with the same results for any batch.

use std::error::Error;

use data::{Batch, Domain, Stream};
use images::{Images, PIXELS};
use model::{Adam, Isa, Model, State, StepContext, noise};
use vae::Vae;
use vae_options::{Architecture, Likelihood, ModelConfig};

const LATENT: usize = 3;

fn config(likelihood: Likelihood) -> ModelConfig {
    ModelConfig {
        image: vae_options::MNIST_IMAGE,
        architecture: Architecture::Dense,
        hidden_dim: 24,
        latent_dim: LATENT as u32,
        likelihood,
        beta: 1.0,
    }
}

/// Four kinds of images, each with another quarter of the rows white.
fn images() -> Images {
    let quarter = |kind: usize| {
        (0..PIXELS).map(move |pixel| if pixel / (PIXELS / 4) == kind { 255 } else { 0 })
    };
    let pixels = (0..16).flat_map(|image| quarter(image % 4)).collect();
    Images::new(images::Shape::grey(28, 28), pixels, vec![0; 16]).expect("whole images")
}

fn train(vae: &mut Vae, images: &Images) -> (State, f64, f64) {
    let indices: Vec<u32> = (0..16).collect();
    let batch = Batch::of(images, &indices);
    let mut state = State::initial(vae, 5);
    let mut gradient = vec![0.0; vae.layout().len()];
    let mut losses = Vec::new();
    for step in 0..400 {
        let noise = Stream::new(5, Domain::Noise, step, 0);
        let sums = vae
            .gradient(&state.parameters, &batch, &StepContext::alone(noise), &mut gradient)
            .unwrap();
        losses.push(sums.terms[0] / 16.0);
        Adam::new(5e-3).apply(&mut state, &gradient, 16);
    }
    (state, losses[0], losses[399])
}

#[test]
fn training_learns_to_reconstruct() -> Result<(), Box<dyn Error>> {
    for likelihood in [Likelihood::Bernoulli, Likelihood::Gaussian] {
        let images = images();
        let mut vae = Vae::new(&config(likelihood))?;
        let (state, first, last) = train(&mut vae, &images);
        assert!(last < 0.2 * first, "{likelihood:?}: from {first} to {last}");

        let batch = Batch::of(&images, &[0, 1, 2, 3]);
        let mut pixels = vec![0.0; 4 * PIXELS];
        let stream = Stream::new(5, Domain::Evaluation, 0, 0);
        vae.reconstruct(&state.parameters, &batch, stream, &mut pixels);
        let mut expected = vec![0.0; 4 * PIXELS];
        batch.data.gather_pixels(batch.indices, &mut expected);
        let right = pixels.iter().zip(&expected).filter(|(a, b)| (*a - *b).abs() < 0.5).count();
        assert!(right > 4 * PIXELS * 95 / 100, "{likelihood:?}: {right} pixels");
        assert!(pixels.iter().all(|pixel| (0.0..=1.0).contains(pixel)));
    }
    Ok(())
}

/// A reconstruction is the same as encoding, sampling and decoding, one after the other.
#[test]
fn the_parts_make_the_whole() -> Result<(), Box<dyn Error>> {
    let images = images();
    let mut vae = Vae::new(&config(Likelihood::Bernoulli))?;
    let mut parameters = vec![0.0; vae.layout().len()];
    vae.initialise(2, &mut parameters);
    let batch = Batch::of(&images, &[0, 5, 10]);
    let (mut mean, mut log_variance) = ([0.0; 3 * LATENT], [0.0; 3 * LATENT]);
    vae.encode(&parameters, &batch, &mut mean, &mut log_variance);
    let stream = Stream::new(1, Domain::Sample, 0, 0);
    let mut z = [0.0; 3 * LATENT];
    noise::normals(Isa::best(), stream, &mut z);
    for (z, (mean, log_variance)) in z.iter_mut().zip(mean.iter().zip(&log_variance)) {
        *z = mean + (0.5 * log_variance).exp() * *z;
    }
    let mut parts = vec![0.0; 3 * PIXELS];
    vae.decode(&parameters, &z, &mut parts);
    let mut whole = vec![0.0; 3 * PIXELS];
    vae.reconstruct(&parameters, &batch, stream, &mut whole);
    assert!(parts.iter().zip(&whole).all(|(a, b)| (a - b).abs() < 1e-5));
    Ok(())
}
