//! Wire types to domain types and back, checked.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use collective::{
    Contribution, Control, Digest, Generation, Header, Kind, Rank, Round, ShardRange, Share, Step,
    TERMS_MAX, Tally, Timing,
};
use membership::{Failure, Fingerprint, Join, Phase, Position, Progress, ReadyCause, Returning};
use thiserror::Error;

use crate::wire::{self, ready::Unexpected};

/// A message that no correct peer sends.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("malformed message: {0}")]
pub struct Malformed(pub String);

impl Malformed {
    fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

/// Most bytes of a text that is shown to people; a longer text is cut off.
const TEXT_BYTES_MAX: usize = 4096;

/// Makes the text of a peer or of a file fit for a line on a terminal: bounded, without control characters, and without
/// characters that break the line or change its direction.
#[must_use]
pub fn printable(text: &str) -> String {
    let is_hidden = |c: char| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let clean = |c: char| if c.is_control() || is_hidden(c) { ' ' } else { c };
    let mut used = 0;
    text.chars()
        .take_while(|c| {
            used += c.len_utf8();
            used <= TEXT_BYTES_MAX
        })
        .map(clean)
        .collect()
}

/// A path for the wire, byte for byte.
#[must_use]
pub fn path_to_wire(path: &Path) -> Bytes {
    Bytes::copy_from_slice(path.as_os_str().as_bytes())
}

/// A path from the wire.
#[must_use]
pub fn path_from_wire(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

impl TryFrom<&wire::Hello> for Join {
    type Error = Malformed;

    fn try_from(hello: &wire::Hello) -> Result<Self, Malformed> {
        let wire = hello
            .fingerprint
            .as_ref()
            .ok_or_else(|| Malformed::new("a hello without a fingerprint"))?;
        let fingerprint = Fingerprint {
            device: printable(&wire.device),
            instruction_set: printable(&wire.instruction_set),
            precision: printable(&wire.precision),
            libtorch: printable(&wire.libtorch),
        };
        let returning = hello.returning.as_ref().map(|returning| Returning {
            generation: (returning.generation != 0).then_some(Generation(returning.generation)),
        });
        let memory_domain = printable(&hello.memory_domain);
        let memory_domain = (!memory_domain.is_empty()).then_some(memory_domain);
        Ok(Self { rank: hello.rank.map(Rank), fingerprint, memory_domain, returning })
    }
}

impl From<Fingerprint> for wire::Fingerprint {
    fn from(fingerprint: Fingerprint) -> Self {
        let Fingerprint { device, instruction_set, precision, libtorch } = fingerprint;
        Self { device, instruction_set, precision, libtorch }
    }
}

/// Reads a digest of exactly 16 bytes.
///
/// # Errors
/// [`Malformed`] for any other length.
pub fn digest(bytes: &[u8]) -> Result<Digest, Malformed> {
    let length = bytes.len();
    let wrong = |_| Malformed::new(format!("a digest of {length} bytes instead of 16"));
    bytes.try_into().map(Digest).map_err(wrong)
}

impl TryFrom<&wire::Ready> for Position {
    type Error = Malformed;

    fn try_from(ready: &wire::Ready) -> Result<Self, Malformed> {
        Ok(Self { step: Step(ready.step), digest: digest(&ready.digest)? })
    }
}

impl From<&wire::Ready> for ReadyCause {
    fn from(ready: &wire::Ready) -> Self {
        match &ready.unexpected {
            None => Self::AsTold,
            Some(Unexpected::Interrupted(reason)) => Self::Interrupted(printable(reason)),
            Some(Unexpected::NotFetched(reason)) => Self::NotFetched(printable(reason)),
        }
    }
}

/// The reason in a worker's `Ready` report; none if the worker did what the coordinator asked for.
#[must_use]
pub fn unexpected(cause: ReadyCause) -> Option<Unexpected> {
    match cause {
        ReadyCause::AsTold => None,
        ReadyCause::Interrupted(reason) => Some(Unexpected::Interrupted(reason)),
        ReadyCause::NotFetched(reason) => Some(Unexpected::NotFetched(reason)),
    }
}

impl From<&wire::Heartbeat> for Progress {
    fn from(heartbeat: &wire::Heartbeat) -> Self {
        let phase = match heartbeat.phase() {
            wire::Phase::Idle => Phase::Idle,
            wire::Phase::Connecting => Phase::Connecting,
            wire::Phase::Computing => Phase::Computing,
            wire::Phase::Waiting => Phase::Waiting,
            wire::Phase::Saving => Phase::Saving,
        };
        Self { step: Step(heartbeat.step), phase }
    }
}

impl From<Phase> for wire::Phase {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Idle => Self::Idle,
            Phase::Connecting => Self::Connecting,
            Phase::Computing => Self::Computing,
            Phase::Waiting => Self::Waiting,
            Phase::Saving => Self::Saving,
        }
    }
}

impl From<&wire::Failed> for Failure {
    fn from(failed: &wire::Failed) -> Self {
        let wire::Failed { message, state_intact, recurs } = failed;
        Self { message: printable(message), state_intact: *state_intact, recurs: *recurs }
    }
}

