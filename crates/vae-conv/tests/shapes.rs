//! Images of any shape, grey or RGB: the hand-written gradient is that of libtorch's autograd, and the
//! bits do not depend on the instruction set.

use std::error::Error;

use data::{Batch, Domain, Pass, Stream};
use images::{Images, Shape};
use model::{Device, Isa, Model, StepContext, Sums};
use vae::{Settings, Vae};
use vae_conv::vae_autograd;
use vae_options::{Architecture, Binarize, ImageShape, Likelihood, ModelConfig, Precision};

/// A single number, an odd shape in colour, and more numbers than a kernel adds up together.
const SHAPES: [ImageShape; 4] = [[1, 1, 1], [5, 7, 3], [37, 41, 1], [40, 33, 3]];

/// As in `gradient.rs`. With several samples, weights are exponentials of large numbers.
const TOLERANCE: f32 = 2e-5;
const WEIGHTED_TOLERANCE: f32 = 4e-4;

fn images([height, width, channels]: ImageShape, count: usize) -> Images {
    let shape = Shape { height, width, channels };
    let pixel = |i: usize| if i * i % 7 < 4 { (i * 31 % 256) as u8 } else { 0 };
    Images::new(shape, (0..count * shape.bytes()).map(pixel).collect(), vec![])
        .expect("whole images")
}

fn config(image: ImageShape, likelihood: Likelihood) -> ModelConfig {
    let architecture = Architecture::Dense;
    ModelConfig { image, architecture, hidden_dim: 19, latent_dim: 5, likelihood, beta: 0.7 }
}

fn gradient(
    model: &mut dyn Model<Data = Images>,
    parameters: &[f32],
    batch: &Batch<'_, Images>,
) -> Result<(Vec<f32>, Sums), Box<dyn Error>> {
    let mut gradient = vec![f32::NAN; parameters.len()];
    let context = StepContext::alone(Stream::new(9, Domain::Noise, 4, 2));
    let sums = model.gradient(parameters, batch, &context, &mut gradient)?;
    Ok((gradient, sums))
}

#[test]
fn autograd_agrees() -> Result<(), Box<dyn Error>> {
    for image in SHAPES {
        let (images, indices) = (images(image, 6), [4, 0, 5, 2]);
        let batch = Batch { data: &images, indices: &indices, pass: Pass::train(3, 1) };
        for likelihood in [Likelihood::Bernoulli, Likelihood::Gaussian] {
            for (samples, binarize) in
                [(1, Binarize::None), (1, Binarize::Dynamic), (3, Binarize::Dynamic)]
            {
                let name = format!("{image:?} {likelihood:?} {samples} {binarize:?}");
                let settings = Settings { samples, binarize, ..Settings::default() };
                let config = config(image, likelihood);
                let mut vae = Vae::with(&config, settings)?;
                let mut oracle = vae_autograd(&config, settings, Device::Cpu)?;
                assert_eq!(vae.layout().parameters() as u64, config.parameters());
                let mut parameters = vec![0.0; vae.layout().len()];
                vae.initialise(3, &mut parameters);
                let (found, sums) = gradient(&mut vae, &parameters, &batch)?;
                let (expected, expected_sums) = gradient(&mut oracle, &parameters, &batch)?;
                let tolerance = if samples == 1 { TOLERANCE } else { WEIGHTED_TOLERANCE };
                for entry in vae.layout().entries() {
                    let (found, expected) =
                        (&found[entry.range.clone()], &expected[entry.range.clone()]);
                    let largest = expected.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
                    for (a, b) in found.iter().zip(expected) {
                        let error = (a - b).abs();
                        assert!(error <= tolerance * largest, "{name}, {}: {a} {b}", entry.name);
                    }
                }
                for (ours, theirs) in sums.terms.iter().zip(expected_sums.terms) {
                    let error = (ours - theirs).abs();
                    assert!(
                        error <= f64::from(tolerance) * theirs.abs(),
                        "{name}: {ours} {theirs}"
                    );
                }
                let noise = Stream::new(9, Domain::Noise, 4, 2);
                assert_eq!(vae.evaluate(&parameters, &batch, noise)?, sums, "{name}");
            }
        }
    }
    Ok(())
}

#[test]
fn all_instruction_sets_give_the_same_bits() -> Result<(), Box<dyn Error>> {
    for image in SHAPES {
        let (images, indices) = (images(image, 3), [2, 0, 1]);
        let batch = Batch::of(&images, &indices);
        for precision in [Precision::F32, Precision::Bf16] {
            let settings = Settings { precision, samples: 2, ..Settings::default() };
            let run = |isa| -> Result<_, Box<dyn Error>> {
                let mut vae = Vae::with_isa(&config(image, Likelihood::Bernoulli), settings, isa)?;
                let mut parameters = vec![0.0; vae.layout().len()];
                vae.initialise(3, &mut parameters);
                let (gradient, sums) = gradient(&mut vae, &parameters, &batch)?;
                let mut pixels = vec![0.0; 3 * vae.pixels()];
                let noise = Stream::new(9, Domain::Noise, 4, 2);
                vae.reconstruct(&parameters, &batch, noise, &mut pixels);
                let bits = gradient.iter().chain(&pixels).map(|x| x.to_bits());
                Ok((bits.collect::<Vec<_>>(), sums.terms.map(f64::to_bits)))
            };
            let expected = run(Isa::available()[0])?;
            for isa in Isa::available() {
                assert!(run(isa)? == expected, "{image:?} {precision:?} {}", isa.name());
            }
        }
    }
    Ok(())
}
