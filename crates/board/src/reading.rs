//! The state of a run at one moment, as the page and the metrics show it.

use std::fmt::Debug;

use secure::connection::BoxFuture;
use serde::Serialize;

/// A source of the current run's state.
pub trait Source: Debug + Send + Sync {
    /// The state of the run now; none if it is not known, for example before the run begins.
    fn read(&self) -> BoxFuture<'static, Option<Reading>>;
}

/// The state of a run at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Reading {
    /// The run's id.
    pub run_id: String,
    /// The name of the task that is trained.
    pub task: String,
    /// What the run is doing, for example `training`.
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
    /// The metric's name.
    pub name: String,
    /// The metric's unit for one example; empty if it has none.
    pub unit: String,
    /// The mean.
    pub value: f64,
}

/// A worker that is connected.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Worker {
    /// The worker's rank; none for a spare.
    pub rank: Option<u32>,
    /// Name of the worker's host.
    pub host: String,
    /// Number of the worker's process on that host.
    pub process: u32,
    /// Name of the worker's device, as in `CPU (AVX-512)`; none if not known.
    pub device: Option<String>,
    /// Memory of the worker's process in bytes; none if not known.
    pub memory_bytes: Option<u64>,
    /// What the worker is doing: `computing`, `waiting` and so on; `unknown` before its first heartbeat.
    pub state: &'static str,
    /// Whether the worker is a member of the current generation.
    pub is_member: bool,
    /// Updates applied to the worker's state; none before its first heartbeat.
    pub step: Option<u64>,
    /// Seconds since the worker's last heartbeat.
    pub silent_seconds: f64,
}
