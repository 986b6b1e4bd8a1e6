//! Writes a run in the text format of OpenMetrics. The counters come from the run's files, so they continue
//! when a coordinator is restarted.

use std::{borrow::Cow, sync::atomic::AtomicU64};

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};

use crate::{
    process,
    reading::Reading,
    run::{RankTime, Run, slowest},
    story::Labels,
};

/// The media type of the text from [`text`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The most ranks that have their own series. With more ranks, only the maximum and the median are shown.
const RANKS_MAX: usize = 64;

type Number = Gauge<f64, AtomicU64>;
type Numbers = Family<Labels, Number>;
type Seconds = Counter<f64, AtomicU64>;

/// The current run in the format for Prometheus. Numbers that are not known are left out.
pub(crate) fn text(reading: Option<&Reading>, run: Option<&mut Run>) -> String {
    let mut all = Registry::default();
    add_process(&mut all);
    let lockstep = all.sub_registry_with_prefix("lockstep");
    let help = "Whether the coordinator reports the state of the run";
    number(lockstep, "up", help, f64::from(u8::from(reading.is_some())));
    if let Some(reading) = reading {
        add_reading(lockstep, reading);
    }
    if let Some(run) = run {
        add_run(lockstep, run, reading);
    }
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _infallible = encode(&mut text, &all);
    text
}

fn add_reading(all: &mut Registry, reading: &Reading) {
    let state = Numbers::default();
    state.get_or_create(&vec![("state", label(&reading.state))]).set(1.0);
    all.register("run_state", "What the run is doing: the series of this state is 1", state);
    number(all, "generation", "Number of the generation", reading.generation as f64);
    number(all, "step", "Updates done, as far as is known", reading.step as f64);
    number(all, "steps_planned", "Updates of the whole run", reading.steps as f64);
    number(all, "epoch", "Epoch of the next update, from 1", reading.epoch as f64);
    number(all, "epochs_planned", "Epochs of the whole run", reading.epochs.into());
    number(all, "workers_wanted", "Members of a full generation", reading.workers_wanted.into());
    if let Some(rate) = reading.examples_per_second {
        number(all, "examples_per_second", "Training examples a second", rate);
    }
    let waited = reading.waiting_seconds.unwrap_or_default();
    seconds(all, "waiting", "Time for which the run has waited; 0 while it does not", waited);
    if let Some(ago) = reading.reported_seconds_ago {
        seconds(all, "report_age", "Time since the last report of the leader", ago);
    }
    let means = Numbers::default();
    for metric in &reading.metrics {
        let labels = vec![("name", label(&metric.name)), ("unit", label(&metric.unit))];
        means.get_or_create(&labels).set(metric.value);
    }
    all.register("training_mean", "Means over training examples, as last reported", means);
    add_workers(all, reading);
}

