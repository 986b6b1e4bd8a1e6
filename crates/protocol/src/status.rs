//! The one table from errors to gRPC codes.

use membership::Refusal;
use tonic::{Code, Status, metadata::MetadataValue};

use crate::{Malformed, PROTOCOL_VERSION, convert::printable};

/// The status for a refused worker.
#[must_use]
pub fn refusal(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::NoSuchRank { .. } => Code::OutOfRange,
        Refusal::RankTaken(_) => Code::AlreadyExists,
        Refusal::Full { .. } => Code::ResourceExhausted,
        Refusal::MixedFingerprints { .. } | Refusal::OtherArithmetic { .. } => {
            Code::FailedPrecondition
        }
        Refusal::Ending => Code::Aborted,
    };
    Status::new(code, refusal.to_string())
}

/// The status for a message that no correct peer sends.
#[must_use]
pub fn malformed(malformed: &Malformed) -> Status {
    Status::new(Code::InvalidArgument, malformed.to_string())
}

/// The status for a worker that speaks another version of the protocol.
#[must_use]
pub fn version(theirs: u32) -> Status {
    let message = format!(
        "this coordinator speaks protocol version {PROTOCOL_VERSION}, the worker {theirs}: \
         use programs of one build"
    );
    Status::new(Code::FailedPrecondition, message)
}

/// The status for a data-plane stream whose generation this member does not take part in.
#[must_use]
pub fn stale(message: impl Into<String>) -> Status {
    Status::new(Code::Aborted, message)
}

/// The metadata key of a status that says "the coordinator is not ready yet".
const PREPARING: &str = "lockstep-preparing";

/// The status of a coordinator that is not ready yet; `what` says what it is doing.
#[must_use]
pub fn preparing(what: &str) -> Status {
    let mut status = Status::unavailable(format!("the coordinator is getting ready: {what}"));
    status.metadata_mut().insert(PREPARING, MetadataValue::from_static("1"));
    status
}

/// Whether a status says that the coordinator is not ready yet, but will be.
#[must_use]
pub fn is_preparing(status: &Status) -> bool {
    status.metadata().contains_key(PREPARING)
}

/// The text of a status, for people. For a broken connection it is the innermost cause, because the
/// outer causes only say that the connection broke.
#[must_use]
pub fn reason(status: &Status) -> String {
    let mut reason = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        reason = error.to_string();
        source = error.source();
    }
    printable(&reason)
}

/// Why a stream ended, for people: the peer's message, or a sentence about the broken connection.
#[must_use]
pub fn cause(status: &Status) -> String {
    let message = status.message();
    let is_broken = std::error::Error::source(status).is_some();
    if !is_broken && !message.is_empty() && !message.starts_with("h2 protocol error") {
        return printable(message);
    }
    // The libraries' messages speak of their internals, so they are translated.
    let reason = reason(status);
    if reason.contains("timed out") {
        "it did not answer in time".into()
    } else if reason.contains("stream error received") || status.code() == Code::Cancelled {
        "it ended the connection".into()
    } else {
        "its process died, or the network was cut".into()
    }
}

/// Whether a call that failed with this code may succeed when it is tried again.
#[must_use]
pub fn is_transient(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled)
}
