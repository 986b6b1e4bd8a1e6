//! Any number of shards and any split among members gives the tree's sum bit by bit.

#[path = "support/gradients.rs"]
mod gradients;

use collective::{Node, Plan, Rank, ShardRange, Share, Tally};
use gradients::{bits, gradients, shares, tree_sum};
use proptest::prelude::*;

const SHARDS_MAX: u32 = 64;
const LENGTH_MAX: usize = 3000;

proptest! {
    #[test]
    fn any_split_gives_the_bits_of_the_tree(
        shards in 1..=SHARDS_MAX,
        cuts in prop::collection::vec(any::<u32>(), 0..16),
        length in 0..LENGTH_MAX,
        seed in any::<u32>(),
    ) {
        let gradients = gradients(shards, length, seed);
        let plan = Plan::new(shards, length, &shares(shards, &cuts)).unwrap();
        let mut sum = vec![f32::NAN; length];
        for member in 0..plan.members() {
            let segment = plan.segment(member);
            let partials: Vec<Vec<f32>> = (0..plan.members())
                .flat_map(|member| plan.nodes(member))
                .map(|node| tree_sum(*node, &gradients)[segment.clone()].to_vec())
                .collect();
            let partials: Vec<&[f32]> = partials.iter().map(Vec::as_slice).collect();
            plan.reducer().add(|node| partials[node], &mut sum[segment]);
        }
        prop_assert_eq!(bits(&sum), bits(&tree_sum(Node::root(shards), &gradients)));
    }

    #[test]
    fn tallies_follow_the_same_tree(shards in 1..=SHARDS_MAX, cut in any::<u32>()) {
        let values: Vec<f64> = gradients(shards, 1, 9).iter().map(|g| f64::from(g[0])).collect();
        fn sum(node: Node, values: &[f64]) -> f64 {
            node.children().map_or_else(
                || values[node.start as usize],
                |(left, right)| sum(left, values) + sum(right, values),
            )
        }
        let plan = Plan::new(shards, 0, &shares(shards, &[cut])).unwrap();
        let partials: Vec<f64> = (0..plan.members())
            .flat_map(|member| plan.nodes(member))
            .map(|node| sum(*node, &values))
            .collect();
        let expected = sum(Node::root(shards), &values);
        let tally = |node: usize| Tally { terms: [partials[node]; 8], examples: 1, index_sum: 2 };
        let found = plan.reducer().add_tallies(tally);
        prop_assert_eq!(found.terms.map(f64::to_bits), [expected.to_bits(); 8]);
        let nodes = partials.len() as u64;
        prop_assert_eq!((found.examples, found.index_sum), (nodes, 2 * nodes));
    }

    #[test]
    fn segments_partition_the_vector(
        shards in 1..=SHARDS_MAX,
        cuts in prop::collection::vec(any::<u32>(), 0..16),
        length in 0..LENGTH_MAX,
    ) {
        let plan = Plan::new(shards, length, &shares(shards, &cuts)).unwrap();
        let mut end = 0;
        for member in 0..plan.members() {
            prop_assert_eq!(plan.segment(member).start, end);
            end = plan.segment(member).end;
        }
        prop_assert_eq!(end, length);
    }

    #[test]
    fn dealt_ranges_cover_all_shards_evenly(shards in 1..=SHARDS_MAX, members in 1..=SHARDS_MAX) {
        let members = members.min(shards);
        let ranges = ShardRange::deal(shards, members);
        let mut end = 0;
        for range in &ranges {
            prop_assert_eq!(range.start, end);
            prop_assert!(range.len() >= shards / members && range.len() <= shards.div_ceil(members));
            end = range.end;
        }
        prop_assert_eq!(end, shards);
    }
}

#[test]
fn the_order_of_addition_matters_for_these_gradients() {
    let gradients = gradients(8, 500, 1);
    let plain = gradients.iter().fold(vec![0.0; 500], |sum: Vec<f32>, gradient| {
        sum.iter().zip(gradient).map(|(sum, term)| sum + term).collect()
    });
    assert_ne!(bits(&plain), bits(&tree_sum(Node::root(8), &gradients)));
}

#[test]
fn shares_that_leave_a_gap_are_refused() {
    let gap = [
        Share { rank: Rank(0), shards: ShardRange { start: 0, end: 1 } },
        Share { rank: Rank(1), shards: ShardRange { start: 2, end: 4 } },
    ];
    let refused = Plan::new(4, 10, &gap).unwrap_err().to_string();
    assert!(refused.contains("0..4"), "{refused}");
}
