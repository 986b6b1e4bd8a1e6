//! Start-up checks: they find the mistakes of a task before its first step.
//!
//! Training adds up the members' gradients. So the gradient must be that of a sum over examples,
//! and every member must compute the same gradient. [`data`] checks the examples, [`model`] checks
//! the gradients of one and of two examples. The [`probe`] shows whether two programs compute the
//! same.

use std::panic::{AssertUnwindSafe, catch_unwind};

use collective::Digest;
use config::Manifest;
use data::{Batch, Dataset, Domain, Pass, Splits, Stream};
use model::{Model, ModelError, StepContext, Sums, cuda::GpuError};
use thiserror::Error;
use xxhash_rust::xxh3::Xxh3;

use crate::Metric;

/// The allowed distance of a gradient from the sum of its parts, relative to the parts' norms. Rounding
/// errors are far smaller, in bf16 too. For a mean the distance is one half.
const TOLERANCE: f64 = 0.02;

/// Random draws, and copies of an example in a batch, for models of which only averages can be compared.
const DRAWS: u64 = 16;
const COPIES: usize = 4;

/// Examples in the batch of the probe.
const PROBE_EXAMPLES: u32 = 8;

/// A mistake of a task.
#[derive(Debug, Error)]
pub enum Mistake {
    /// The data set and its manifest differ.
    #[error(
        "the data set has {found} {part} examples, and its manifest says {expected}: correct the \
         task's manifest, or the code that reads the files"
    )]
    Count {
        /// Which part of the data set.
        part: &'static str,
        /// The number of examples that it has.
        found: u32,
        /// The number of examples in the manifest.
        expected: u32,
    },
    /// The last example of a part cannot be computed.
    #[error("example {index}, the last of the {part} examples, cannot be computed: {reason}")]
    LastExample {
        /// Which part of the data set.
        part: &'static str,
        /// The index of the example.
        index: u32,
        /// The error.
        reason: String,
    },
    /// The GPU has failed; the task is not to blame.
    #[error(transparent)]
    Gpu(GpuError),
    /// The model cannot be computed at all.
    #[error("the gradient of the first examples cannot be computed: {0}")]
    Gradient(String),
    /// The loss or its gradient is not finite.
    #[error(
        "{what} of the first examples is not finite at the initial parameters: look for a division \
         by zero, or the logarithm of zero, in the objective"
    )]
    NotFinite {
        /// "the loss" or "the gradient".
        what: &'static str,
    },
    /// The objective gives more terms than `METRICS` has names.
    #[error("the objective gives more terms than the {0} that the task's METRICS name")]
    Unnamed(usize),
    /// A term or the gradient is a mean over the examples, not a sum.
    #[error(
        "the {0} is a mean over the examples of a batch, not their sum: use Reduction::Sum, or sum() \
         instead of mean(); with a mean, examples weigh more in smaller batches"
    )]
    Mean(String),
    /// One example changes the terms of another.
    #[error(
        "the {0} of two examples together is not the sum over the single examples: one example must not change \
         the result of another, as with batch statistics (use layer or group norm) or with a term \
         that is added once a batch (multiply it by the number of examples)"
    )]
    Mixed(String),
    /// The same batch gives another result the second time.
    #[error(
        "the same batch has another gradient when it is computed again: draw random numbers only from \
         libtorch's generator or from the stream of the step, keep no state between calls, and \
         use operations whose results do not depend on timing"
    )]
    Unrepeatable,
}

/// Compares the whole data set with its manifest.
///
/// # Errors
/// [`Mistake::Count`].
pub fn data<D: Dataset>(data: &Splits<D>, manifest: &Manifest) -> Result<(), Mistake> {
    let parts = [("training", &data.train, manifest.train), ("test", &data.test, manifest.test)];
    for (part, set, expected) in parts {
        let found = set.count();
        if found != expected {
            return Err(Mistake::Count { part, found, expected });
        }
    }
    Ok(())
}

