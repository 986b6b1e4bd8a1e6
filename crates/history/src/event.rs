//! The rows of the events of a run, and their sentences for people.

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, Value};

use crate::Time;

/// A row of `events.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EventRow {
    /// The time of the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// The event.
    #[serde(flatten)]
    pub event: Event,
}

/// An event in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// A coordinator was started or restarted.
    CoordinatorStarted {
        /// The last generation before the start; 0 for none.
        #[serde(default)]
        generation: u64,
        /// Version of the coordinator's program.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
    },
    /// A worker was admitted.
    Joined {
        /// The worker's rank; none for a spare.
        #[serde(default)]
        rank: Option<u32>,
        /// Name of the worker's host.
        #[serde(default)]
        host: String,
        /// Number of the worker's process on that host.
        #[serde(default)]
        process: u32,
        /// Name of the worker's device, as in `cpu (avx512)`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
    },
    /// A member reconnected to a restarted coordinator.
    Adopted {
        /// The member's rank.
        rank: u32,
        /// The generation of the member.
        #[serde(default)]
        generation: u64,
    },
    /// A worker is gone.
    Lost {
        /// The worker's rank; none for a spare.
        #[serde(default)]
        rank: Option<u32>,
        /// Why the worker is gone.
        #[serde(default)]
        reason: String,
    },
    /// The members are about to stop together, or have stopped.
    GenerationEnded {
        /// The generation.
        generation: u64,
        /// Why the generation ended.
        #[serde(default)]
        cause: String,
    },
    /// A generation has done its first step.
    GenerationStarted {
        /// The generation.
        generation: u64,
        /// The ranks of the members.
        #[serde(default)]
        ranks: Vec<u32>,
        /// Updates applied to the state.
        #[serde(default)]
        step: u64,
        /// The members' transport.
        #[serde(default)]
        collective: Option<String>,
        /// Why the previous generation ended; none for the first.
        #[serde(default)]
        cause: Option<String>,
        /// Milliseconds from the end of the previous generation until this one was decided on.
        #[serde(default)]
        agreement_ms: f64,
        /// Milliseconds of the longest state transfer within that time.
        #[serde(default)]
        transfer_ms: f64,
        /// Milliseconds from the decision until the first step was done.
        #[serde(default)]
        connection_ms: f64,
        /// Milliseconds from the end of the previous generation until the first step was done.
        #[serde(default)]
        ms: f64,
    },
    /// A worker has copied the state of another worker.
    StateTransferred {
        /// The rank of the worker that copied.
        #[serde(default)]
        rank: Option<u32>,
        /// Bytes that were sent.
        #[serde(default)]
        bytes: u64,
        /// Milliseconds that the copy took.
        #[serde(default)]
        ms: f64,
    },
    /// A worker that the coordinator had started is restarted.
    Restarting {
        /// The worker's slot among those that were started.
        slot: u32,
        /// How the worker's process ended.
        #[serde(default)]
        status: String,
    },
    /// A worker that the coordinator had started is not restarted.
    GivenUp {
        /// The worker's slot among those that were started.
        slot: u32,
        /// How the worker's process ended.
        #[serde(default)]
        status: String,
    },
    /// The run waits for workers.
    Waiting {
        /// Workers that are ready.
        #[serde(default)]
        present: u64,
        /// Workers that the run needs.
        #[serde(default)]
        needed: u64,
    },
    /// The run began with fewer workers than it asks for.
    BegunWithFewer {
        /// Members of the first generation.
        #[serde(default)]
        members: u64,
        /// Members of a full generation.
        #[serde(default)]
        workers: u64,
        /// Seconds that the run waited for more workers.
        #[serde(default)]
        waited_seconds: f64,
    },
    /// The run has ended, unless it is resumed later.
    Ended {
        /// Whether the run came to its planned end or was stopped by a person.
        #[serde(default)]
        success: bool,
        /// How the run ended.
        #[serde(default)]
        reason: String,
    },
    /// An event that this version does not know.
    #[serde(untagged)]
    Other(Map<String, Value>),
}

impl Event {
    /// The kind of the event, as rows name it.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Self::CoordinatorStarted { .. } => "coordinator_started",
            Self::Joined { .. } => "joined",
            Self::Adopted { .. } => "adopted",
            Self::Lost { .. } => "lost",
            Self::GenerationEnded { .. } => "generation_ended",
            Self::GenerationStarted { .. } => "generation_started",
            Self::StateTransferred { .. } => "state_transferred",
            Self::Restarting { .. } => "restarting",
            Self::GivenUp { .. } => "given_up",
            Self::Waiting { .. } => "waiting",
            Self::BegunWithFewer { .. } => "begun_with_fewer",
            Self::Ended { .. } => "ended",
            Self::Other(fields) => fields.get("kind").and_then(Value::as_str).unwrap_or_default(),
        }
    }
}

