//! The description of a task, for programs that do not know the task.

use serde::{Deserialize, Serialize};
use serde_json::json;
use thiserror::Error;

use crate::{
    Difference, differences,
    manifest::{InvalidManifest, Manifest},
};

/// The most metrics that a task reports; the loss is the first.
pub const METRICS_MAX: usize = 8;

/// Most bytes of a name, a unit, or a summary.
const TEXT_BYTES_MAX: usize = 256;

/// A task with its options and its data set. The run's configuration holds it, so that every worker
/// receives it. A program that does not know the task can still compare and store it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// The task's name, as in `vae`.
    pub name: String,
    /// The task's revision: two revisions compute different bits.
    pub revision: u32,
    /// The task's options: an object whose keys are the names of the flags, with underscores.
    pub options: serde_json::Value,
    /// The data set.
    pub dataset: Manifest,
    /// The task's word for an example, in the singular, as in `image`.
    pub example: String,
    /// The metrics that the task reports, the loss first.
    pub metrics: Vec<Metric>,
    /// The number format of the factors in matrix products.
    #[serde(default)]
    pub precision: Precision,
    /// Whether every CPU computes the same bits, with any instruction set and libtorch, and in f32 every GPU too.
    #[serde(default)]
    pub portable: bool,
    /// A summary for people, in a few words.
    pub summary: String,
    /// The task's needs of a machine.
    pub size: Size,
}

/// The number format of the factors of matrix products. With either format, products are added in f32, and parameters,
/// gradients and optimizer are f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 24 significant bits.
    #[default]
    F32,
    /// 8 significant bits, half the memory traffic.
    Bf16,
}

/// A number that a task reports for each example, summed by the members and shown as a mean.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// The metric's name, lowercase, as in `reconstruction`: a key in the metrics.
    pub name: String,
    /// The metric's unit for one example, as in `nats`; empty if it has none.
    pub unit: String,
}

/// A task's needs of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// The number of trained parameters.
    pub parameters: u64,
    /// A lower bound of a worker's memory, in bytes, without the examples of a batch.
    pub worker_bytes: u64,
    /// A lower bound of the memory of one example in a batch, in bytes.
    pub example_bytes: u64,
}

/// Why a description is refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InvalidTask {
    /// An invalid name.
    #[error(
        "{0:?} must be lowercase letters, digits, dashes or underscores, and begin with a letter"
    )]
    Name(String),
    /// A text is too long, or has control characters.
    #[error("{0:?} must be at most {TEXT_BYTES_MAX} bytes without control characters")]
    Text(String),
    /// The task reports no metric, or too many.
    #[error("a task reports from 1 to {METRICS_MAX} metrics, the loss first; {0} has {1}")]
    Metrics(String, usize),
    /// Two metrics have the same name.
    #[error("the task {0} reports two metrics called {1:?}")]
    SameName(String, String),
    /// The options are not an object.
    #[error("the options of the task {0} are not an object of named values")]
    Options(String),
    /// The data set is invalid.
    #[error(transparent)]
    Dataset(#[from] InvalidManifest),
}

impl Task {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first fault found.
    pub fn validate(&self) -> Result<(), InvalidTask> {
        let (name, count) = (&self.name, self.metrics.len());
        if !(1..=METRICS_MAX).contains(&count) {
            return Err(InvalidTask::Metrics(name.clone(), count));
        }
        let metrics = self.metrics.iter().map(|metric| &metric.name);
        if let Some(bad) = [name, &self.example].into_iter().chain(metrics).find(|n| !is_name(n)) {
            return Err(InvalidTask::Name(bad.clone()));
        }
        for (index, metric) in self.metrics.iter().enumerate() {
            if self.metrics[..index].iter().any(|other| other.name == metric.name) {
                return Err(InvalidTask::SameName(name.clone(), metric.name.clone()));
            }
        }
        let units = self.metrics.iter().map(|metric| &metric.unit);
        if let Some(bad) = units.chain([&self.summary]).find(|text| !is_text(text)) {
            return Err(InvalidTask::Text(bad.clone()));
        }
        if !self.options.is_object() {
            return Err(InvalidTask::Options(name.clone()));
        }
        Ok(self.dataset.validate()?)
    }

    /// The task's word for examples, in the plural, as in `images`.
    #[must_use]
    pub fn examples(&self) -> String {
        format!("{}s", self.example)
    }

    /// The options and other parts of the task's identity in which `other` differs, by name.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let identity = |task: &Self| json!({ "task": format!("{} {}", task.name, task.revision) });
        let mut found = differences(&identity(self), &identity(other));
        found.extend(differences(&self.options, &other.options));
        if found.is_empty() && !self.dataset.is_same_data(&other.dataset) {
            let field = "dataset".into();
            let (ours, theirs) = (self.dataset.to_string(), other.dataset.to_string());
            found.push(Difference { field, ours, theirs });
        }
        found
    }
}

fn is_name(name: &str) -> bool {
    let is_inside = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    name.len() <= TEXT_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(is_inside)
}

fn is_text(text: &str) -> bool {
    text.len() <= TEXT_BYTES_MAX && !text.chars().any(char::is_control)
}
