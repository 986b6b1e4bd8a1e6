//! The hand-written gradient is that of the objective: it is compared with libtorch's autograd and with
//! differences of the loss.

use std::error::Error;

use data::{Batch, Domain, Stream};
use images::{Images, PIXELS};
use model::{Adam, Device, Isa, Layout, Model, ModelError, State, StepContext, Sums};
use vae::{Settings, Vae};
use vae_conv::vae_autograd;
use vae_options::{Architecture, Likelihood, ModelConfig, Precision};

type Outcome = Result<(), Box<dyn Error>>;

/// The largest |a - b| of a tensor, relative to its largest |b|. The two orders of addition differ, in
/// f32, with up to 784 terms in a sum and some hundred images.
const TOLERANCE: f64 = 2e-5;

const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

/// Steps per epoch of the run that the tested steps belong to.
const STEPS_PER_EPOCH: u64 = 10;

const LIKELIHOODS: [Likelihood; 2] = [Likelihood::Bernoulli, Likelihood::Gaussian];

/// Hidden, latent, images, beta: small, odd and default sizes.
const CASES: [(u32, u32, usize, f64); 6] = [
    (1, 1, 1, 1.0),
    (16, 4, 6, 0.5),
    (33, 7, 1, 1.0),
    (17, 3, 5, 0.0),
    (400, 20, 64, 1.0),
    (129, 31, 127, 2.5),
];

fn config((hidden_dim, latent_dim, _, beta): (u32, u32, usize, f64), l: Likelihood) -> ModelConfig {
    ModelConfig {
        image: vae_options::MNIST_IMAGE,
        architecture: Architecture::Dense,
        hidden_dim,
        latent_dim,
        likelihood: l,
        beta,
    }
}

/// Sparse grey images.
fn images(count: usize) -> Images {
    let pixel = |i: usize| if i * i % 7 < 2 { (i * 31 % 256) as u8 } else { 0 };
    Images::new(
        images::Shape::grey(28, 28),
        (0..count * PIXELS).map(pixel).collect(),
        vec![0; count],
    )
    .expect("whole images")
}

/// Every precision with every likelihood.
fn both() -> impl Iterator<Item = (Precision, Likelihood)> {
    PRECISIONS.into_iter().flat_map(|precision| LIKELIHOODS.map(|l| (precision, l)))
}

fn noise() -> Stream {
    Stream::new(9, Domain::Noise, 4, 2)
}

fn parameters(model: &dyn Model<Data = Images>) -> Vec<f32> {
    let mut parameters = vec![0.0; model.layout().len()];
    model.initialise(3, &mut parameters);
    if let Some(range) = model.layout().range("log_variance") {
        parameters[range].fill(-0.7);
    }
    parameters
}

fn gradient(
    model: &mut dyn Model<Data = Images>,
    parameters: &[f32],
    batch: &Batch<'_, Images>,
) -> (Vec<f32>, Sums) {
    gradient_at(STEPS_PER_EPOCH, model, parameters, batch)
}

/// The gradient in a step of a run.
fn gradient_at(
    step: u64,
    model: &mut dyn Model<Data = Images>,
    parameters: &[f32],
    batch: &Batch<'_, Images>,
) -> (Vec<f32>, Sums) {
    let context = StepContext {
        step,
        steps_per_epoch: STEPS_PER_EPOCH,
        steps: 3 * STEPS_PER_EPOCH,
        random: noise(),
    };
    // The old content must not matter.
    let mut gradient = vec![f32::NAN; parameters.len()];
    let sums = model.gradient(parameters, batch, &context, &mut gradient).unwrap();
    (gradient, sums)
}

/// Settings with one epoch of KL warm-up.
fn warming(samples: u32) -> Settings {
    Settings { samples, kl_warmup_epochs: 1, ..Settings::default() }
}

#[track_caller]
fn assert_close(layout: &Layout, found: &[f32], expected: &[f32], case: &str) {
    assert_close_within(1.0, layout, found, expected, case);
}