impl<'de> Deserialize<'de> for EventRow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields = Map::deserialize(deserializer)?;
        let time = fields.remove("time").map(serde_json::from_value).transpose();
        let time = time.map_err(de::Error::custom)?.flatten();
        if !fields.get("kind").is_some_and(Value::is_string) {
            return Err(de::Error::missing_field("kind"));
        }
        // The fields of a kind may change between versions.
        let event = Event::deserialize(Value::Object(fields)).map_err(de::Error::custom)?;
        Ok(Self { time, event })
    }
}

/// The name of a worker, for people.
struct Who(Option<u32>);

impl Display for Who {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(rank) => write!(f, "rank {rank}"),
            None => f.write_str("a spare"),
        }
    }
}

/// The event as a sentence, without a capital at its beginning and without a full stop.
impl Display for Event {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::CoordinatorStarted { generation: 0, .. } => {
                f.write_str("the coordinator started")
            }
            Self::CoordinatorStarted { generation, .. } => {
                write!(f, "the coordinator started again after generation {generation}")
            }
            Self::Joined { rank, host, .. } => write!(f, "{} joined from {host}", Who(*rank)),
            Self::Adopted { rank, .. } => write!(f, "rank {rank} reconnected to the coordinator"),
            Self::Lost { rank, reason } => write!(f, "{} is gone: {reason}", Who(*rank)),
            Self::GenerationEnded { generation, cause } => {
                write!(f, "generation {generation} ended: {cause}")
            }
            Self::GenerationStarted { generation, ranks, step, cause, ms, .. } => {
                let members = ranks.len();
                let s = if members == 1 { "" } else { "s" };
                write!(
                    f,
                    "generation {generation} trains with {members} worker{s} at step {step}"
                )?;
                if cause.is_some() {
                    write!(f, ", {ms:.0} ms after the last one")?;
                }
                Ok(())
            }
            Self::StateTransferred { rank, bytes, ms } => {
                let megabytes = *bytes as f64 / 1e6;
                write!(f, "{} copied a state of {megabytes:.1} MB in {ms:.0} ms", Who(*rank))
            }
            Self::Restarting { slot, status } => {
                write!(f, "worker {slot} {status}; it is started again")
            }
            Self::GivenUp { slot, status } => {
                write!(f, "worker {slot} {status}; it is not started again")
            }
            Self::Waiting { present, needed } => {
                write!(f, "the run waits for workers: {present} of {needed} are ready")
            }
            Self::BegunWithFewer { members, workers, waited_seconds } => write!(
                f,
                "the run began with {members} of {workers} workers after {waited_seconds:.0} s"
            ),
            Self::Ended { success: true, reason } => write!(f, "the run ended: {reason}"),
            Self::Ended { success: false, reason } => write!(f, "the run failed: {reason}"),
            Self::Other(_) => f.write_str(self.kind()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> EventRow {
        serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
    }

    #[test]
    fn a_row_is_read_as_it_was_written_and_told_in_words() {
        let cases = [
            (r#"{"kind":"coordinator_started","generation":0,"version":"0.1.0"}"#, "started"),
            (
                r#"{"kind":"joined","rank":null,"host":"one","process":7}"#,
                "a spare joined from one",
            ),
            (r#"{"kind":"lost","rank":2,"reason":"killed"}"#, "rank 2 is gone: killed"),
            (
                r#"{"kind":"generation_started","generation":2,"ranks":[0,2],"step":9,
                    "collective":"shm","cause":"x","agreement_ms":1.0,"transfer_ms":0.5,
                    "connection_ms":2.0,"ms":3.0}"#,
                "generation 2 trains with 2 workers at step 9, 3 ms after the last one",
            ),
            (r#"{"kind":"ended","success":false,"reason":"no worker"}"#, "failed: no worker"),
        ];
        for (json, words) in cases {
            let row = parse(json);
            assert!(row.event.to_string().contains(words), "{}", row.event);
            let written: Value = serde_json::to_value(&row).unwrap();
            assert_eq!(written, serde_json::from_str::<Value>(json).unwrap());
            assert_eq!(written["kind"], row.event.kind());
        }
    }

    #[test]
    fn rows_of_other_versions_are_read() {
        let older = parse(
            r#"{"kind":"generation_started","time":"2026-01-02T03:04:05.678901234Z","generation":1}"#,
        );
        assert_eq!(older.time.unwrap().to_string(), "2026-01-02T03:04:05.678Z");
        assert!(matches!(older.event, Event::GenerationStarted { generation: 1, step: 0, .. }));
        for newer in [r#"{"kind":"danced","with":[1]}"#, r#"{"kind":"adopted","rank":"all"}"#] {
            let row = parse(newer);
            assert!(matches!(row.event, Event::Other(_)), "{row:?}");
            assert_eq!(row.event.to_string(), row.event.kind());
            assert_eq!(serde_json::to_string(&row).unwrap(), newer);
        }
        for bad in ["{}", "[]", r#"{"kind":7}"#, r#"{"kind":"joined","time":"never"}"#] {
            assert!(serde_json::from_str::<EventRow>(bad).is_err(), "{bad}");
        }
    }
}
