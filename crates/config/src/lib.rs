//! What a run is: its configuration, as the coordinator decides it, `config.json` keeps it,
//! and every worker receives it.
//!
//! [`Training`] determines the bits of the result and never changes within a run;
//! [`Operation`] says how the run is carried out and may differ when it is resumed. How
//! flags are parsed is the coordinator's business.

pub mod bounds;
pub mod manifest;
pub mod task;

mod validate;

use serde::{Deserialize, Serialize};

pub use manifest::{FileEntry, Manifest};
pub use task::{Metric, Size, Task};
pub use validate::InvalidConfig;

/// The number of pixels of an image.
pub const PIXELS: u32 = 784;

/// The configuration of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// What the result is a pure function of.
    pub training: Training,
    /// How the run is carried out.
    pub operation: Operation,
}

/// Everything that determines the trained bits, together with the number of epochs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Key of every random stream.
    pub seed: u64,
    /// Logical slices of a global batch.
    pub shards: u32,
    /// Images per shard and step.
    pub batch_size: u32,
    /// Adam's learning rate, at the beginning.
    pub learning_rate: f64,
    /// How it goes on.
    #[serde(default)]
    pub learning_rate_schedule: LearningRateSchedule,
    /// Epochs in which the KL divergence's weight grows from nothing to beta; 0 for none.
    #[serde(default)]
    pub warmup_epochs: u32,
    /// The largest norm of the mean gradient; a longer one is shortened to it.
    #[serde(default)]
    pub grad_clip: Option<f64>,
    /// Whether grey pixels are made black or white.
    #[serde(default)]
    pub binarize: Binarize,
    /// Latents drawn an image and step; of more than one the objective is the
    /// importance-weighted bound.
    #[serde(default = "one")]
    pub importance_samples: u32,
    /// In what the factors of matrix products are.
    pub precision: Precision,
    /// The network and its objective.
    pub model: ModelConfig,
    /// How many of the training images are used, from the first.
    pub train_images: u32,
    /// How many of the test images are used, from the first.
    pub test_images: u32,
}

/// The network and its objective.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Width of both hidden layers of encoder and decoder.
    pub hidden_dim: u32,
    /// Dimensions of the latent space.
    pub latent_dim: u32,
    /// The distribution of a pixel given the latents.
    pub likelihood: Likelihood,
    /// Weight of the KL divergence in the objective.
    pub beta: f64,
}

/// The distribution of a pixel given the latents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Likelihood {
    /// Cross-entropy with logits, on grey pixels.
    Bernoulli,
    /// Squared error with one learned variance.
    Gaussian,
}

/// In what the factors of matrix products are. Products are added in f32, and parameters,
/// gradients and optimizer are f32, in either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 24 significant bits.
    #[default]
    F32,
    /// 8 significant bits: half the memory traffic, twice the speed where the CPU has
    /// instructions for it.
    Bf16,
}

/// How the learning rate goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LearningRateSchedule {
    /// The same all along.
    #[default]
    Constant,
    /// Eight stages, of 1, 3, 9 .. 2187 epochs, each lower by the seventh root of 10 (Burda,
    /// Grosse and Salakhutdinov 2016).
    Iwae,
    /// Half a cosine, down to nothing at the run's last step.
    Cosine,
}

/// Whether grey pixels are made black or white.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Binarize {
    /// They stay grey.
    #[default]
    None,
    /// White with the probability of their grey, drawn anew at every visit.
    Dynamic,
}

const fn one() -> u32 {
    1
}

/// How a run is carried out; none of it changes the bits of a given step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// Members of a full generation.
    pub workers: u32,
    /// Passes over the training images.
    pub epochs: u32,
    /// How members exchange gradients.
    pub collective: Collective,
    /// Steps between comparisons of the members' digests; 0 for never.
    pub verify_every: u32,
    /// Epochs between checkpoints.
    pub checkpoint_every_epochs: u32,
    /// Checkpoints that are kept, the newest.
    pub keep_checkpoints: u32,
    /// The folder in an object store where they are kept too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_url: Option<String>,
}

/// How members exchange gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Collective {
    /// The fastest that all members support.
    Auto,
    /// Streams between the members.
    Grpc,
    /// Shared memory; all members are on one host.
    Shm,
    /// Shared memory among the members of each host, streams between hosts.
    #[serde(rename = "two-level")]
    TwoLevel,
    /// NCCL; every member has a GPU of its own.
    Nccl,
}

/// A training field in which two configurations differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The field's path, as in `model.hidden_dim`.
    pub field: String,
    /// Its value in the first configuration, as JSON.
    pub ours: String,
    /// Its value in the second configuration, as JSON.
    pub theirs: String,
}

impl Training {
    /// The fields in which `other` differs, by name; empty when both train the same bits.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        if let (Ok(ours), Ok(theirs)) = (serde_json::to_value(self), serde_json::to_value(other)) {
            compare(&ours, &theirs, "", &mut found);
        }
        found
    }
}

fn compare(
    ours: &serde_json::Value,
    theirs: &serde_json::Value,
    path: &str,
    found: &mut Vec<Difference>,
) {
    match (ours, theirs) {
        (serde_json::Value::Object(ours), serde_json::Value::Object(theirs)) => {
            for (key, ours) in ours {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let theirs = theirs.get(key).unwrap_or(&serde_json::Value::Null);
                compare(ours, theirs, &path, found);
            }
        }
        (ours, theirs) if ours != theirs => found.push(Difference {
            field: path.to_owned(),
            ours: ours.to_string(),
            theirs: theirs.to_string(),
        }),
        _ => {}
    }
}

impl ModelConfig {
    /// The number of trained parameters.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let layer = |inputs: u32, outputs: u32| (u64::from(inputs) + 1) * u64::from(outputs);
        let (hidden, latent) = (self.hidden_dim, self.latent_dim);
        let encoder = layer(PIXELS, hidden) + layer(hidden, hidden) + layer(hidden, 2 * latent);
        let decoder = layer(latent, hidden) + layer(hidden, hidden) + layer(hidden, PIXELS);
        encoder + decoder + u64::from(self.likelihood == Likelihood::Gaussian)
    }
}

/// What any worker takes, with the smallest of models, in bytes: libtorch, MNIST, buffers.
/// Measured; about half of it is libtorch's.
const WORKER_BYTES: u64 = 130_000_000;

impl Training {
    /// A lower bound of the memory that one worker needs, in bytes: what any takes, parameters,
    /// gradient, sum and both Adam moments, and what a batch's activations and gradients take.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        // What goes into matrix products has the precision's size; results have that of f32.
        let (factor, weights) = match self.precision {
            Precision::F32 => (4, 0),
            Precision::Bf16 => (2, 2),
        };
        let pixels = u64::from(PIXELS);
        let image = factor * (5 * u64::from(self.model.hidden_dim) + 2 * pixels) + 4 * pixels;
        let images = u64::from(self.batch_size) * u64::from(self.importance_samples);
        WORKER_BYTES + (5 * 4 + weights) * self.model.parameters() + images * image
    }
}
