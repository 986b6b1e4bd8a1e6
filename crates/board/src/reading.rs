//! How a run stands at one moment, in the words of the page and of the metrics.

use std::{fmt::Debug, future::Future};

use serde::Serialize;

/// A source that knows how the run stands.
pub trait Source: Clone + Debug + Send + Sync + 'static {
    /// How the run stands now; none if that is not known, as before it begins.
    fn read(&self) -> impl Future<Output = Option<Reading>> + Send;
}

/// Knows nothing: for runs that are looked at without their coordinators.
#[derive(Clone, Copy, Debug)]
pub struct NoSource;

impl Source for NoSource {
    async fn read(&self) -> Option<Reading> {
        None
    }
}

/// How a run stands at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Reading {
    /// The run's id.
    pub run_id: String,
    /// The name of what is trained.
    pub task: String,
    /// What the run is doing, in a word or two, as in `training`.
    pub state: String,
    /// The current generation, or the last one.
    pub generation: u64,
    /// Updates done, as far as is known.
    pub step: u64,
    /// Updates of the whole run.
    pub steps: u64,
    /// The epoch of the next update, from 1.
    pub epoch: u64,
    /// Epochs of the whole run.
    pub epochs: u32,
    /// Examples a second; none while no generation trains.
    pub examples_per_second: Option<f64>,
    /// Means over examples, as last reported.
    pub metrics: Vec<Metric>,
    /// Seconds since the last report; none before the first.
    pub reported_seconds_ago: Option<f64>,
    /// What the run waits for, in words; none while it waits for nothing.
    pub waiting_for: Option<String>,
    /// Seconds for which the run has waited; none while it waits for nothing.
    pub waiting_seconds: Option<f64>,
    /// Members of a full generation.
    pub workers_wanted: u32,
    /// All workers that are connected.
    pub workers: Vec<Worker>,
}

/// A mean over examples, as in `loss`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Metric {
    /// Its name.
    pub name: String,
    /// Its unit for one example; empty if it has none.
    pub unit: String,
    /// The mean.
    pub value: f64,
}

/// A worker that is connected.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Worker {
    /// Its rank; none for a spare.
    pub rank: Option<u32>,
    /// Name of its host.
    pub host: String,
    /// Number of its process there.
    pub process: u32,
    /// What it computes on, as in `CPU (AVX-512)`; none if that is not known.
    pub device: Option<String>,
    /// Memory of its process in bytes; none if that is not known.
    pub memory_bytes: Option<u64>,
    /// What it does: `computing`, `waiting` and so on, or `unknown` before its first sign of life.
    pub state: &'static str,
    /// Whether it is a member of the current generation.
    pub is_member: bool,
    /// Updates that its state has seen; none before its first sign of life.
    pub step: Option<u64>,
    /// Seconds since its last sign of life.
    pub silent_seconds: f64,
}