fn add_workers(all: &mut Registry, reading: &Reading) {
    let counts = Numbers::default();
    for worker in &reading.workers {
        let role = if worker.is_member { "member" } else { "other" };
        let labels = vec![("role", role.to_owned()), ("state", worker.state.to_owned())];
        counts.get_or_create(&labels).inc();
    }
    all.register("workers", "Connected workers by role and by what they do", counts);
    let members = reading.workers.iter().filter(|worker| worker.is_member).count();
    number(all, "members", "Workers that take part in the generation", members as f64);
    let silent = reading.workers.iter().map(|worker| worker.silent_seconds);
    if let Some(longest) = silent.max_by(f64::total_cmp) {
        seconds(all, "worker_silence_max", "Longest time without a heartbeat", longest);
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
    all.register("worker_step", "Updates applied to the worker's state", steps);
    let help = "Time since the worker's last heartbeat";
    all.register_with_unit("worker_silence", help, Unit::Seconds, silences);
}

fn add_run(all: &mut Registry, run: &Run, reading: Option<&Reading>) {
    let about = &run.about;
    let labels = vec![
        ("run_id", label(&about.run_id)),
        ("name", label(&about.name)),
        ("task", label(&about.task)),
    ];
    all.register("run", "The run", Info::new(labels));
    let examples: Counter = Counter::default();
    examples.inc_by(run.examples);
    all.register("examples", "Examples trained on, also those trained on again", examples);
    counted_seconds(all, "training", "Time of training steps", run.seconds);
    if let Some(rate) = run.series.newest("learning_rate") {
        number(all, "learning_rate", "Learning rate of the last reported step", rate);
    }
    if let Some(norm) = run.series.newest("gradient_norm") {
        number(all, "gradient_norm", "Norm of the gradient, as last reported", norm);
    }
    let tests = Numbers::default();
    for metric in &about.metrics {
        if let Some(value) = run.epochs.newest(&format!("test_{}", metric.name)) {
            let labels = vec![("name", label(&metric.name)), ("unit", label(&metric.unit))];
            tests.get_or_create(&labels).set(value);
        }
    }
    all.register("test_mean", "Means over test examples after the last tested epoch", tests);
    let kept = &run.checkpoints;
    number(all, "checkpoints", "Checkpoints that are kept", kept.kept as f64);
    if let Some(step) = kept.newest_step {
        number(all, "checkpoint_step", "Updates in the newest checkpoint", step as f64);
    }
    if let Some(time) = kept.newest_time {
        seconds(all, "checkpoint_timestamp", "When the newest checkpoint was written", time);
    }
    add_counts(all, run);
    add_ranks(all, run, reading);
}

fn add_counts(all: &mut Registry, run: &Run) {
    let counts = run.story.counts.clone();
    all.register("workers_lost", "Workers lost, by reason", counts.losses);
    all.register("workers_joined", "Workers admitted", counts.joined);
    all.register("worker_restarts", "Workers that the coordinator started again", counts.restarts);
    let help = "Workers that the coordinator no longer starts again";
    all.register("workers_given_up", help, counts.given_up);
    let help = "Times that a coordinator of this run was started";
    all.register("coordinator_starts", help, counts.coordinator_starts);
    let help = "Generations, by the cause that ended the previous one";
    all.register("generations", help, counts.generations);
    let help = "Time for which members stood still between generations, by phase";
    all.register_with_unit("recovery", help, Unit::Seconds, counts.recovery);
    all.register("state_transfers", "States copied from another worker", counts.transfers);
    let help = "Bytes of the copied states";
    all.register_with_unit("state_transfer", help, Unit::Bytes, counts.transfer_bytes);
    let help = "Time of copying states";
    all.register_with_unit("state_transfer_time", help, Unit::Seconds, counts.transfer_seconds);
}

/// The members' time by phase: of each member, or median and maximum if there are many members.
fn add_ranks(all: &mut Registry, run: &Run, reading: Option<&Reading>) {
    let recent = run.recent();
    if let Some(rank) = slowest(&recent) {
        let help = "Rank that the others have waited for lately; absent if there is none";
        number(all, "slowest_rank", help, rank.into());
    }
    let members = reading.map_or(0, |reading| reading.workers.len());
    let ranks: Vec<&RankTime> = run.totals.values().collect();
    if ranks.len().max(members) <= RANKS_MAX {
        let family: Family<Labels, Seconds> = Family::default();
        let memory = Numbers::default();
        for rank in ranks {
            for (phase, value) in phases(rank) {
                let labels = vec![("rank", rank.rank.to_string()), ("phase", phase.to_owned())];
                family.get_or_create(&labels).inc_by(value);
            }
            if let Some(bytes) = rank.memory_bytes {
                memory.get_or_create(&vec![("rank", rank.rank.to_string())]).set(bytes as f64);
            }
        }
        let help = "Where the members' time went, by rank and phase";
        all.register_with_unit("rank", help, Unit::Seconds, family);
        let help = "Memory of the member's process, as last reported";
        all.register_with_unit("worker_memory", help, Unit::Bytes, memory);
        return;
    }
    let family = Numbers::default();
    for index in 0..3 {
        let mut values: Vec<f64> = recent.iter().map(|rank| phases(rank)[index].1).collect();
        values.sort_by(f64::total_cmp);
        let phase = phases(&RankTime::default())[index].0;
        let middle = values.get(values.len() / 2).copied();
        for (of, value) in [("median", middle), ("max", values.last().copied())] {
            if let Some(value) = value {
                let labels = vec![("of", of.to_owned()), ("phase", phase.to_owned())];
                family.get_or_create(&labels).set(value);
            }
        }
    }
    let help = "Where the members' time went in the last 10 s, of many members";
    all.register_with_unit("ranks_recent", help, Unit::Seconds, family);
}

fn phases(rank: &RankTime) -> [(&'static str, f64); 3] {
    [("compute", rank.compute), ("all_reduce", rank.all_reduce), ("waiting", rank.waiting)]
}

/// Adds the numbers of this process, under the names that all exporters use.
fn add_process(all: &mut Registry) {
    let Some(usage) = process::usage() else { return };
    counted_seconds(all, "process_cpu", "Processor time of the coordinator", usage.cpu_seconds);
    let bytes = [
        ("process_resident_memory", "Resident memory of the coordinator", usage.resident_bytes),
        ("process_virtual_memory", "Virtual memory of the coordinator", usage.virtual_bytes),
    ];
    for (name, help, value) in bytes {
        let gauge = Number::default();
        gauge.set(value);
        all.register_with_unit(name, help, Unit::Bytes, gauge);
    }
    seconds(all, "process_start_time", "When the coordinator started", usage.started);
    number(all, "process_threads", "Threads of the coordinator", usage.threads);
    number(all, "process_open_fds", "Open files of the coordinator", usage.open_files);
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

fn counted_seconds(all: &mut Registry, name: &str, help: &str, value: f64) {
    let counter = Seconds::default();
    counter.inc_by(value);
    all.register_with_unit(name, help, Unit::Seconds, counter);
}

/// Escapes a label's value, because the encoder writes values unchanged.
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
#[path = "metrics/tests.rs"]
mod tests;
