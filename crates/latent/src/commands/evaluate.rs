//! `vae evaluate`: measures the quality of a model in numbers that can be compared.

use anyhow::Result;
use data::Splits;
use images::Images;
use serde::Serialize;
use tch::Tensor;
use vae_options::{Binarize, Likelihood};

use crate::{
    args::Source,
    bound,
    features::{self, Errors},
    logistic::Logistic,
    output,
    trained::{Latents, Purpose, Trained, normals},
};

/// The least variance over the images of an active dimension's latent mean (Burda, Grosse and Salakhutdinov).
const ACTIVE_MIN: f64 = 0.01;
/// Samples in which the classes are counted, and the least count of a class that counts as seen.
const SAMPLES: usize = 1_000;
const CLASS_MIN: usize = 10;
const IMPORTANCE_SAMPLES_MAX: usize = 1_000_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    source: Source,
    /// Latents per image for the log-likelihood; 0 leaves it out, which saves minutes
    #[arg(long, default_value_t = 5_000, value_name = "K",
          value_parser = manual::whole(0..=IMPORTANCE_SAMPLES_MAX))]
    importance_samples: usize,
    /// Leave out the linear classifiers of features, and the diversity that one of them measures
    #[arg(long)]
    no_features: bool,
    /// Print one JSON object instead
    #[arg(long)]
    json: bool,
    /// Seed of the latents' noise [default: the run's seed, which gives the test loss that training
    /// printed at this step]
    #[arg(long, value_parser = manual::whole(0..=u64::MAX))]
    seed: Option<u64>,
}

/// The measurements. Losses are in nats per image.
#[derive(Debug, Serialize)]
struct Report {
    checkpoint: String,
    sha256: String,
    step: u64,
    images: usize,
    /// `binary` or `grey`.
    pixels: &'static str,
    likelihood: Likelihood,
    /// The loss that training minimises, with z sampled: the negative evidence lower bound, with the KL
    /// divergence weighted by beta. With several importance samples, it is their bound.
    loss: f64,
    reconstruction: f64,
    kl: f64,
    beta: f64,
    importance_samples: u32,
    /// The key of the noise.
    seed: u64,
    log_likelihood: Option<LogLikelihood>,
    /// Dimensions whose means vary over the images by more than [`ACTIVE_MIN`].
    active_units: usize,
    kl_by_dimension: Vec<f64>,
    features: Option<Vec<Errors>>,
    diversity: Option<Diversity>,
}

#[derive(Debug, Serialize)]
struct LogLikelihood {
    /// The importance-weighted bound in nats per image.
    nats: f64,
    standard_error: f64,
    importance_samples: usize,
    meaning: &'static str,
}

