//! bf16 is f32 with less precise factors: its gradients agree with f32, and it trains as well. Tests
//! of tensor cores run on an emulated GPU (`crates/emulated-gpu`).

use std::{env, error::Error, path::PathBuf, process::Command};

use data::{Batch, Domain, Files, Schedule, Stream};
use emulated_gpu::{FOLDER, IS_THERE};
use images::{Images, PIXELS};
use model::{Adam, Layout, Model, State, StepContext, Sums};
use vae::{
    Settings, Vae,
    cuda::{self, Tiles},
};
use vae_options::{Architecture, Likelihood, ModelConfig, Precision};

type Outcome = Result<(), Box<dyn Error>>;

/// The length of a tensor's difference relative to the tensor's own length. A factor has 8 bits, so its
/// error is up to 1/512, and there are up to seven layers in each direction.
const GRADIENT_TOLERANCE: f64 = 1e-2;
/// The same on a GPU, which rounds pixels too.
const GPU_TOLERANCE: f64 = 1.5e-2;
/// The same if a hidden unit may be on in one precision and off in the other. This is not
/// specific to bf16: f32 differs as much if each weight is changed by a thousandth.
const SWITCHING: f64 = 0.1;
/// The same for the sums.
const SUMS_TOLERANCE: f64 = 1e-3;
/// The largest difference of the mean test losses after training.
const NATS: f64 = 0.5;

const LIKELIHOODS: [Likelihood; 2] = [Likelihood::Bernoulli, Likelihood::Gaussian];

fn config(hidden_dim: u32, latent_dim: u32, likelihood: Likelihood) -> ModelConfig {
    ModelConfig {
        image: vae_options::MNIST_IMAGE,
        architecture: Architecture::Dense,
        hidden_dim,
        latent_dim,
        likelihood,
        beta: 1.0,
    }
}

/// Grey bars that differ in place, width and brightness.
fn bars(count: usize) -> Images {
    let pixel = |i: usize| {
        let (image, column) = (i / PIXELS, i % 28);
        let (from, width) = (image * 7 % 20, 2 + image * 3 % 7);
        if (from..from + width).contains(&column) { (150 + image * 5 % 106) as u8 } else { 0 }
    };
    Images::new(
        images::Shape::grey(28, 28),
        (0..count * PIXELS).map(pixel).collect(),
        vec![0; count],
    )
    .expect("whole images")
}

