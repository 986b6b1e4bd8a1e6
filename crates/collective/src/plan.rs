//! Which member adds up which segment of the flat vector, and the order of addition in a segment.

use std::ops::Range;

use thiserror::Error;

use crate::{Node, Rank, ShardRange, Tally};

/// Segments begin at multiples of this many floats (one cache line).
const SEGMENT_ALIGNMENT: usize = 16;

/// Floats added at a time: sources, temporaries and result of a block stay in the L1 cache.
const BLOCK: usize = 1024;

/// The most levels below the root of a tree over shards that are counted in 32 bits. A sum never
/// has more intermediate results at a time.
const LEVELS_MAX: usize = 32;

/// A member's part in a generation: its rank and the shards it owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The member's rank.
    pub rank: Rank,
    /// The shards whose gradients it computes.
    pub shards: ShardRange,
}

/// The error for shares that do not divide a run's shards among members in rank order.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("the shares {shares} are not in rank order or do not cover the shards 0..{shards} once")]
pub struct PlanError {
    shards: u32,
    shares: String,
}

/// The division of one generation's work, the same on every member.
///
/// Members are addressed by their index in rank order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    shards: u32,
    length: usize,
    shares: Vec<Share>,
    nodes: Vec<Vec<Node>>,
}

impl Plan {
    /// The plan for a flat vector of `length` floats and the members' shares in rank order.
    ///
    /// # Errors
    /// [`PlanError`] unless the ranks ascend and the ranges, in any order, cover every shard of
    /// `0..shards` exactly once. An empty range is an error.
    pub fn new(shards: u32, length: usize, shares: &[Share]) -> Result<Self, PlanError> {
        let ranks_ascend = shares.is_sorted_by(|a, b| a.rank < b.rank);
        let mut ranges: Vec<ShardRange> = shares.iter().map(|share| share.shards).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        let covered = ranges.iter().try_fold(0, |end, range| {
            (range.start == end && !range.is_empty()).then_some(range.end)
        });
        if !ranks_ascend || shares.is_empty() || covered != Some(shards) {
            let shares: Vec<String> =
                shares.iter().map(|share| format!("{}:{}", share.rank, share.shards)).collect();
            return Err(PlanError { shards, shares: format!("[{}]", shares.join(" ")) });
        }
        let root = Node::root(shards);
        let nodes = shares.iter().map(|share| root.maximal_inside(share.shards)).collect();
        Ok(Self { shards, length, shares: shares.to_vec(), nodes })
    }

    /// The number of members.
    #[must_use]
    pub fn members(&self) -> usize {
        self.shares.len()
    }

    /// The rank of `member`.
    #[must_use]
    pub fn rank(&self, member: usize) -> Rank {
        self.shares[member].rank
    }

    /// The member with this rank.
    #[must_use]
    pub fn member(&self, rank: Rank) -> Option<usize> {
        self.shares.iter().position(|share| share.rank == rank)
    }

    /// The shards of `member`.
    #[must_use]
    pub fn shards(&self, member: usize) -> ShardRange {
        self.shares[member].shards
    }

    /// The number of floats in the flat vector.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// The tree nodes that `member` contributes, in shard order.
    #[must_use]
    pub fn nodes(&self, member: usize) -> &[Node] {
        &self.nodes[member]
    }

    /// The segment of the flat vector that `member` adds up for all.
    #[must_use]
    pub fn segment(&self, member: usize) -> Range<usize> {
        divide(0..self.length, self.members(), member)
    }

    /// The order of addition over all members' nodes; the first member's nodes come first.
    #[must_use]
    pub fn reducer(&self) -> Reducer {
        Reducer::new(self.root(), &self.nodes.concat())
    }

    pub(crate) fn root(&self) -> Node {
        Node::root(self.shards)
    }

    /// The plan of these members, in rank order, among themselves. If members are missing, the plan
    /// has no order of addition up to the root.
    pub(crate) fn among(&self, members: &[usize]) -> Self {
        let shares = members.iter().map(|member| self.shares[*member]).collect();
        let nodes = members.iter().map(|member| self.nodes[*member].clone()).collect();
        Self { shares, nodes, ..*self }
    }
}

/// The part `index` of a range that is cut into `parts` parts. The range begins at a multiple of
/// [`SEGMENT_ALIGNMENT`], and so do all parts; otherwise the parts are equally long. A part of a
/// short range may be empty.
pub(crate) fn divide(range: Range<usize>, parts: usize, index: usize) -> Range<usize> {
    let blocks = range.len().div_ceil(SEGMENT_ALIGNMENT);
    let cut =
        |part: usize| (range.start + blocks * part / parts * SEGMENT_ALIGNMENT).min(range.end);
    cut(index)..cut(index + 1)
}

/// The source of a term in an addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Term {
    /// The partial of the given node with this index.
    Partial(usize),
    /// An intermediate result.
    Scratch(usize),
}

#[derive(Clone, Copy, Debug)]
struct Addition {
    left: Term,
    right: Term,
    into: usize,
}

/// A float, or the four little-endian bytes of a float in a message.
pub trait Float: Copy {
    /// The value.
    fn value(self) -> f32;
}

