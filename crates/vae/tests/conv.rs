//! The convolutional VAE: pictures of every shape, and what the start-up checks ask of any model.

use data::{Batch, Domain, Splits, Stream};
use images::{Images, Shape};
use model::{Adam, Model, State, StepContext};
use tch::Device;
use trainer::{Metric, checks};
use vae::{Settings, conv_vae};
use vae_options::{Architecture, Likelihood, ModelConfig, VaeOptions};

const COUNT: u32 = 6;

fn config(shape: Shape, likelihood: Likelihood) -> ModelConfig {
    let image = [shape.height, shape.width, shape.channels];
    ModelConfig { image, hidden_dim: 1, latent_dim: 4, likelihood, beta: 1.0 }
}

/// Discs of several sizes.
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
fn the_options_know_how_many_parameters_there_are() {
    for (image, latent_dim) in [([28, 28, 1], 20), ([64, 48, 3], 7), ([29, 31, 1], 2)] {
        let architecture = Architecture::Conv;
        let options = VaeOptions { architecture, image, latent_dim, ..VaeOptions::default() };
        options.validate().unwrap();
        let model = conv_vae(&options.model(), Settings::default(), Device::Cpu).unwrap();
        assert_eq!(model.layout().parameters() as u64, options.parameters());
    }
    let small =
        VaeOptions { architecture: Architecture::Conv, image: [7, 28, 1], ..VaeOptions::default() };
    assert!(small.validate().unwrap_err().to_string().contains("height"));
}