impl From<&wire::Member> for Share {
    fn from(member: &wire::Member) -> Self {
        let shards = ShardRange { start: member.first_shard, end: member.end_shard };
        Self { rank: Rank(member.rank), shards }
    }
}

impl From<&Header> for wire::RoundHeader {
    fn from(header: &Header) -> Self {
        let Header { round, contribution } = header;
        let timing = contribution.timing;
        Self {
            step: round.step.0,
            kind: wire::RoundKind::from(round.kind).into(),
            control: contribution.control.0,
            digest: contribution
                .digest
                .map_or_else(bytes::Bytes::new, |digest| bytes::Bytes::copy_from_slice(&digest.0)),
            compute_us: timing.compute_us,
            all_reduce_us: timing.all_reduce_us,
            waiting_us: timing.waiting_us,
            tallies: contribution.tallies.iter().map(wire::NodeTally::from).collect(),
        }
    }
}

impl TryFrom<wire::RoundHeader> for Header {
    type Error = Malformed;

    fn try_from(header: wire::RoundHeader) -> Result<Self, Malformed> {
        let kind = match header.kind() {
            wire::RoundKind::Train => Kind::Train,
            wire::RoundKind::Evaluate => Kind::Evaluate,
            wire::RoundKind::Validate => Kind::Validate,
            wire::RoundKind::Unspecified => {
                return Err(Malformed::new(format!("a round of unknown kind {}", header.kind)));
            }
        };
        let tallies = header.tallies.iter().map(Tally::try_from).collect::<Result<_, _>>()?;
        let digest = match &header.digest[..] {
            [] => None,
            bytes => Some(digest(bytes)?),
        };
        let timing = Timing {
            compute_us: header.compute_us,
            all_reduce_us: header.all_reduce_us,
            waiting_us: header.waiting_us,
        };
        let control = Control(header.control);
        Ok(Self {
            round: Round { step: Step(header.step), kind },
            contribution: Contribution { tallies, control, digest, timing },
        })
    }
}

impl From<Kind> for wire::RoundKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Train => Self::Train,
            Kind::Evaluate => Self::Evaluate,
            Kind::Validate => Self::Validate,
        }
    }
}

impl From<&Tally> for wire::NodeTally {
    fn from(tally: &Tally) -> Self {
        let Tally { terms, examples, index_sum } = *tally;
        // Unused terms are zero, and trailing zeros are not sent.
        let used = terms.iter().rposition(|term| term.to_bits() != 0).map_or(0, |last| last + 1);
        Self { terms: terms[..used].to_vec(), examples, index_sum }
    }
}

impl TryFrom<&wire::NodeTally> for Tally {
    type Error = Malformed;

    fn try_from(tally: &wire::NodeTally) -> Result<Self, Malformed> {
        let mut terms = [0.0; TERMS_MAX];
        let count = tally.terms.len();
        let used = terms.get_mut(..count).ok_or_else(|| {
            Malformed::new(format!("a tally of {count} terms; there are at most {TERMS_MAX}"))
        })?;
        used.copy_from_slice(&tally.terms);
        Ok(Self { terms, examples: tally.examples, index_sum: tally.index_sum })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_wire() {
        let tally =
            Tally { terms: [1.0, -0.0, 3.0, 0.0, 0.0, 6.0, -0.0, 0.0], examples: 4, index_sum: 5 };
        let header = Header {
            round: Round { step: Step(9), kind: Kind::Train },
            contribution: Contribution {
                tallies: vec![tally, tally],
                control: Control::PAUSE,
                digest: Some(Digest([7; 16])),
                timing: Timing { compute_us: 1, all_reduce_us: 2, waiting_us: 3 },
            },
        };
        let wire = wire::RoundHeader::from(&header);
        assert_eq!(wire.tallies[0].terms.len(), 7);
        let bits = |header: &Header| header.contribution.tallies[1].terms.map(f64::to_bits);
        let back = Header::try_from(wire).unwrap();
        assert_eq!((bits(&back), back), (bits(&header), header));
    }

    #[test]
    fn a_path_survives_the_wire_whatever_its_bytes() {
        for bytes in [&b"/runs/one"[..], b"/r\xffns/\xc3", b"/a b/\n", "/läufe/å".as_bytes(), b""]
        {
            let path = path_from_wire(bytes);
            assert_eq!(&path_to_wire(&path)[..], bytes);
        }
    }

    #[test]
    fn malformed_messages_are_named() {
        let unknown = wire::RoundHeader { kind: 77, ..Default::default() };
        assert!(Header::try_from(unknown).unwrap_err().to_string().contains("77"));
        let short = wire::Ready { digest: vec![1, 2, 3].into(), ..Default::default() };
        assert!(Position::try_from(&short).unwrap_err().to_string().contains("3 bytes"));
        let terms = wire::NodeTally { terms: vec![0.0; 9], ..Default::default() };
        assert!(Tally::try_from(&terms).unwrap_err().to_string().contains('9'));
        assert!(Join::try_from(&wire::Hello::default()).is_err());
    }

    #[test]
    fn a_text_is_bounded_and_clean() {
        assert_eq!(printable("a\nb\x1b[1m"), "a b [1m");
        assert_eq!(printable(&"é".repeat(5000)).len(), TEXT_BYTES_MAX);
    }
}