fn difference(found: &[f32], expected: &[f32]) -> f64 {
    let squares = |values: &mut dyn Iterator<Item = f32>| -> f64 {
        values.map(|value| f64::from(value).powi(2)).sum()
    };
    let difference = squares(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    (difference / squares(&mut expected.iter().copied())).sqrt()
}

/// Makes each hidden unit clearly on or off, so that rounding does not decide whether its derivative is one
/// or zero. The sizes follow the layers' initial weights.
fn settle(layout: &Layout, parameters: &mut [f32]) {
    let layers = [("encoder.0", 1.0), ("encoder.2", 2.5), ("decoder.0", 4.0), ("decoder.2", 10.0)];
    for (layer, size) in layers {
        let range = layout.range(&format!("{layer}.bias")).expect("a hidden layer");
        for (unit, bias) in parameters[range].iter_mut().enumerate() {
            *bias = if unit % 2 == 0 { size } else { -size };
        }
    }
}

#[test]
fn the_gradient_is_that_of_f32_within_its_precision() -> Outcome {
    for likelihood in LIKELIHOODS {
        for (hidden, latent, count) in [(400, 20, 64), (400, 20, 3), (129, 31, 127), (64, 5, 256)] {
            let name = format!("{likelihood:?} {hidden} {latent} {count}");
            compare(&config(hidden, latent, likelihood), count, settle, GRADIENT_TOLERANCE, &name)?;
            compare(&config(hidden, latent, likelihood), count, |_, _| {}, SWITCHING, &name)?;
        }
    }
    Ok(())
}

/// Compares gradients and sums of both precisions, at initial parameters after `change`.
fn compare(
    config: &ModelConfig,
    count: usize,
    change: fn(&Layout, &mut [f32]),
    tolerance: f64,
    name: &str,
) -> Outcome {
    let mut vae = Vae::with(config, Settings::default())?;
    let expected = computed(&mut vae, count, change);
    let found = computed(&mut Vae::with(config, bf16())?, count, change);
    agree(vae.layout(), &found, &expected, tolerance, name);
    Ok(())
}

fn bf16() -> Settings {
    Settings { precision: Precision::Bf16, ..Settings::default() }
}

/// The gradient of `count` images and the sums, at initial parameters that `change` has modified.
fn computed(
    vae: &mut dyn Model<Data = Images>,
    count: usize,
    change: fn(&Layout, &mut [f32]),
) -> (Vec<f32>, Sums) {
    let (images, indices) = (bars(count), (0..count as u32).collect::<Vec<_>>());
    let batch = Batch::of(&images, &indices);
    let layout = vae.layout().clone();
    let (mut parameters, mut gradient) = (vec![0.0; layout.len()], vec![f32::NAN; layout.len()]);
    vae.initialise(3, &mut parameters);
    change(&layout, &mut parameters);
    let noise = Stream::new(9, Domain::Noise, 4, 2);
    let sums =
        vae.gradient(&parameters, &batch, &StepContext::alone(noise), &mut gradient).unwrap();
    assert_eq!(vae.evaluate(&parameters, &batch, noise).unwrap(), sums);
    (gradient, sums)
}

#[track_caller]
fn agree(
    layout: &Layout,
    (found, sums): &(Vec<f32>, Sums),
    (expected, expected_sums): &(Vec<f32>, Sums),
    tolerance: f64,
    name: &str,
) {
    check(layout, found, expected, tolerance, name);
    for (found, expected) in sums.terms.iter().zip(expected_sums.terms).take(vae::TERMS) {
        let error = (found - expected).abs() / expected.abs();
        assert!(error <= SUMS_TOLERANCE, "{name}: {found} is not {expected}");
    }
}

/// Small and large tiles give the same bits.
#[test]
#[ignore = "needs a GPU"]
fn the_gpu_of_this_machine_computes_in_bf16() -> Outcome {
    for likelihood in LIKELIHOODS {
        for (hidden, latent, count) in [(129, 31, 70), (64, 5, 33), (40, 20, 3)] {
            let (name, config) =
                (format!("{likelihood:?} {hidden} {count}"), config(hidden, latent, likelihood));
            let mut cpu = Vae::with(&config, Settings::default())?;
            let expected = computed(&mut cpu, count, settle);
            let gpu = |tiles| -> Result<_, Box<dyn Error>> {
                let mut gpu = cuda::Vae::with_tiles(&config, bf16(), 0, tiles)?;
                Ok(computed(&mut gpu, count, settle))
            };
            let (small, large) = (gpu(Tiles::Small)?, gpu(Tiles::Large)?);
            assert!(small == large, "{name}: small and large tiles differ");
            agree(cpu.layout(), &small, &expected, GPU_TOLERANCE, &name);
        }
    }
    Ok(())
}

#[test]
fn an_emulated_gpu_computes_in_bf16_in_every_order_of_threads() {
    for order in ["up", "down", "random"] {
        if IS_THERE {
            let mut folders = vec![PathBuf::from(FOLDER)];
            folders.extend(env::var_os("LD_LIBRARY_PATH").iter().flat_map(env::split_paths));
            let output = Command::new(env::current_exe().unwrap())
                .args(["--ignored", "the_gpu_of_this_machine"])
                .env("LD_LIBRARY_PATH", env::join_paths(folders).unwrap())
                .env("EMULATED_GPU_ORDER", order)
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{order}: {}",
                String::from_utf8_lossy(&output.stdout)
            );
        }
    }
}

#[track_caller]
fn check(layout: &Layout, found: &[f32], expected: &[f32], tolerance: f64, case: &str) {
    for entry in layout.entries() {
        let error = difference(&found[entry.range.clone()], &expected[entry.range.clone()]);
        assert!(error <= tolerance, "{case}, {}: {error}", entry.name);
        assert!(error > 0.0, "{case}, {}: no different from f32", entry.name);
    }
}

