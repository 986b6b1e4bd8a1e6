//! Converts headers to words and back. The words belong to another process and may change at any
//! time, so every word is read only once and checked afterwards.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use collective::{Contribution, Control, Digest, Kind, Round, Step, TERMS_MAX, Tally, Timing};

use super::layout::{HEADER_PREFIX_WORDS, TALLY_WORDS};

/// The most examples of a tally, so that no sum over members overflows.
const EXAMPLES_MAX: u64 = 1 << 40;

const TRAIN: u64 = 1;
const EVALUATE: u64 = 2;
const VALIDATE: u64 = 3;

/// The words before the tallies.
struct Prefix {
    step: u64,
    kind: u64,
    control: u64,
    has_digest: u64,
    digest: [u64; 2],
    compute_and_all_reduce_us: u64,
    waiting_us: u64,
}

/// Writes the header of a round into `words`, its slot in the layout.
pub(super) fn write(words: &[AtomicU64], round: Round, contribution: &Contribution) {
    let Contribution { tallies, control, digest, timing } = contribution;
    let digest_value = digest.map_or(0, |digest| u128::from_le_bytes(digest.0));
    let prefix: [u64; HEADER_PREFIX_WORDS] = [
        round.step.0,
        match round.kind {
            Kind::Train => TRAIN,
            Kind::Evaluate => EVALUATE,
            Kind::Validate => VALIDATE,
        },
        control.0.into(),
        digest.is_some().into(),
        digest_value as u64,
        (digest_value >> 64) as u64,
        u64::from(timing.compute_us) << 32 | u64::from(timing.all_reduce_us),
        timing.waiting_us.into(),
    ];
    let tallies = tallies.iter().flat_map(|tally| {
        tally.terms.map(f64::to_bits).into_iter().chain([tally.examples, tally.index_sum])
    });
    for (word, value) in words.iter().zip(prefix.into_iter().chain(tallies)) {
        word.store(value, Relaxed);
    }
}

/// Reads a header with one tally for each of `nodes` nodes into `contribution`. Gives the header's
/// round.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(
    words: &[AtomicU64],
    nodes: usize,
    contribution: &mut Contribution,
) -> Result<Round, String> {
    let mut values = words.iter().map(|word| word.load(Relaxed));
    let mut next = || values.next().unwrap_or_default();
    let prefix = Prefix {
        step: next(),
        kind: next(),
        control: next(),
        has_digest: next(),
        digest: [next(), next()],
        compute_and_all_reduce_us: next(),
        waiting_us: next(),
    };
    contribution.tallies.clear();
    for _ in 0..nodes {
        let words: [u64; TALLY_WORDS] = std::array::from_fn(|_| next());
        contribution.tallies.push(tally(words)?);
    }
    let kind = match prefix.kind {
        TRAIN => Kind::Train,
        EVALUATE => Kind::Evaluate,
        VALIDATE => Kind::Validate,
        unknown => return Err(format!("a round of unknown kind {unknown}")),
    };
    contribution.digest = match prefix.has_digest {
        0 => None,
        1 => {
            let [low, high] = prefix.digest.map(u128::from);
            Some(Digest((high << 64 | low).to_le_bytes()))
        }
        count => return Err(format!("{count} digests")),
    };
    contribution.timing = Timing {
        compute_us: (prefix.compute_and_all_reduce_us >> 32) as u32,
        all_reduce_us: prefix.compute_and_all_reduce_us as u32,
        waiting_us: small(prefix.waiting_us, "a waiting time")?,
    };
    contribution.control = Control(small(prefix.control, "a control word")?);
    Ok(Round { step: Step(prefix.step), kind })
}

fn tally(words: [u64; TALLY_WORDS]) -> Result<Tally, String> {
    let [examples, index_sum] = [words[TERMS_MAX], words[TERMS_MAX + 1]];
    if examples > EXAMPLES_MAX {
        return Err(format!("a tally of {examples} examples"));
    }
    let terms = std::array::from_fn(|index| f64::from_bits(words[index]));
    Ok(Tally { terms, examples, index_sum })
}

fn small(value: u64, what: &str) -> Result<u32, String> {
    u32::try_from(value).map_err(|_| format!("{what} of {value}"))
}

#[cfg(test)]
mod tests {
    use collective::Header;

    use super::*;

    const NODES: usize = 2;

    fn header() -> Header {
        let terms = [1.5, -0.0, 3.0, 4.0, 5.0, 6.0, 7.0, -8.5];
        let tally = |examples| Tally { terms, examples, index_sum: u64::MAX };
        Header {
            round: Round { step: Step(u64::MAX), kind: Kind::Evaluate },
            contribution: Contribution {
                tallies: vec![tally(4), tally(5)],
                control: Control::PAUSE,
                digest: Some(Digest(*b"0123456789abcdef")),
                timing: Timing { compute_us: 1, all_reduce_us: u32::MAX, waiting_us: 3 },
            },
        }
    }

    fn written(header: &Header) -> Vec<AtomicU64> {
        let words: Vec<AtomicU64> =
            (0..HEADER_PREFIX_WORDS + NODES * TALLY_WORDS).map(|_| AtomicU64::new(0)).collect();
        write(&words, header.round, &header.contribution);
        words
    }

    #[test]
    fn a_header_survives_the_segment() {
        let mut header = header();
        let mut contribution = Contribution::default();
        assert_eq!(read(&written(&header), NODES, &mut contribution), Ok(header.round));
        assert_eq!(contribution, header.contribution);
        header.round.kind = Kind::Train;
        header.contribution.digest = None;
        assert_eq!(read(&written(&header), NODES, &mut contribution), Ok(header.round));
        assert_eq!(contribution, header.contribution);
    }

    #[test]
    fn what_no_member_writes_is_refused() {
        let examples = HEADER_PREFIX_WORDS + TERMS_MAX;
        let cases = [
            (1, 0, "kind"),
            (1, 9, "kind"),
            (2, 1 << 32, "control"),
            (3, 2, "digests"),
            (7, 1 << 32, "waiting"),
            (examples, u64::MAX, "examples"),
        ];
        for (index, value, what) in cases {
            let words = written(&header());
            words[index].store(value, Relaxed);
            let refused = read(&words, NODES, &mut Contribution::default()).unwrap_err();
            assert!(refused.contains(what), "{refused}");
        }
    }
}
