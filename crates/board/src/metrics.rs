//! A reading in the text format of OpenMetrics.

use std::{borrow::Cow, sync::atomic::AtomicU64};

use prometheus_client::{
    encoding::text::encode,
    metrics::{family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};

use crate::reading::Reading;

/// The type of what [`text`] returns.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Ranks with series of their own; a run with more has those of the slowest and most silent alone.
const RANKS_MAX: usize = 64;

type Labels = Vec<(&'static str, String)>;
type Number = Gauge<f64, AtomicU64>;
type Numbers = Family<Labels, Number>;

/// The reading as Prometheus reads it. Numbers that are not known are left out.
pub(crate) fn text(reading: &Reading) -> String {
    let mut all = Registry::with_prefix("lockstep");
    let labels = vec![("run_id", label(&reading.run_id)), ("task", label(&reading.task))];
    all.register("run", "The run", Info::new(labels));
    let state = Numbers::default();
    state.get_or_create(&vec![("state", label(&reading.state))]).set(1.0);
    all.register("run_state", "What the run is doing: the series of this state is 1", state);
    number(&mut all, "generation", "Number of the generation", reading.generation as f64);
    number(&mut all, "step", "Updates done, as far as is known", reading.step as f64);
    number(&mut all, "steps_planned", "Updates of the whole run", reading.steps as f64);
    number(&mut all, "epoch", "Epoch of the next update, from 1", reading.epoch as f64);
    number(&mut all, "epochs_planned", "Epochs of the whole run", reading.epochs.into());
    let wanted = reading.workers_wanted.into();
    number(&mut all, "workers_wanted", "Members of a full generation", wanted);
    if let Some(rate) = reading.examples_per_second {
        number(&mut all, "examples_per_second", "Training examples a second", rate);
    }
    let waited = reading.waiting_seconds.unwrap_or_default();
    seconds(&mut all, "waiting", "Time for which the run has waited; 0 while it does not", waited);
    if let Some(ago) = reading.reported_seconds_ago {
        seconds(&mut all, "report_age", "Time since the last report of the leader", ago);
    }
    let means = Numbers::default();
    for metric in &reading.metrics {
        let labels = vec![("name", label(&metric.name)), ("unit", label(&metric.unit))];
        means.get_or_create(&labels).set(metric.value);
    }
    all.register("training_mean", "Means over training examples, as last reported", means);
    add_workers(&mut all, reading);
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _infallible = encode(&mut text, &all);
    text
}

fn add_workers(all: &mut Registry, reading: &Reading) {
    let counts = Numbers::default();
    for worker in &reading.workers {
        let role = if worker.is_member { "member" } else { "other" };
        let labels = vec![("role", role.to_owned()), ("state", worker.state.to_owned())];
        counts.get_or_create(&labels).inc();
    }
    all.register("workers", "Connected workers by role and by what they do", counts);
    let silent = reading.workers.iter().map(|worker| worker.silent_seconds);
    if let Some(longest) = silent.max_by(f64::total_cmp) {
        seconds(all, "worker_silence_max", "Longest time without a sign of life", longest);
    }
    let least = reading.workers.iter().filter(|worker| worker.is_member);
    if let Some(least) = least.filter_map(|worker| worker.step).min() {
        number(all, "worker_step_min", "Updates of the member that has done fewest", least as f64);
    }
    if reading.workers.len() > RANKS_MAX {
        return;
    }
    let (steps, silences) = (Numbers::default(), Numbers::default());
    for worker in &reading.workers {
        let Some(rank) = worker.rank else { continue };
        let labels = vec![("rank", rank.to_string())];
        silences.get_or_create(&labels).set(worker.silent_seconds);
        if let Some(step) = worker.step {
            steps.get_or_create(&labels).set(step as f64);
        }
    }
    all.register("worker_step", "Updates that the worker's state has seen", steps);
    let help = "Time since the worker's last sign of life";
    all.register_with_unit("worker_silence", help, Unit::Seconds, silences);
}

fn number(all: &mut Registry, name: &str, help: &str, value: f64) {
    let gauge = Number::default();
    gauge.set(value);
    all.register(name, help, gauge);
}

fn seconds(all: &mut Registry, name: &str, help: &str, value: f64) {
    let gauge = Number::default();
    gauge.set(value);
    all.register_with_unit(name, help, Unit::Seconds, gauge);
}

/// A label's value as the format has it: the encoder writes values as they are.
fn label(text: &str) -> String {
    let escaped = |c: char| match c {
        '\\' => Cow::Borrowed("\\\\"),
        '"' => Cow::Borrowed("\\\""),
        '\n' => Cow::Borrowed("\\n"),
        c => Cow::Owned(c.to_string()),
    };
    text.chars().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::{Metric, Worker};

    #[test]
    fn a_reading_is_told_in_openmetrics() {
        let worker = |rank, step| Worker {
            rank,
            state: "computing",
            is_member: rank.is_some(),
            step,
            silent_seconds: 0.5,
        };
        let metric = Metric { name: "lo\"ss\n".into(), unit: "nats".into(), value: 1.5 };
        let reading = Reading {
            state: "training".into(),
            step: 7,
            metrics: vec![metric],
            workers: vec![worker(Some(0), Some(7)), worker(Some(1), Some(8)), worker(None, None)],
            ..Reading::default()
        };
        let text = text(&reading);
        for line in [
            "lockstep_run_state{state=\"training\"} 1.0",
            "lockstep_step 7.0",
            "lockstep_training_mean{name=\"lo\\\"ss\\n\",unit=\"nats\"} 1.5",
            "lockstep_workers{role=\"member\",state=\"computing\"} 2.0",
            "lockstep_workers{role=\"other\",state=\"computing\"} 1.0",
            "lockstep_worker_step{rank=\"1\"} 8.0",
            "lockstep_worker_step_min 7.0",
            "lockstep_worker_silence_seconds{rank=\"0\"} 0.5",
        ] {
            assert!(text.lines().any(|told| told == line), "{line}: {text}");
        }
        assert!(text.ends_with("# EOF\n"));
        assert!(!text.contains("examples_per_second"), "{text}");
    }
}
