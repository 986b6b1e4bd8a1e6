//! The events of a run from its log: as sentences, as generations, and as counts.

use std::collections::VecDeque;

use history::{Event, EventRow};
use prometheus_client::metrics::{counter::Counter, family::Family, histogram::Histogram};
use serde::Serialize;

/// The most events and generations that are kept: the newest.
const KEPT: usize = 500;

/// Bounds of the buckets of recovery times, in seconds.
const RECOVERY_SECONDS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Labels of a series.
pub(crate) type Labels = Vec<(&'static str, String)>;

type RecoveryTimes = Family<Labels, Histogram, fn() -> Histogram>;

/// An event as text for people.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ToldEvent {
    /// The number of the event in the run, from 0.
    number: u64,
    /// Unix seconds.
    time: Option<f64>,
    kind: String,
    text: String,
    /// Whether it is bad news.
    is_bad: bool,
}

/// A generation, for the timeline.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Generation {
    number: u64,
    ranks: Vec<u32>,
    step: u64,
    began: Option<f64>,
    ended: Option<f64>,
    /// Why the generation ended.
    cause: Option<String>,
    collective: Option<String>,
    /// How long the members stood still before this generation: in all, until the generation was
    /// decided on, the longest state transfer within that time, and from then to the first step.
    recovery_ms: Option<f64>,
    agreement_ms: f64,
    transfer_ms: f64,
    connection_ms: f64,
}

/// The events of a run so far.
#[derive(Debug)]
pub(crate) struct Story {
    events: VecDeque<ToldEvent>,
    generations: VecDeque<Generation>,
    told: u64,
    /// How the run ended, if it has.
    pub(crate) ended: Option<(bool, String)>,
    pub(crate) counts: Counts,
}

/// The counts of events.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    /// Lost workers, by reason.
    pub(crate) losses: Family<Labels, Counter>,
    /// Generations, by the cause that ended the previous one.
    pub(crate) generations: Family<Labels, Counter>,
    /// Seconds between two generations, by phase.
    pub(crate) recovery: RecoveryTimes,
    pub(crate) joined: Counter,
    pub(crate) restarts: Counter,
    pub(crate) given_up: Counter,
    pub(crate) coordinator_starts: Counter,
    pub(crate) transfers: Counter,
    pub(crate) transfer_bytes: Counter,
    pub(crate) transfer_seconds: Counter<f64, std::sync::atomic::AtomicU64>,
}

impl Default for Counts {
    fn default() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(RECOVERY_SECONDS);
        Self {
            losses: Family::default(),
            generations: Family::default(),
            recovery: Family::new_with_constructor(histogram),
            joined: Counter::default(),
            restarts: Counter::default(),
            given_up: Counter::default(),
            coordinator_starts: Counter::default(),
            transfers: Counter::default(),
            transfer_bytes: Counter::default(),
            transfer_seconds: Counter::default(),
        }
    }
}

impl Story {
    pub(crate) fn new() -> Self {
        let (events, generations) = (VecDeque::new(), VecDeque::new());
        Self { events, generations, told: 0, ended: None, counts: Counts::default() }
    }

    /// The number of events so far.
    pub(crate) fn told(&self) -> u64 {
        self.told
    }

    /// The events from this number on, oldest first.
    pub(crate) fn since(&self, number: u64) -> Vec<&ToldEvent> {
        self.events.iter().filter(|event| event.number >= number).collect()
    }

    pub(crate) fn generations(&self) -> &VecDeque<Generation> {
        &self.generations
    }

    pub(crate) fn push(&mut self, row: &EventRow) {
        let time = row.time.map(history::Time::unix_seconds);
        self.count(&row.event);
        self.follow(&row.event, time);
        let kind = row.event.kind().to_owned();
        let is_bad = matches!(
            &row.event,
            Event::Lost { .. } | Event::GivenUp { .. } | Event::Restarting { .. }
        ) && !is_planned(&row.event)
            || matches!(&row.event, Event::Ended { success: false, .. });
        let mut text = row.event.to_string();
        if let Some(first) = text.get(..1) {
            text = first.to_uppercase() + &text[1..];
        }
        push_bounded(&mut self.events, ToldEvent { number: self.told, time, kind, text, is_bad });
        self.told += 1;
    }

    fn follow(&mut self, event: &Event, time: Option<f64>) {
        match event {
            Event::GenerationEnded { generation, cause } => {
                let last = self.generations.back_mut();
                if let Some(last) = last.filter(|last| last.number == *generation) {
                    (last.ended, last.cause) = (time, Some(cause.clone()));
                }
            }
            Event::GenerationStarted {
                generation,
                ranks,
                step,
                collective,
                cause,
                agreement_ms,
                transfer_ms,
                connection_ms,
                ms,
            } => {
                self.ended = None;
                push_bounded(
                    &mut self.generations,
                    Generation {
                        number: *generation,
                        ranks: ranks.clone(),
                        step: *step,
                        began: time,
                        ended: None,
                        cause: None,
                        collective: collective.clone(),
                        recovery_ms: cause.as_ref().map(|_| *ms),
                        agreement_ms: *agreement_ms,
                        transfer_ms: *transfer_ms,
                        connection_ms: *connection_ms,
                    },
                );
            }
            Event::Ended { success, reason } => {
                self.ended = Some((*success, reason.clone()));
                if let Some(last) = self.generations.back_mut() {
                    last.ended = last.ended.or(time);
                }
            }
            Event::CoordinatorStarted { .. } => self.ended = None,
            _ => {}
        }
    }