/// Pixels given as numbers from 0 to 1 are the same as those read from a batch.
#[test]
fn pixels_are_exact() -> Outcome {
    let mut vae = Vae::with(
        &config(16, 4, Likelihood::Bernoulli),
        Settings { precision: Precision::Bf16, ..Default::default() },
    )?;
    let images = Images::new(
        images::Shape::grey(28, 28),
        (0..2 * PIXELS).map(|i| i as u8).collect(),
        vec![0; 2],
    )?;
    let batch = Batch::of(&images, &[0, 1]);
    let (mut pixels, mut noise) = (vec![0.0; 2 * PIXELS], vec![0.0; 2 * 4]);
    batch.data.gather_pixels(batch.indices, &mut pixels);
    let stream = Stream::new(1, Domain::Noise, 0, 0);
    model::noise::normals(model::Isa::best(), stream, &mut noise);
    let len = vae.layout().len();
    let (mut parameters, mut one, mut other) = (vec![0.0; len], vec![0.0; len], vec![0.0; len]);
    vae.initialise(1, &mut parameters);
    let sums = vae.gradient(&parameters, &batch, &StepContext::alone(stream), &mut one).unwrap();
    assert_eq!(vae.gradient_from(&parameters, &pixels, &noise, &mut other), sums);
    assert!(one == other);
    Ok(())
}

/// The mean test loss in nats, evaluated in f32, after some steps of 64 images.
fn train(
    config: &ModelConfig,
    precision: Precision,
    seed: u64,
    (train, test): (&Images, &Images),
    steps: u64,
) -> Result<f64, Box<dyn Error>> {
    const BATCH: u32 = 64;
    let mut vae = Vae::with(config, Settings { precision, ..Default::default() })?;
    let mut state = State::initial(&vae, seed);
    let mut gradient = vec![0.0; vae.layout().len()];
    let schedule = Schedule::new(seed, train.len() as u32, 1, BATCH);
    let mut order = (u64::MAX, Vec::new());
    for step in 0..steps {
        let position = schedule.locate(step);
        if order.0 != position.epoch {
            order = (position.epoch, schedule.order(position.epoch));
        }
        let places = schedule.positions(position.step, 0);
        let batch = Batch::of(train, &order.1[places]);
        let noise = Stream::new(seed, Domain::Noise, step, 0);
        vae.gradient(&state.parameters, &batch, &StepContext::alone(noise), &mut gradient).unwrap();
        Adam::new(1e-3).apply(&mut state, &gradient, batch.len() as u32);
    }
    let mut loss = 0.0;
    let mut judge = Vae::new(config)?;
    for (part, indices) in (0..test.len() as u32).collect::<Vec<_>>().chunks(500).enumerate() {
        let noise = Stream::new(seed, Domain::Evaluation, 0, part as u32);
        let batch = Batch::of(test, indices);
        loss += judge.evaluate(&state.parameters, &batch, noise).unwrap().terms[0];
    }
    Ok(loss / test.len() as f64)
}

/// Compares the mean test loss of several runs in each precision. Single runs that differ in the last bits
/// end up to two nats apart, in either direction; so do runs in f32.
fn compare_training(config: &ModelConfig, sets: (&Images, &Images), steps: u64) -> Outcome {
    const SEEDS: u64 = 6;
    let mean = |precision| -> Result<f64, Box<dyn Error>> {
        let losses = (1..=SEEDS).map(|seed| train(config, precision, seed, sets, steps));
        Ok(losses.sum::<Result<f64, _>>()? / SEEDS as f64)
    };
    let (f32, bf16) = (mean(Precision::F32)?, mean(Precision::Bf16)?);
    assert!((f32 - bf16).abs() < NATS, "{f32} in f32, {bf16} in bf16");
    Ok(())
}

#[test]
fn it_trains_as_well_as_f32() -> Outcome {
    let images = bars(16);
    compare_training(&config(64, 5, Likelihood::Bernoulli), (&images, &images), 1000)
}

/// Trains for an epoch of MNIST at the default sizes.
#[test]
#[ignore = "needs MNIST in its folder, and a minute of an idle core"]
fn it_trains_on_mnist_as_well_as_f32() -> Outcome {
    let files = Files::verified(&data::default_dir("mnist"), &images::named::mnist())?;
    let mnist = images::splits(&files)?;
    let sets = (&mnist.train, &mnist.test);
    compare_training(&config(400, 20, Likelihood::Bernoulli), sets, 938)
}
