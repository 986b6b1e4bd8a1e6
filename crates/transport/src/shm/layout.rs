//! The layout of a segment, as a function of the plan alone.
//!
//! ```text
//! byte 0    the gate: one 32-bit futex word, alone on its line
//! byte 128  words of 64 bits: identity | sleepers | cause | slots | headers
//! page      vectors of 32-bit floats: every member's partials, in shard order | the sum, if
//!           there is one | two states of several vectors each, if there are any
//! ```
//!
//! The modules that read the words know their meaning; this file accesses no memory.

use std::ops::Range;

use collective::{Plan, STATE_VECTORS, TERMS_MAX};

/// Bytes of a line that only one writer uses. Processors fetch pairs of 64-byte lines.
const LINE_BYTES: usize = 128;
const LINE_WORDS: usize = LINE_BYTES / size_of::<u64>();

/// The byte at which the words begin: after the line of the gate.
pub(super) const WORDS_AT: usize = LINE_BYTES;

/// The vectors begin at a multiple of so many bytes.
const PAGE_BYTES: usize = 4096;

/// Vectors begin at multiples of this many floats: 64 bytes.
const VECTOR_ALIGNMENT: usize = 16;

/// Words of a header before its tallies.
pub(super) const HEADER_PREFIX_WORDS: usize = 8;

/// Words of a tally.
pub(super) const TALLY_WORDS: usize = TERMS_MAX + 2;

/// The number of rounds whose headers are kept. A member may write the header of round `n + 1` while
/// another still reads round `n`; no member is further ahead.
pub(super) const HEADER_SLOTS: usize = 2;

/// The number of states: one is read, the other is written.
pub(super) const STATES: usize = 2;

/// The vectors that are computed from the partials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Results {
    /// A sum, which each member applies to its own state.
    Sum,
    /// The next one of two states, without a sum.
    States,
    /// A sum, to which other hosts contribute, and the next one of two states.
    SumAndStates,
}

/// The offsets of one generation's segment. Words and floats are counted from the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// The number of words.
    pub(super) words: usize,
    /// The word that counts sleepers.
    pub(super) sleepers: usize,
    /// The word with the cause of the generation's end.
    pub(super) cause: usize,
    slots: usize,
    /// For each member, the first word of its headers.
    headers: Vec<usize>,
    /// For each member, the words of one header.
    header_words: Vec<usize>,
    /// The byte at which the vectors begin.
    pub(super) vectors_at: usize,
    /// Floats from the beginning of one vector to that of the next.
    pub(super) stride: usize,
    /// Floats in a vector.
    pub(super) length: usize,
    /// The number of partials of all members; the results come after them.
    pub(super) partials: usize,
    /// The vectors after the partials.
    pub(super) results: Results,
    /// Bytes of the whole segment.
    pub(super) bytes: usize,
}

impl Layout {
    /// The layout for `plan`, with `identity_words` words that identify the generation, and with these
    /// results.
    pub(super) fn new(plan: &Plan, identity_words: usize, results: Results) -> Self {
        let members = plan.members();
        let nodes = |member| plan.nodes(member).len();
        let sleepers = identity_words.next_multiple_of(LINE_WORDS);
        let cause = sleepers + LINE_WORDS;
        let slots = cause + LINE_WORDS;
        let mut words = slots + members * LINE_WORDS;
        let (mut headers, mut header_words) = (Vec::new(), Vec::new());
        for member in 0..members {
            let slot = HEADER_PREFIX_WORDS + nodes(member) * TALLY_WORDS;
            headers.push(words);
            header_words.push(slot.next_multiple_of(LINE_WORDS));
            words += HEADER_SLOTS * slot.next_multiple_of(LINE_WORDS);
        }
        let partials: usize = (0..members).map(nodes).sum();
        let vectors_at = (WORDS_AT + words * size_of::<u64>()).next_multiple_of(PAGE_BYTES);
        let stride = plan.length().next_multiple_of(VECTOR_ALIGNMENT);
        let mut layout = Self {
            words,
            sleepers,
            cause,
            slots,
            headers,
            header_words,
            vectors_at,
            stride,
            length: plan.length(),
            partials,
            results,
            bytes: 0,
        };
        let bytes = vectors_at + layout.vectors() * stride * size_of::<f32>();
        layout.bytes = bytes.next_multiple_of(PAGE_BYTES);
        layout
    }

    /// The number of vectors of the segment.
    pub(super) fn vectors(&self) -> usize {
        let states = if self.results == Results::Sum { 0 } else { STATES * STATE_VECTORS };
        self.partials + usize::from(self.has_sum()) + states
    }

    /// Whether there is a vector for the sum, the first one after the partials.
    pub(super) fn has_sum(&self) -> bool {
        self.results != Results::States
    }

    /// The first vector of each state.
    pub(super) fn states(&self) -> Option<[usize; STATES]> {
        let first = self.partials + usize::from(self.has_sum());
        (self.results != Results::Sum).then_some([first, first + STATE_VECTORS])
    }

    /// The words of a member's slot.
    pub(super) fn slot(&self, member: usize) -> Range<usize> {
        let start = self.slots + member * LINE_WORDS;
        start..start + LINE_WORDS
    }

    /// The words of a member's header of the round with this number.
    pub(super) fn header(&self, member: usize, round: u64) -> Range<usize> {
        let slot = if round.is_multiple_of(HEADER_SLOTS as u64) { 0 } else { 1 };
        let start = self.headers[member] + slot * self.header_words[member];
        start..start + self.header_words[member]
    }
}

#[cfg(test)]
mod tests {
    use collective::{Rank, ShardRange, Share};

    use super::*;

    #[test]
    fn nothing_overlaps_and_everything_is_aligned() {
        let shares: Vec<Share> = [(0, 1), (1, 4), (4, 7)]
            .into_iter()
            .zip(0..)
            .map(|((start, end), rank)| Share {
                rank: Rank(rank),
                shards: ShardRange { start, end },
            })
            .collect();
        let plan = Plan::new(7, 1001, &shares).unwrap();
        let layout = Layout::new(&plan, 17, Results::Sum);
        let mut ranges = vec![0..17, layout.sleepers..layout.sleepers + 1];
        ranges.push(layout.cause..layout.cause + 1);
        ranges.extend((0..3).map(|member| layout.slot(member)));
        ranges
            .extend((0..3).flat_map(|member| [layout.header(member, 0), layout.header(member, 1)]));
        assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "{ranges:?}");
        assert!(ranges[1..].iter().all(|range| range.start % LINE_WORDS == 0), "{ranges:?}");
        assert_eq!(ranges.last().unwrap().end, layout.words);
        assert_eq!(layout.header(1, 2), layout.header(1, 0));
        assert!(WORDS_AT + layout.words * 8 <= layout.vectors_at);
        assert_eq!((layout.vectors_at % PAGE_BYTES, layout.stride), (0, 1008));
        // 0..1, then 1..2 and 2..4, then 4..7; and the sum.
        assert_eq!(layout.partials, 4);
        assert!(layout.bytes - layout.vectors_at >= 5 * 1008 * 4);
        assert_eq!(layout.states(), None);
        for (results, states) in [(Results::States, [4, 7]), (Results::SumAndStates, [5, 8])] {
            let layout = Layout::new(&plan, 17, results);
            assert_eq!(layout.states(), Some(states));
            assert!(layout.bytes - layout.vectors_at >= (states[1] + 3) * 1008 * 4);
        }
    }
}
