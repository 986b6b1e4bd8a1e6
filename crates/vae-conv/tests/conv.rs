//! The convolutional VAE: pictures of every shape, and the start-up checks that every model must pass.

use data::{Batch, Domain, Splits, Stream};
use images::{Images, Shape};
use model::{Adam, Device, Isa, Model, State, StepContext, noise};
use trainer::{Metric, checks};
use vae::{Codec, Settings};
use vae_conv::conv_vae;
use vae_options::{Architecture, Likelihood, ModelConfig};

const COUNT: u32 = 6;

const LATENT: usize = 4;

fn config(shape: Shape, likelihood: Likelihood) -> ModelConfig {
    ModelConfig {
        image: [shape.height, shape.width, shape.channels],
        architecture: Architecture::Conv,
        hidden_dim: 256,
        latent_dim: LATENT as u32,
        likelihood,
        beta: 1.0,
    }
}

/// Discs of different sizes.
fn pictures(shape: Shape) -> Images {
    let disc = |index: u32| {
        (0..shape.bytes()).map(move |at| {
            let pixel = at as u32 / shape.channels;
            let (x, y) = (pixel % shape.width, pixel / shape.width);
            let (dx, dy) = (x.abs_diff(shape.width / 2), y.abs_diff(shape.height / 2));
            if dx * dx + dy * dy < (3 + index).pow(2) { 230 } else { 10 }
        })
    };
    Images::new(shape, (0..COUNT).flat_map(disc).collect(), Vec::new()).unwrap()
}

#[test]
fn pictures_of_any_shape_are_learned() {
    let colour = |height, width| Shape { height, width, channels: 3 };
    let shapes = [Shape::grey(28, 28), Shape::grey(29, 35), colour(32, 30), colour(64, 64)];
    let likelihoods = [Likelihood::Bernoulli, Likelihood::Gaussian];
    for (shape, likelihood) in shapes.into_iter().zip(likelihoods.into_iter().cycle()) {
        let settings = Settings::default();
        let mut model = conv_vae(&config(shape, likelihood), settings, Device::Cpu).unwrap();
        let images = pictures(shape);
        let indices: Vec<u32> = (0..COUNT).collect();
        let batch = Batch::of(&images, &indices);
        let random = |step| Stream::new(1, Domain::Noise, step, 0);
        let mut state = State::initial(&model, 1);
        let mut gradient = vec![0.0; model.layout().len()];
        let before = model.evaluate(&state.parameters, &batch, random(0)).unwrap().terms;
        for step in 0..15 {
            let context = StepContext::alone(random(step));
            model.gradient(&state.parameters, &batch, &context, &mut gradient).unwrap();
            Adam::new(2e-3).apply(&mut state, &gradient, COUNT);
        }
        let after = model.evaluate(&state.parameters, &batch, random(0)).unwrap().terms;
        assert!(after[0] < 0.7 * before[0], "{shape}: from {before:?} to {after:?}");
    }
}

#[test]
fn it_passes_the_start_up_checks() {
    let shape = Shape::grey(28, 28);
    let metric = |name| Metric { name, unit: "nats" };
    let metrics = ["loss", "reconstruction", "kl"].map(metric);
    let config = config(shape, Likelihood::Bernoulli);
    for samples in [1, 3] {
        let settings = Settings { samples, ..Settings::default() };
        let mut model = conv_vae(&config, settings, Device::Cpu).unwrap();
        let data = Splits { train: pictures(shape), test: pictures(shape) };
        checks::model(&mut model, &data, &metrics, 3).unwrap();
    }
}

#[test]
fn pictures_that_are_too_small_or_too_large_are_refused() {
    for shape in [Shape::grey(7, 28), Shape::grey(28, 257)] {
        let config = config(shape, Likelihood::Bernoulli);
        let built = conv_vae(&config, Settings::default(), Device::Cpu);
        assert!(built.is_err_and(|error| error.to_string().contains("8 to 256")));
    }
}

#[test]
fn the_options_know_how_many_parameters_there_are() {
    let colour = |height, width| Shape { height, width, channels: 3 };
    let shapes = [Shape::grey(28, 28), Shape::grey(8, 9), colour(29, 37), colour(256, 100)];
    for shape in shapes {
        for likelihood in [Likelihood::Bernoulli, Likelihood::Gaussian] {
            let config = config(shape, likelihood);
            let model = conv_vae(&config, Settings::default(), Device::Cpu).unwrap();
            assert_eq!(config.parameters(), model.layout().parameters() as u64, "{shape}");
        }
    }
}

/// The results of encoding, decoding and reconstruction are those of the objective, and do not depend on
/// other images of a batch.
#[test]
fn the_parts_make_the_whole() {
    let shape = Shape { height: 29, width: 30, channels: 3 };
    for likelihood in [Likelihood::Bernoulli, Likelihood::Gaussian] {
        let settings = Settings::default();
        let mut model = conv_vae(&config(shape, likelihood), settings, Device::Cpu).unwrap();
        let parameters = State::initial(&model, 3).parameters;
        let images = pictures(shape);
        let indices: Vec<u32> = (0..COUNT).collect();
        let (batch, count) = (Batch::of(&images, &indices), COUNT as usize);
        let (mut mean, mut log_variance) = (vec![0.0; count * LATENT], vec![0.0; count * LATENT]);
        model.encode(&parameters, &batch, &mut mean, &mut log_variance).unwrap();
        let stream = Stream::new(1, Domain::Evaluation, 0, 0);
        let mut z = vec![0.0; count * LATENT];
        noise::normals(Isa::best(), stream, &mut z);
        for (z, (mean, log_variance)) in z.iter_mut().zip(mean.iter().zip(&log_variance)) {
            *z = mean + (0.5 * log_variance).exp() * *z;
        }
        let mut losses = vec![0.0; count];
        model.reconstruction(&parameters, &batch, &z, &mut losses).unwrap();
        let expected = model.evaluate(&parameters, &batch, stream).unwrap().terms[1];
        let found: f64 = losses.iter().sum();
        assert!((found - expected).abs() < 1e-5 * expected.abs(), "{found} is not {expected}");

        let mut pixels = vec![0.0; count * shape.bytes()];
        model.decode(&parameters, &z, &mut pixels).unwrap();
        assert!(pixels.iter().all(|pixel| (0.0..=1.0).contains(pixel)));
        let mut whole = vec![0.0; count * shape.bytes()];
        model.reconstruct(&parameters, &batch, stream, &mut whole).unwrap();
        assert_eq!(pixels, whole);

        let twice: Vec<f32> = [&z[..LATENT], &z[..LATENT]].concat();
        let mut losses_of_one = [0.0; 2];
        let one = Batch::of(&images, &indices[..1]);
        model.reconstruction(&parameters, &one, &twice, &mut losses_of_one).unwrap();
        assert_eq!(losses_of_one[0], losses_of_one[1]);
        assert!((losses_of_one[0] - losses[0]).abs() < 1e-5 * losses[0].abs());
    }
}
