//! Recovery times of a run, from the event log and from the times of the disasters. `cargo xtask
//! chaos` makes a table of them.

use std::{env, fs::OpenOptions, io::Write as _};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Disaster, Way};
use crate::harness::Place;

/// The variable with the file to which figures are appended; without it they are not written.
const FIGURES: &str = "LOCKSTEP_CHAOS_FIGURES";

/// The figures of a seed.
pub(super) struct Figures {
    seed: u64,
    way: Way,
    /// When workers were killed.
    kills: Vec<Timestamp>,
    /// The current outage of the coordinator, if there is one.
    outage: Option<Outage>,
    lines: Vec<Value>,
}

/// An outage of the coordinator.
struct Outage {
    begun: Timestamp,
    step: u64,
    /// The number of reports in the metrics before.
    reports: usize,
    steps_per_second: f64,
}

impl Figures {
    pub(super) fn new(seed: u64, way: Way) -> Self {
        Self { seed, way, kills: Vec::new(), outage: None, lines: Vec::new() }
    }

    /// Notes that a disaster is about to strike.
    pub(super) fn struck(&mut self, disaster: Disaster, place: &Place) {
        let now = Timestamp::now();
        match disaster {
            Disaster::Kill(_) | Disaster::KillTwo(..) => self.kills.push(now),
            Disaster::Coordinator => {
                let reports = place.metrics("steps");
                self.outage = reports.last().map(|last| Outage {
                    begun: now,
                    step: last["step"].as_u64().unwrap(),
                    reports: reports.len(),
                    steps_per_second: pace(place),
                });
            }
            _ => {}
        }
    }

    /// Notes that the run has made progress after the disaster.
    pub(super) fn endured(&mut self, place: &Place) {
        let Some(Outage { begun, step, reports, steps_per_second }) = self.outage.take() else {
            return;
        };
        let seconds = milliseconds(begun, Timestamp::now()) / 1e3;
        let now = place.metrics("steps")[reports]["step"].as_u64().unwrap();
        self.lines.push(json!({
            "figure": "outage",
            "seconds": seconds,
            "steps": now - step,
            "expected": seconds * steps_per_second,
        }));
    }

    /// Adds the figures of the whole seed to the file, if there is one.
    pub(super) fn write(mut self, place: &Place) {
        let Some(path) = env::var_os(FIGURES) else { return };
        let started = place.events("generation_started");
        let ended = place.events("generation_ended");
        let lost = place.events("lost");
        for kill in &self.kills {
            let (Some(lost), Some(ended)) = (first(&lost, *kill), first(&ended, *kill)) else {
                continue;
            };
            // If the lost worker was a member, its generation has ended before the loss is noted.
            // Otherwise the next end has another cause, such as a pause for a new worker, and is
            // not counted.
            if time(ended) > time(lost) {
                continue;
            }
            let Some(started) = first(&started, time(ended)) else { continue };
            self.lines.push(json!({
                "figure": "kill",
                "ms": milliseconds(*kill, time(started)),
                "detection_ms": milliseconds(*kill, time(ended)),
                "agreement_ms": started["agreement_ms"],
                "transfer_ms": started["transfer_ms"],
                "connection_ms": started["connection_ms"],
            }));
        }
        let is_pause =
            |event: &&Value| event["cause"].as_str().is_some_and(|c| c.contains("pause"));
        self.lines.extend(started.iter().filter(is_pause).map(|started| {
            json!({
                "figure": "pause",
                "ms": started["ms"],
                "agreement_ms": started["agreement_ms"],
                "transfer_ms": started["transfer_ms"],
                "connection_ms": started["connection_ms"],
            })
        }));
        self.lines.extend(place.events("state_transferred").iter().map(
            |event| json!({ "figure": "transfer", "bytes": event["bytes"], "ms": event["ms"] }),
        ));
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        for mut line in self.lines {
            line["seed"] = self.seed.into();
            line["links"] = (self.way == Way::Links).into();
            // One write per line, because another seed may write at the same time.
            file.write_all(format!("{line}\n").as_bytes()).unwrap();
        }
    }
}

/// The first event at or after `since`.
fn first(events: &[Value], since: Timestamp) -> Option<&Value> {
    events.iter().find(|event| time(event) >= since)
}

/// Steps a second over the last `REPORTS` reports.
pub(super) fn pace(place: &Place) -> f64 {
    const REPORTS: usize = 8;
    let reports = place.metrics("steps");
    let rates = reports.iter().rev().take(REPORTS);
    let seconds: f64 = rates
        .clone()
        .map(|line| number(&line["examples"]) / number(&line["examples_per_second"]))
        .sum();
    let steps = number(&reports[reports.len() - 1]["step"])
        - reports.len().checked_sub(REPORTS + 1).map_or(0.0, |i| number(&reports[i]["step"]));
    steps / seconds
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn time(event: &Value) -> Timestamp {
    event["time"].as_str().unwrap().parse().unwrap()
}

fn milliseconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64() * 1e3
}