/// Checks a model with a few examples at the seed's parameters.
///
/// # Errors
/// The first [`Mistake`] that is found.
pub fn model<D: Dataset>(
    model: &mut dyn Model<Data = D>,
    data: &Splits<D>,
    metrics: &[Metric],
    seed: u64,
) -> Result<(), Mistake> {
    let mut check = Check::new(model, data, seed)?;
    check.last_examples()?;
    let pair = [0, 1 % data.train.count()];
    let together = check.gradient(&pair, 0)?;
    together.check_finite()?;
    if together.sums.terms[metrics.len()..].iter().any(|term| term.to_bits() != 0) {
        return Err(Mistake::Unnamed(metrics.len()));
    }
    if !together.is_same(&check.gradient(&pair, 0)?) {
        return Err(Mistake::Unrepeatable);
    }
    if together.is_same(&check.gradient(&pair, 1)?) {
        let parts = [check.gradient(&pair[..1], 0)?, check.gradient(&pair[1..], 0)?];
        return together.check_sum_of(&parts, metrics);
    }
    // The training noise (such as dropout) differs from batch to batch. If the evaluation has no
    // noise, its terms are compared.
    let together = check.evaluate(&pair, 0)?;
    if together.terms == check.evaluate(&pair, 1)?.terms {
        let parts = [check.evaluate(&pair[..1], 0)?, check.evaluate(&pair[1..], 0)?];
        return check_terms(&together, &parts, metrics);
    }
    check.averages()
}

/// A digest of what the program computes for the first examples at the seed's parameters: the
/// initial parameters and their names, the gradient and the terms.
///
/// # Errors
/// The device failed.
pub fn probe<D: Dataset>(
    model: &mut dyn Model<Data = D>,
    train: &D,
    seed: u64,
) -> Result<Digest, ModelError> {
    let mut parameters = vec![0.0; model.layout().len()];
    model.initialise(seed, &mut parameters);
    let mut gradient = vec![0.0; parameters.len()];
    let indices: Vec<u32> = (0..train.count().min(PROBE_EXAMPLES)).collect();
    let batch = Batch { data: train, indices: &indices, pass: Pass::train(seed, 0) };
    let context = StepContext::alone(Stream::new(seed, Domain::Noise, 0, 0));
    let sums = model.gradient(&parameters, &batch, &context, &mut gradient)?;
    crashpoint::flip!("trainer.probe", &mut gradient);
    let mut hasher = Xxh3::new();
    for entry in model.layout().entries() {
        hasher.update(format!("{} {:?}\n", entry.name, entry.shape).as_bytes());
    }
    for value in parameters.iter().chain(&gradient) {
        hasher.update(&value.to_le_bytes());
    }
    for term in sums.terms {
        hasher.update(&term.to_le_bytes());
    }
    Ok(Digest(hasher.digest128().to_be_bytes()))
}

/// A model at the seed's parameters, with its examples.
struct Check<'a, D> {
    model: &'a mut dyn Model<Data = D>,
    data: &'a Splits<D>,
    seed: u64,
    parameters: Vec<f32>,
}

/// A model's results for a batch.
struct Computed {
    gradient: Vec<f32>,
    sums: Sums,
}

impl<'a, D: Dataset> Check<'a, D> {
    fn new(
        model: &'a mut dyn Model<Data = D>,
        data: &'a Splits<D>,
        seed: u64,
    ) -> Result<Self, Mistake> {
        let mut parameters = vec![0.0; model.layout().len()];
        let initialise = || {
            model.initialise(seed, &mut parameters);
            Ok(())
        };
        attempt(initialise, Mistake::Gradient)?;
        Ok(Self { model, data, seed, parameters })
    }

    fn last_examples(&mut self) -> Result<(), Mistake> {
        let Self { model, data, seed, parameters } = self;
        for (part, set) in [("training", &data.train), ("test", &data.test)] {
            let index = set.count().saturating_sub(1);
            let batch = Batch { data: set, indices: &[index], pass: Pass::test(*seed) };
            let random = Stream::new(*seed, Domain::Evaluation, 0, 0);
            attempt(
                || model.evaluate(parameters, &batch, random),
                |reason| Mistake::LastExample { part, index, reason },
            )?;
        }
        Ok(())
    }

    fn gradient(&mut self, indices: &[u32], draw: u64) -> Result<Computed, Mistake> {
        let Self { model, data, seed, parameters } = self;
        let mut gradient = vec![0.0; parameters.len()];
        let batch = Batch { data: &data.train, indices, pass: Pass::train(*seed, 0) };
        let context = StepContext::alone(Stream::new(*seed, Domain::Noise, draw, 0));
        let compute = || model.gradient(parameters, &batch, &context, &mut gradient);
        let sums = attempt(compute, Mistake::Gradient)?;
        Ok(Computed { sums, gradient })
    }