#[track_caller]
fn assert_close_within(factor: f64, layout: &Layout, found: &[f32], expected: &[f32], case: &str) {
    for entry in layout.entries() {
        let (found, expected) = (&found[entry.range.clone()], &expected[entry.range.clone()]);
        let largest = expected.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
        for (a, b) in found.iter().zip(expected) {
            let error = f64::from((a - b).abs());
            let bound = factor * TOLERANCE * f64::from(largest);
            assert!(error <= bound, "{case}, {}: {a} is not {b}", entry.name);
        }
    }
}

#[test]
fn autograd_agrees() -> Outcome {
    for likelihood in LIKELIHOODS {
        for case in CASES {
            let name = format!("{likelihood:?} {case:?}");
            let config = config(case, likelihood);
            let images = images(case.2);
            let indices: Vec<u32> = (0..case.2 as u32).rev().collect();
            let batch = Batch::of(&images, &indices);
            let (mut vae, mut oracle) =
                (Vae::new(&config)?, vae_autograd(&config, Settings::default(), Device::Cpu)?);
            assert_eq!(vae.layout(), oracle.layout());
            let parameters = parameters(&vae);

            let (found, sums) = gradient(&mut vae, &parameters, &batch);
            let (expected, expected_sums) = gradient(&mut oracle, &parameters, &batch);
            assert_close(vae.layout(), &found, &expected, &name);
            assert_eq!(vae.evaluate(&parameters, &batch, noise()).unwrap(), sums, "{name}");
            let oracle_sums = oracle.evaluate(&parameters, &batch, noise()).unwrap();
            for (term, ours) in sums.terms.iter().enumerate() {
                for theirs in [expected_sums.terms[term], oracle_sums.terms[term]] {
                    let error = (ours - theirs).abs();
                    assert!(error <= TOLERANCE * theirs.abs(), "{name}: {ours} is not {theirs}");
                }
            }
        }
    }
    Ok(())
}