    fn count(&self, event: &Event) {
        let counts = &self.counts;
        match event {
            Event::Lost { reason, .. } => {
                let labels = vec![("reason", reason_of(reason).to_owned())];
                counts.losses.get_or_create(&labels).inc();
            }
            Event::GenerationStarted {
                cause, agreement_ms, transfer_ms, connection_ms, ..
            } => {
                let labels = vec![("cause", cause_of(cause.as_deref()).to_owned())];
                counts.generations.get_or_create(&labels).inc();
                if cause.is_some() {
                    for (phase, ms) in [
                        ("agreement", agreement_ms),
                        ("transfer", transfer_ms),
                        ("connection", connection_ms),
                    ] {
                        let labels = vec![("phase", phase.to_owned())];
                        counts.recovery.get_or_create(&labels).observe(ms / 1e3);
                    }
                }
            }
            Event::StateTransferred { bytes, ms, .. } => {
                counts.transfers.inc();
                counts.transfer_bytes.inc_by(*bytes);
                if *ms > 0.0 && ms.is_finite() {
                    counts.transfer_seconds.inc_by(ms / 1e3);
                }
            }
            Event::Joined { .. } => {
                counts.joined.inc();
            }
            Event::Restarting { .. } => {
                counts.restarts.inc();
            }
            Event::GivenUp { .. } => {
                counts.given_up.inc();
            }
            Event::CoordinatorStarted { .. } => {
                counts.coordinator_starts.inc();
            }
            _ => {}
        }
    }
}

fn push_bounded<T>(kept: &mut VecDeque<T>, new: T) {
    if kept.len() == KEPT {
        kept.pop_front();
    }
    kept.push_back(new);
}

fn is_planned(event: &Event) -> bool {
    matches!(event, Event::Lost { reason, .. } if reason_of(reason) == "left")
}

/// The kind of a loss: a label with few values.
fn reason_of(reason: &str) -> &'static str {
    let known = [
        ("it was told to leave", "left"),
        ("its connection ended", "disconnected"),
        ("it gave no sign of life", "silent"),
        ("the others waited for it", "stalled"),
        ("it did not carry out a command", "unresponsive"),
        // In runs of earlier versions.
        ("it did not do what it was told", "unresponsive"),
        ("it could not fetch the run's state", "unreachable"),
        ("the others could not fetch its state", "isolated"),
        ("it could not get ready", "unable"),
    ];
    known.iter().find(|(words, _)| reason.starts_with(words)).map_or("other", |(_, kind)| kind)
}

/// The kind of a cause: a label with few values.
fn cause_of(cause: Option<&str>) -> &'static str {
    match cause {
        None => "first",
        Some(cause) if cause.starts_with("a pause") => "pause",
        Some(cause) if cause.contains(" is gone: ") => "loss",
        Some(_) => "interrupted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story(rows: &[&str]) -> Story {
        let mut story = Story::new();
        for row in rows {
            story.push(&serde_json::from_str(row).unwrap());
        }
        story
    }

    #[test]
    fn generations_follow_from_the_events() {
        let story = story(&[
            r#"{"kind":"generation_started","time":"2026-01-02T03:04:05Z","generation":1,"ranks":[0,1],"step":0}"#,
            r#"{"kind":"lost","time":"2026-01-02T03:04:06Z","rank":1,"reason":"its connection ended (reset)"}"#,
            r#"{"kind":"generation_ended","time":"2026-01-02T03:04:06Z","generation":1,"cause":"rank 1 is gone: reset"}"#,
            r#"{"kind":"generation_started","time":"2026-01-02T03:04:07Z","generation":2,"ranks":[0],"step":9,
                "cause":"rank 1 is gone: reset","agreement_ms":30.0,"transfer_ms":0.0,"connection_ms":11.0,"ms":41.0}"#,
            r#"{"kind":"ended","time":"2026-01-02T03:04:09Z","success":true,"reason":"all done"}"#,
        ]);
        let [one, two] = &story.generations.iter().collect::<Vec<_>>()[..] else { panic!() };
        assert_eq!(one.ended.zip(one.began).map(|(end, begin)| end - begin), Some(1.0));
        assert_eq!((two.recovery_ms, &two.ranks[..]), (Some(41.0), &[0][..]));
        assert_eq!(two.ended.zip(two.began).map(|(end, begin)| end - begin), Some(2.0));
        assert_eq!(story.ended, Some((true, "all done".into())));
        assert_eq!(story.told(), 5);
        let told = story.since(1);
        assert_eq!((told.len(), told[0].is_bad, told[3].is_bad), (4, true, false));
        assert!(told[0].text.starts_with("Rank 1"), "{}", told[0].text);
        let labels = vec![("reason", "disconnected".to_owned())];
        assert_eq!(story.counts.losses.get_or_create(&labels).get(), 1);
    }

    #[test]
    fn no_more_events_are_kept_than_a_page_shows() {
        let row = r#"{"kind":"joined","rank":0,"host":"one","process":7}"#;
        let story = story(&vec![row; KEPT + 3]);
        assert_eq!((story.events.len(), story.told()), (KEPT, KEPT as u64 + 3));
        assert_eq!(story.since(0)[0].number, 3);
    }

    #[test]
    fn reasons_are_of_few_kinds() {
        for (reason, kind) in [
            ("it was told to leave", "left"),
            ("its connection ended (h2 protocol error)", "disconnected"),
            ("it gave no sign of life for 5.0 s", "silent"),
            ("it did not carry out a command within 30.0 s", "unresponsive"),
            ("it did not do what it was told within 30.0 s", "unresponsive"),
            ("struck by lightning", "other"),
        ] {
            assert_eq!(reason_of(reason), kind);
        }
        assert_eq!(cause_of(Some("rank 2 is gone: it was told to leave")), "loss");
        assert_eq!(cause_of(Some("rank 1: a peer has closed the stream")), "interrupted");
    }
}