impl Float for f32 {
    fn value(self) -> f32 {
        self
    }
}

impl Float for [u8; size_of::<f32>()] {
    fn value(self) -> f32 {
        f32::from_le_bytes(self)
    }
}

/// Adds, in tree order, the partials of nodes that together cover another node.
#[derive(Clone, Debug)]
pub struct Reducer {
    additions: Vec<Addition>,
    total: Term,
    scratch: Vec<Vec<f32>>,
}

impl Reducer {
    /// The reducer for a finished sum: its only partial is the sum.
    #[must_use]
    pub fn of_one() -> Self {
        Self { additions: Vec::new(), total: Term::Partial(0), scratch: Vec::new() }
    }

    /// The additions up to `root`, which some of `nodes` cover.
    pub(crate) fn new(root: Node, nodes: &[Node]) -> Self {
        let mut additions = Vec::new();
        let mut level = 0;
        let total = Self::schedule(root, nodes, 0, &mut additions, &mut level);
        Self { additions, total, scratch: vec![vec![0.0; BLOCK]; level] }
    }

    /// Schedules the sum of `node`. The scratch blocks from `free` on are unused.
    fn schedule(
        node: Node,
        nodes: &[Node],
        free: usize,
        additions: &mut Vec<Addition>,
        level: &mut usize,
    ) -> Term {
        if let Some(index) = nodes.iter().position(|given| *given == node) {
            return Term::Partial(index);
        }
        let (left, right) = node.children().expect("the given nodes cover every leaf");
        let left = Self::schedule(left, nodes, free, additions, level);
        let right = Self::schedule(right, nodes, free + 1, additions, level);
        additions.push(Addition { left, right, into: free });
        *level = (*level).max(free + 1);
        Term::Scratch(free)
    }

    /// Writes the tree's sum of the partials into `sum`. `partial` gives one slice for the index
    /// of each given node, as long as `sum`.
    pub fn add<'a, T: Float + 'a>(&mut self, partial: impl Fn(usize) -> &'a [T], sum: &mut [f32]) {
        for start in (0..sum.len()).step_by(BLOCK) {
            let end = (start + BLOCK).min(sum.len());
            self.add_block(|index| &partial(index)[start..end], &mut sum[start..end]);
        }
    }

    fn add_block<'a, T: Float + 'a>(
        &mut self,
        partial: impl Fn(usize) -> &'a [T],
        sum: &mut [f32],
    ) {
        let Some((last, inner)) = self.additions.split_last() else {
            let Term::Partial(index) = self.total else { unreachable!("no additions, no scratch") };
            sum.iter_mut().zip(partial(index)).for_each(|(sum, float)| *sum = float.value());
            return;
        };
        let length = sum.len();
        for addition in inner {
            let mut result = std::mem::take(&mut self.scratch[addition.into]);
            let into = &mut result[..length];
            match (addition.left, addition.right) {
                (Term::Scratch(left), Term::Partial(right)) if left == addition.into => {
                    accumulate(into, partial(right));
                }
                (Term::Scratch(left), Term::Scratch(right)) if left == addition.into => {
                    accumulate(into, &self.scratch[right][..length]);
                }
                _ => self.add_two(addition, &partial, into),
            }
            self.scratch[addition.into] = result;
        }
        self.add_two(last, &partial, sum);
    }

    fn add_two<'a, T: Float + 'a>(
        &self,
        addition: &Addition,
        partial: &impl Fn(usize) -> &'a [T],
        sum: &mut [f32],
    ) {
        let length = sum.len();
        let scratch = |index: usize| &self.scratch[index][..length];
        match (addition.left, addition.right) {
            (Term::Partial(left), Term::Partial(right)) => add(sum, partial(left), partial(right)),
            (Term::Partial(left), Term::Scratch(right)) => add(sum, partial(left), scratch(right)),
            (Term::Scratch(left), Term::Partial(right)) => add(sum, scratch(left), partial(right)),
            (Term::Scratch(left), Term::Scratch(right)) => add(sum, scratch(left), scratch(right)),
        }
    }

    /// The tree's sum of the tallies. `partial` gives one tally for the index of each given node.
    #[must_use]
    pub fn add_tallies(&self, partial: impl Fn(usize) -> Tally) -> Tally {
        let mut scratch = [Tally::default(); LEVELS_MAX];
        let value = |scratch: &[Tally], term| match term {
            Term::Partial(index) => partial(index),
            Term::Scratch(index) => scratch[index],
        };
        for addition in &self.additions {
            scratch[addition.into] =
                value(&scratch, addition.left) + value(&scratch, addition.right);
        }
        value(&scratch, self.total)
    }
}

/// `sum = left + right`, element by element.
pub fn add<L: Float, R: Float>(sum: &mut [f32], left: &[L], right: &[R]) {
    for ((sum, left), right) in sum.iter_mut().zip(left).zip(right) {
        *sum = left.value() + right.value();
    }
}

/// `sum += term`, element by element.
pub fn accumulate<T: Float>(sum: &mut [f32], term: &[T]) {
    for (sum, term) in sum.iter_mut().zip(term) {
        *sum += term.value();
    }
}
