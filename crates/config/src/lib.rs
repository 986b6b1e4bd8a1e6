//! The configuration of a run: the coordinator decides it, `config.json` keeps it, and every worker
//! receives it.
//!
//! [`Training`] determines the bits of the result and never changes within a run.
//! [`Operation`] says how the run is carried out, and may change when the run is resumed. The
//! coordinator parses the flags, and the task interprets its options.

pub mod bounds;
pub mod manifest;
pub mod task;
pub mod validate;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use manifest::{FileEntry, Manifest};
pub use task::{InvalidTask, Metric, Size, Task};
pub use validate::InvalidConfig;

/// The configuration of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Everything that the result depends on, except `epochs` and `early_stop_epochs`.
    pub training: Training,
    /// How the run is carried out.
    pub operation: Operation,
}

/// Everything that determines the trained bits, together with `epochs` and `early_stop_epochs` of
/// [`Operation`]: these determine the last step, and the cosine schedule depends on `epochs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Key of every random stream.
    pub seed: u64,
    /// Logical slices of a global batch.
    pub shards: u32,
    /// Examples per shard and step.
    pub batch_size: u32,
    /// Adam's learning rate, at the beginning.
    pub learning_rate: f64,
    /// The schedule of the learning rate.
    #[serde(default)]
    pub learning_rate_schedule: LearningRateSchedule,
    /// The largest norm of the mean gradient; a gradient with a larger norm is scaled down to it.
    #[serde(default)]
    pub grad_clip: Option<f64>,
    /// The number of training examples in use, counted from the first.
    pub train_examples: u32,
    /// The number of training examples that are held out for validation: the last of those in use.
    #[serde(default)]
    pub validation_examples: u32,
    /// The number of test examples in use, counted from the first.
    pub test_examples: u32,
    /// Threads of every worker for a model whose bits depend on this number, that is, a model of
    /// libtorch's autograd.
    #[serde(default = "one")]
    pub model_threads: u32,
    /// The task that is trained.
    pub task: Task,
}

const fn one() -> u32 {
    1
}

/// The schedule of the learning rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum LearningRateSchedule {
    /// Constant.
    #[default]
    Constant,
    /// Eight stages, of 1, 3, 9 .. 2187 epochs, each lower by the seventh root of 10 (Burda,
    /// Grosse and Salakhutdinov 2016).
    Iwae,
    /// Half a cosine, down to zero at the run's last step.
    Cosine,
}

/// How a run is carried out. No field changes the bits of a given step, except `epochs` with the
/// cosine schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// Members of a full generation.
    pub workers: u32,
    /// Passes over the training examples.
    pub epochs: u32,
    /// How members exchange gradients.
    pub collective: Collective,
    /// Steps between comparisons of the members' digests; 0 for never.
    pub verify_every: u32,
    /// Epochs between checkpoints.
    pub checkpoint_every_epochs: u32,
    /// The number of checkpoints that are kept: the newest.
    pub keep_checkpoints: u32,
    /// Whether the checkpoint with the lowest validation loss is kept too.
    #[serde(default)]
    pub keep_best: bool,
    /// Epochs without a better validation loss after which the run ends; 0 for never.
    #[serde(default)]
    pub early_stop_epochs: u32,
    /// The folder in an object store that also keeps the checkpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_url: Option<String>,
}

/// How members exchange gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Collective {
    /// Shared memory among members that can share it, streams between the others.
    Auto,
    /// Streams between the members.
    Grpc,
    /// Shared memory; all members are on one host.
    Shm,
    /// Shared memory among the members of each host, streams between hosts.
    #[serde(rename = "two-level")]
    TwoLevel,
    /// NCCL; every member has its own GPU. NCCL opens ports of its own, so only with --insecure.
    Nccl,
}

/// A training field in which two configurations differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The field's name, as in `hidden_dim`; an option of the task has the name of its flag.
    pub field: String,
    /// The field's value in the first configuration, as JSON.
    pub ours: String,
    /// The field's value in the second configuration, as JSON.
    pub theirs: String,
}

impl Training {
    /// The fields in which `other` differs, by name; empty when both train the same bits.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let fields = |training: &Self| serde_json::to_value(training).unwrap_or_default();
        let mut found = differences(&fields(self), &fields(other));
        found.retain(|difference| difference.field != TASK);
        found.extend(self.task.differences(&other.task));
        found
    }

    /// The number of examples to learn from: those in use that are not held out.
    #[must_use]
    pub fn learned_examples(&self) -> u32 {
        self.train_examples.saturating_sub(self.validation_examples)
    }

    /// A lower bound of the memory that one worker needs, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let Size { worker_bytes, example_bytes, .. } = self.task.size;
        worker_bytes.saturating_add(example_bytes.saturating_mul(self.batch_size.into()))
    }
}

/// The fields in which two objects differ.
#[must_use]
pub fn differences(ours: &Value, theirs: &Value) -> Vec<Difference> {
    let names = |object: &Value| -> BTreeSet<String> {
        object.as_object().into_iter().flat_map(|object| object.keys().cloned()).collect()
    };
    let fields = &names(ours) | &names(theirs);
    let differs = fields.into_iter().filter(|field| ours[field] != theirs[field]);
    let difference = |field: String| Difference {
        ours: ours[&field].to_string(),
        theirs: theirs[&field].to_string(),
        field,
    };
    differs.map(difference).collect()
}

/// The field that holds the task.
const TASK: &str = "task";