/// The importance-weighted bound with a part of beta, as during a warm-up.
#[test]
fn autograd_agrees_on_weighted_samples() -> Outcome {
    for likelihood in LIKELIHOODS {
        for (case, samples) in CASES.into_iter().zip([2, 5, 50, 3, 4, 7]) {
            let name = format!("{likelihood:?} {case:?} of {samples}");
            let config = config(case, likelihood);
            let images = images(case.2);
            let indices: Vec<u32> = (0..case.2 as u32).rev().collect();
            let batch = Batch::of(&images, &indices);
            let mut vae = Vae::with(&config, warming(samples))?;
            let mut oracle = vae_autograd(&config, warming(samples), Device::Cpu)?;
            let parameters = parameters(&vae);
            let evaluated = vae.evaluate(&parameters, &batch, noise()).unwrap();
            for step in [2, STEPS_PER_EPOCH] {
                let (found, sums) = gradient_at(step, &mut vae, &parameters, &batch);
                let (expected, expected_sums) = gradient_at(step, &mut oracle, &parameters, &batch);
                // Weights are exponentials of numbers in the hundreds, so they are exact to about 1e-4.
                assert_close_within(20.0, vae.layout(), &found, &expected, &name);
                // An evaluation uses the whole beta, as a step after the warm-up does.
                let is_warm = step == STEPS_PER_EPOCH || config.beta == 0.0;
                assert_eq!(evaluated == sums, is_warm, "{name}");
                for (ours, theirs) in sums.terms.iter().zip(expected_sums.terms) {
                    assert!((ours - theirs).abs() <= TOLERANCE * theirs.abs(), "{name}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_part_of_beta_is_that_beta() -> Outcome {
    let images = images(6);
    let batch = Batch::of(&images, &[0, 1, 2, 3, 4, 5]);
    let mut half = Vae::with(&config((16, 4, 6, 1.0), Likelihood::Bernoulli), warming(1))?;
    let mut lower = Vae::new(&config((16, 4, 6, 0.5), Likelihood::Bernoulli))?;
    let parameters = parameters(&half);
    let expected = gradient(&mut lower, &parameters, &batch);
    assert_eq!(gradient_at(4, &mut half, &parameters, &batch), expected);
    Ok(())
}

/// -log p(x|z) of given latents. With the noise of an evaluation, it adds up to that evaluation's sum.
#[test]
fn reconstruction_losses_add_up_to_the_term() -> Outcome {
    for (precision, likelihood) in both() {
        let config = config((33, 7, 5, 1.0), likelihood);
        let mut vae = Vae::with(&config, Settings { precision, ..Default::default() })?;
        let (images, parameters) = (images(5), parameters(&vae));
        let batch = Batch::of(&images, &[4, 3, 2, 1, 0]);
        let sums = vae.evaluate(&parameters, &batch, noise()).unwrap();
        let (mut mean, mut log_variance) = (vec![0.0; 35], vec![0.0; 35]);
        vae.encode(&parameters, &batch, &mut mean, &mut log_variance);
        let mut z = vec![0.0; 35];
        model::noise::normals(Isa::best(), noise(), &mut z);
        for (z, (mean, log_variance)) in z.iter_mut().zip(mean.iter().zip(&log_variance)) {
            *z = mean + (0.5 * log_variance).exp() * *z;
        }
        let mut losses = vec![0.0; 5];
        vae.reconstruction(&parameters, &batch, &z, &mut losses);
        let (found, expected) = (losses.iter().sum::<f64>(), sums.terms[1]);
        let bound = if precision == Precision::F32 { TOLERANCE } else { 2e-3 };
        assert!((found - expected).abs() < bound * expected.abs(), "{found} is not {expected}");

        // Two latents per image, side by side: the image's own and another one.
        let pairs: Vec<f32> = z.chunks(7).flat_map(|z| [z, &[0.0; 7][..]].concat()).collect();
        let mut two = vec![0.0; 10];
        vae.reconstruction(&parameters, &batch, &pairs, &mut two);
        for (pair, loss) in two.chunks(2).zip(&losses) {
            assert!((pair[0] - loss).abs() < 1e-4 * loss.abs() && pair[1].is_finite());
        }
    }
    Ok(())
}

/// The only parameter on which the loss depends smoothly by itself is compared with central differences.
#[test]
fn differences_of_the_loss_agree_for_log_variance() -> Outcome {
    const STEP: f32 = 1.0 / 64.0;
    let config = config(CASES[1], Likelihood::Gaussian);
    let mut vae = Vae::new(&config)?;
    let images = images(6);
    let batch = Batch::of(&images, &[0, 1, 2, 3, 4, 5]);
    let place = vae.layout().range("log_variance").ok_or("no log_variance")?.start;
    for log_variance in [-1.0, 0.0, 0.5] {
        let mut parameters = parameters(&vae);
        let mut loss = |value: f32| {
            parameters[place] = value;
            vae.evaluate(&parameters, &batch, noise()).unwrap().terms[0]
        };
        let difference = loss(log_variance + STEP) - loss(log_variance - STEP);
        let expected = difference / f64::from(2.0 * STEP);
        parameters[place] = log_variance;
        let found = f64::from(gradient(&mut vae, &parameters, &batch).0[place]);
        assert!((found - expected).abs() < 1e-3 * expected.abs(), "{found} is not {expected}");
    }
    Ok(())
}

#[test]
fn all_instruction_sets_give_the_same_bits() -> Outcome {
    for (precision, likelihood) in both() {
        for case in CASES {
            let images = images(case.2);
            let indices: Vec<u32> = (0..case.2 as u32).collect();
            let batch = Batch::of(&images, &indices);
            let run = |isa| -> Result<_, ModelError> {
                let settings = Settings { precision, ..Settings::default() };
                let mut vae = Vae::with_isa(&config(case, likelihood), settings, isa)?;
                let parameters = parameters(&vae);
                let (gradient, sums) = gradient(&mut vae, &parameters, &batch);
                let mut pixels = vec![0.0; case.2 * PIXELS];
                vae.reconstruct(&parameters, &batch, noise(), &mut pixels);
                let bits = gradient.iter().chain(&pixels).map(|x| x.to_bits());
                Ok((bits.collect::<Vec<_>>(), sums.terms.map(f64::to_bits)))
            };
            let expected = run(Isa::available()[0])?;
            for isa in Isa::available() {
                let name = format!("{} {precision:?} {likelihood:?} {case:?}", isa.name());
                assert!(run(isa)? == expected, "{name}");
            }
        }
    }
    Ok(())
}

#[test]
fn an_empty_batch_gives_zeros() -> Outcome {
    let images = images(1);
    let batch = Batch::of(&images, &[]);
    for likelihood in LIKELIHOODS {
        let config = config(CASES[1], likelihood);
        let vae = |precision, samples| {
            Vae::with(&config, Settings { precision, samples, ..Settings::default() })
        };
        let models: [Box<dyn Model<Data = Images>>; 5] = [
            Box::new(vae(Precision::F32, 1)?),
            Box::new(vae(Precision::F32, 3)?),
            Box::new(vae(Precision::Bf16, 3)?),
            Box::new(vae(Precision::Bf16, 1)?),
            Box::new(vae_autograd(&config, Settings::default(), Device::Cpu)?),
        ];
        for mut model in models {
            let parameters = parameters(&*model);
            let (gradient, sums) = gradient(&mut *model, &parameters, &batch);
            assert!(gradient.iter().all(|x| *x == 0.0));
            assert_eq!(sums, Sums::default());
            assert_eq!(model.evaluate(&parameters, &batch, noise()).unwrap(), Sums::default());
        }
    }
    Ok(())
}

/// The working memory may hold the values of a larger or a diverged batch.
#[test]
fn what_ran_before_does_not_matter() -> Outcome {
    let config = config(CASES[2], Likelihood::Bernoulli);
    let images = images(40);
    let all: Vec<u32> = (0..40).collect();
    let (few, many) = (Batch::of(&images, &all[..3]), Batch::of(&images, &all));
    for precision in PRECISIONS {
        let mut vae = Vae::with(&config, Settings { precision, ..Default::default() })?;
        let parameters = parameters(&vae);
        let expected = gradient(&mut vae, &parameters, &few);
        gradient(&mut vae, &vec![f32::NAN; parameters.len()], &many);
        assert_eq!(gradient(&mut vae, &parameters, &few), expected);
    }
    Ok(())
}

#[test]
fn padding_stays_zero_while_training() -> Outcome {
    let config = config(CASES[2], Likelihood::Gaussian);
    let images = images(4);
    let batch = Batch::of(&images, &[0, 1, 2, 3]);
    for precision in PRECISIONS {
        let mut vae = Vae::with(&config, Settings { precision, ..Default::default() })?;
        let mut state = State::initial(&vae, 1);
        let layout = vae.layout().clone();
        assert!(layout.len() > layout.parameters());
        for _ in 0..5 {
            let (gradient, _) = gradient(&mut vae, &state.parameters, &batch);
            Adam::new(1e-2).apply(&mut state, &gradient, 4);
            for vector in [&gradient, &state.parameters, &state.exp_avg, &state.exp_avg_sq] {
                let inside = |place| layout.entries().iter().any(|e| e.range.contains(&place));
                let mut padding = (0..layout.len()).filter(|place| !inside(*place));
                assert!(padding.all(|place| vector[place].to_bits() == 0));
            }
        }
    }
    Ok(())
}

#[test]
fn training_shows_divergence_instead_of_hiding_it() -> Outcome {
    let images = images(2);
    let batch = Batch::of(&images, &[0, 1]);
    for (precision, likelihood) in both() {
        let settings = Settings { precision, ..Settings::default() };
        let mut vae = Vae::with(&config(CASES[1], likelihood), settings)?;
        // The weight of a pixel that is zero in all images may be skipped; any other NaN must show.
        for name in ["encoder.0.bias", "encoder.2.weight", "decoder.4.weight"] {
            let mut parameters = parameters(&vae);
            parameters[vae.layout().range(name).unwrap().start] = f32::NAN;
            let (_, sums) = gradient(&mut vae, &parameters, &batch);
            assert!(sums.terms[0].is_nan(), "{name}");
        }
    }
    Ok(())
}
