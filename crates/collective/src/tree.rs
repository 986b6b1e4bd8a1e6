//! The shard tree: the only order in which partial gradients are added.
//!
//! The tree over `0..S` splits each range at the largest power of two below its length. It
//! depends on `S` alone, never on members, ranks or timing.

use crate::ShardRange;

/// A node of the shard tree: the range of shards below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// The first shard below the node.
    pub start: u32,
    /// One past the last shard below the node.
    pub end: u32,
}

impl Node {
    /// The root of the tree over `shards` shards.
    #[must_use]
    pub fn root(shards: u32) -> Self {
        Self { start: 0, end: shards }
    }

    /// The two children, or `None` for a leaf.
    #[must_use]
    pub fn children(self) -> Option<(Self, Self)> {
        let length = self.end - self.start;
        if length < 2 {
            return None;
        }
        let half = 1 << (u32::BITS - 1 - (length - 1).leading_zeros());
        let middle = self.start + half;
        Some((Self { start: self.start, end: middle }, Self { start: middle, end: self.end }))
    }

    /// Levels of the tree below and including the node; 1 for a leaf.
    #[must_use]
    pub fn depth(self) -> usize {
        self.children().map_or(1, |(left, right)| 1 + left.depth().max(right.depth()))
    }

    fn inside(self, range: ShardRange) -> bool {
        range.start <= self.start && self.end <= range.end
    }

    fn disjoint(self, range: ShardRange) -> bool {
        self.end <= range.start || range.end <= self.start
    }

    /// The maximal nodes of the tree below this node that lie inside `range`, in shard order.
    /// Together they cover exactly the shards that are in both the node and the range.
    #[must_use]
    pub fn maximal_inside(self, range: ShardRange) -> Vec<Self> {
        let mut found = Vec::new();
        self.collect_inside(range, &mut found);
        found
    }

    /// The maximal nodes of the tree below this node whose shards are all in `ranges`, which do
    /// not overlap, in shard order.
    #[must_use]
    pub fn maximal_within(self, ranges: &[ShardRange]) -> Vec<Self> {
        let mut ranges = ranges.to_vec();
        ranges.sort_unstable_by_key(|range| range.start);
        // A node is a contiguous range, so it lies inside one run of adjacent ranges or in none.
        ranges.dedup_by(|next, run| {
            let adjoins = run.end == next.start;
            run.end = if adjoins { next.end } else { run.end };
            adjoins
        });
        ranges.into_iter().flat_map(|run| self.maximal_inside(run)).collect()
    }

    fn collect_inside(self, range: ShardRange, found: &mut Vec<Self>) {
        if range.is_empty() || self.disjoint(range) {
            return;
        }
        if self.inside(range) {
            found.push(self);
        } else if let Some((left, right)) = self.children() {
            left.collect_inside(range, found);
            right.collect_inside(range, found);
        }
    }
}

/// How a stack machine adds `leaves`, which are tree nodes in shard order, up to `roots`. The result has
/// one number for each leaf: the machine pushes the leaf, then adds the two uppermost sums so many times.
/// At the end the stack holds the sums of the roots.
///
/// # Panics
/// When the leaves do not cover the roots.
#[must_use]
pub fn merges(roots: &[Node], leaves: &[Node]) -> Vec<u8> {
    fn visit(node: Node, leaves: &[Node], merges: &mut Vec<u8>) {
        if leaves.get(merges.len()) == Some(&node) {
            merges.push(0);
            return;
        }
        let (left, right) = node.children().expect("the leaves cover the roots");
        visit(left, leaves, merges);
        visit(right, leaves, merges);
        if let Some(last) = merges.last_mut() {
            *last += 1;
        }
    }
    let mut merges = Vec::with_capacity(leaves.len());
    roots.iter().for_each(|root| visit(*root, leaves, &mut merges));
    merges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(start: u32, end: u32) -> Node {
        Node { start, end }
    }

    #[test]
    fn splits_at_the_largest_power_of_two_below_the_length() {
        assert_eq!(node(0, 4).children(), Some((node(0, 2), node(2, 4))));
        assert_eq!(node(0, 5).children(), Some((node(0, 4), node(4, 5))));
        assert_eq!(node(4, 7).children(), Some((node(4, 6), node(6, 7))));
        assert_eq!(node(3, 4).children(), None);
    }

    #[test]
    fn maximal_nodes_cover_a_range() {
        let range = ShardRange { start: 1, end: 6 };
        let nodes = Node::root(8).maximal_inside(range);
        assert_eq!(nodes, [node(1, 2), node(2, 4), node(4, 6)]);
    }

    #[test]
    fn neighbouring_ranges_have_common_nodes() {
        let ranges = [(4, 5), (0, 1), (1, 2), (6, 8)];
        let ranges = ranges.map(|(start, end)| ShardRange { start, end });
        let nodes = Node::root(8).maximal_within(&ranges);
        assert_eq!(nodes, [node(0, 2), node(4, 5), node(6, 8)]);
    }

    #[test]
    fn a_stack_adds_leaves_along_the_tree() {
        let leaves = |range: std::ops::Range<u32>| -> Vec<Node> {
            range.map(|start| node(start, start + 1)).collect()
        };
        for (count, expected) in [
            (1, &[0][..]),
            (2, &[0, 1]),
            (3, &[0, 1, 1]),
            (4, &[0, 1, 0, 2]),
            (7, &[0, 1, 0, 2, 0, 1, 2]),
        ] {
            assert_eq!(merges(&[Node::root(count)], &leaves(0..count)), expected);
        }
        // Seven shards and three members: first the second member's nodes, then all members' nodes.
        assert_eq!(merges(&[node(2, 4), node(4, 5)], &leaves(2..5)), [0, 1, 0]);
        let nodes = [node(0, 2), node(2, 4), node(4, 5), node(5, 6), node(6, 7)];
        assert_eq!(merges(&[Node::root(7)], &nodes), [0, 1, 0, 1, 2]);
    }
}