    fn evaluate(&mut self, indices: &[u32], draw: u64) -> Result<Sums, Mistake> {
        let Self { model, data, seed, parameters } = self;
        let batch = Batch { data: &data.train, indices, pass: Pass::train(*seed, 0) };
        let random = Stream::new(*seed, Domain::Evaluation, draw, 0);
        attempt(|| model.evaluate(parameters, &batch, random), Mistake::Gradient)
    }

    /// Compares the average loss of one example with that of a batch of its copies. The noise may be
    /// large, so the comparison finds only a mean instead of a sum.
    fn averages(&mut self) -> Result<(), Mistake> {
        let (mut alone, mut copies) = (0.0, 0.0);
        for draw in 0..DRAWS {
            alone += self.evaluate(&[0], draw)?.terms[0];
            copies += self.evaluate(&[0; COPIES], draw)?.terms[0];
        }
        let is_one = (copies - alone).abs() < 0.5 * alone.abs();
        if is_one { Err(Mistake::Mean("loss".into())) } else { Ok(()) }
    }
}

impl Computed {
    fn check_finite(&self) -> Result<(), Mistake> {
        if !self.sums.terms[0].is_finite() {
            return Err(Mistake::NotFinite { what: "the loss" });
        }
        let is_finite = self.gradient.iter().all(|value| value.is_finite());
        if is_finite { Ok(()) } else { Err(Mistake::NotFinite { what: "the gradient" }) }
    }

    fn is_same(&self, other: &Self) -> bool {
        let bits = |computed: &Self| computed.sums.terms.map(f64::to_bits);
        let pairs = self.gradient.iter().zip(&other.gradient);
        bits(self) == bits(other) && pairs.into_iter().all(|(a, b)| a.to_bits() == b.to_bits())
    }

    fn check_sum_of(&self, parts: &[Self; 2], metrics: &[Metric]) -> Result<(), Mistake> {
        check_terms(&self.sums, &parts.each_ref().map(|part| part.sums), metrics)?;
        let [one, two] = parts.each_ref().map(|part| &part.gradient);
        let norm = |of: &dyn Fn(usize) -> f64| {
            (0..one.len()).map(|index| of(index).powi(2)).sum::<f64>().sqrt()
        };
        let (first, second) = (|i: usize| f64::from(one[i]), |i: usize| f64::from(two[i]));
        let allowed = TOLERANCE * (norm(&first) + norm(&second)) + f64::from(f32::MIN_POSITIVE);
        let distance =
            |share: f64| norm(&|i| f64::from(self.gradient[i]) - share * (first(i) + second(i)));
        judge("gradient", distance(1.0) <= allowed, distance(0.5) <= allowed)
    }
}

/// Checks that each term of two examples together is the sum of the two examples' terms.
fn check_terms(together: &Sums, parts: &[Sums; 2], metrics: &[Metric]) -> Result<(), Mistake> {
    for (index, metric) in metrics.iter().enumerate() {
        let [one, two] = parts.each_ref().map(|part| part.terms[index]);
        let allowed = TOLERANCE * (one.abs() + two.abs()) + f64::from(f32::EPSILON);
        let is_near = |share: f64| {
            let distance = together.terms[index] - share * (one + two);
            distance.is_nan() || distance.abs() <= allowed
        };
        judge(&format!("term {}", metric.name), is_near(1.0), is_near(0.5))?;
    }
    Ok(())
}

fn judge(what: &str, is_sum: bool, is_mean: bool) -> Result<(), Mistake> {
    match (is_sum, is_mean) {
        (true, _) => Ok(()),
        (false, true) => Err(Mistake::Mean(what.into())),
        (false, false) => Err(Mistake::Mixed(what.into())),
    }
}

/// Runs code of the task that may fail or panic. On a failure, `mistake` makes an error from one line
/// of text.
fn attempt<T>(
    compute: impl FnOnce() -> Result<T, ModelError>,
    mistake: impl FnOnce(String) -> Mistake,
) -> Result<T, Mistake> {
    match catch_unwind(AssertUnwindSafe(compute)) {
        Ok(Err(ModelError::Gpu(error))) => Err(Mistake::Gpu(error)),
        Ok(result) => result.map_err(|error| mistake(error.to_string())),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(mistake(text.and_then(|text| text.lines().next()).unwrap_or("a panic").to_owned()))
        }
    }
}