#[derive(Debug, Serialize)]
struct Diversity {
    samples: usize,
    /// How often the pixel classifier chose each class for images from the prior.
    counts: Vec<usize>,
    /// The share of classes that were chosen for at least [`CLASS_MIN`] of the samples.
    classes: f64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { source, importance_samples, no_features, json, seed } = options;
    let mut trained = source.trained()?;
    let mnist = source.mnist(&trained)?;
    let seed = seed.unwrap_or(trained.config.seed);
    let [loss, reconstruction, kl] = trained.test_loss(&mnist.test, seed)?;
    let latents = trained.encode(&mnist.test)?;
    let log_likelihood = match importance_samples {
        0 => None,
        samples => Some(log_likelihood(&mut trained, &mnist, *samples, seed)?),
    };
    let (features, diversity) = if *no_features || !mnist.train.is_labelled() {
        (None, None)
    } else {
        let (reader, errors) = features::compare(&mut trained, &mnist)?;
        let classes = mnist.train.label_count().max(mnist.test.label_count()) as usize;
        (Some(errors), Some(diversity(&mut trained, &reader, classes, seed)?))
    };
    let report = Report {
        checkpoint: trained.path.display().to_string(),
        sha256: trained.sha256.clone(),
        step: trained.step,
        images: mnist.test.len(),
        pixels: if is_binary(&trained) { "binary" } else { "grey" },
        likelihood: trained.options.likelihood,
        loss,
        reconstruction,
        kl,
        beta: trained.options.beta,
        importance_samples: trained.options.importance_samples,
        seed,
        log_likelihood,
        active_units: active_units(&latents),
        kl_by_dimension: latents.divergence_by_dimension(),
        features,
        diversity,
    };
    if *json {
        output::say(&serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(())
}

fn is_binary(trained: &Trained) -> bool {
    trained.options.binarize == Binarize::Dynamic
}

fn log_likelihood(
    trained: &mut Trained,
    mnist: &Splits<Images>,
    samples: usize,
    seed: u64,
) -> Result<LogLikelihood> {
    let found = bound::log_likelihoods(trained, &mnist.test, samples, seed)?;
    let count = found.len() as f64;
    let mean = found.iter().sum::<f64>() / count;
    let variance = found.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    let meaning = match (trained.options.likelihood, is_binary(trained)) {
        (Likelihood::Bernoulli, true) => "log-likelihood of binary pixels",
        (Likelihood::Bernoulli, false) => {
            "a bound on minus the cross-entropy with grey pixels: not a likelihood, and not \
             comparable with that of binary pixels"
        }
        (Likelihood::Gaussian, _) => "log density of pixels from 0 to 1",
    };
    let standard_error = (variance / count).sqrt();
    Ok(LogLikelihood { nats: mean, standard_error, importance_samples: samples, meaning })
}

/// Dimensions whose latent mean has a variance over the images above [`ACTIVE_MIN`].
fn active_units(latents: &Latents) -> usize {
    let count = latents.len() as f64;
    let varies = |dimension: &usize| {
        let column = || {
            latents.mean.iter().skip(*dimension).step_by(latents.dim).map(|mean| f64::from(*mean))
        };
        let mean = column().sum::<f64>() / count;
        column().map(|value| (value - mean).powi(2)).sum::<f64>() / count > ACTIVE_MIN
    };
    (0..latents.dim).filter(varies).count()
}

/// Counts the classes that the pixel classifier chooses for images from the prior.
fn diversity(
    trained: &mut Trained,
    reader: &Logistic,
    classes: usize,
    seed: u64,
) -> Result<Diversity> {
    let z = normals(seed, Purpose::Sample, 0, SAMPLES * trained.dim());
    let width = trained.pixels() as i64;
    let images = Tensor::from_slice(&trained.decode(&z)?).view([-1, width]);
    let mut counts = vec![0; classes];
    for class in reader.classes(&images) {
        counts[class as usize] += 1;
    }
    let seen = counts.iter().filter(|count| **count >= CLASS_MIN).count();
    let classes = seen as f64 / classes.max(1) as f64;
    Ok(Diversity { samples: SAMPLES, counts, classes })
}

fn print(report: &Report) {
    let say = output::say;
    let Report { checkpoint, images, pixels, loss, reconstruction, kl, .. } = report;
    say(&format!("{checkpoint}: {images} test images, {pixels} pixels, nats an image"));
    let mut kind = "z sampled".to_owned();
    if report.beta != 1.0 {
        kind += &format!("; the loss has {} times the KL", report.beta);
    }
    if report.importance_samples > 1 {
        kind += &format!("; the loss is the bound of {} samples", report.importance_samples);
    }
    say(&format!("Loss {loss:.2}: reconstruction {reconstruction:.2}, KL {kl:.2} ({kind})"));
    if let Some(found) = &report.log_likelihood {
        let LogLikelihood { nats, standard_error, importance_samples, meaning } = found;
        say(&format!(
            "-log p(x) at most {:.2} (standard error {standard_error:.2}; {importance_samples} \
             importance samples; {meaning})",
            -nats
        ));
    }
    let divergences = &report.kl_by_dimension;
    let (active, dim) = (report.active_units, divergences.len());
    say(&format!("Active units: {active} of {dim}. KL by dimension:"));
    for (row, divergences) in divergences.chunks(10).enumerate() {
        let values: String = divergences.iter().map(|kl| format!("{kl:7.3}")).collect();
        say(&format!("{:4}{values}", 10 * row));
    }
    if let Some(errors) = &report.features {
        say("Errors of logistic regression on the test images:");
        say(&format!("labels  latent means  PCA of {dim:<3}  pixels"));
        for Errors { labels, latent_means, principal_components, pixels } in errors {
            let [a, b, c] = [latent_means, principal_components, pixels].map(|share| 100.0 * share);
            say(&format!("{labels:6}  {a:10.2} %  {b:8.2} %  {c:4.2} %"));
        }
    }
    if let Some(Diversity { samples, counts, classes }) = &report.diversity {
        let shares: Vec<String> = counts.iter().map(usize::to_string).collect();
        say(&format!(
            "Diversity: {:.0} % of the classes in {samples} samples ({} of 0 to {})",
            100.0 * classes,
            shares.join(" "),
            counts.len().saturating_sub(1)
        ));
    }
}
