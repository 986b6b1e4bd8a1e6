//! Gradients to add up, and the definition of their sum.

use collective::{Node, Rank, ShardRange, Share};

/// The definition: the sum of a node is the sum of its children's sums.
pub(crate) fn tree_sum(node: Node, gradients: &[Vec<f32>]) -> Vec<f32> {
    match node.children() {
        None => gradients[node.start as usize].clone(),
        Some((left, right)) => {
            let (left, right) = (tree_sum(left, gradients), tree_sum(right, gradients));
            left.iter().zip(&right).map(|(left, right)| left + right).collect()
        }
    }
}

pub(crate) fn shares(shards: u32, cuts: &[u32]) -> Vec<Share> {
    let mut cuts: Vec<u32> = cuts.iter().map(|cut| cut % shards).chain([0, shards]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    cuts.windows(2)
        .zip(0..)
        .map(|(cut, rank)| Share {
            rank: Rank(rank),
            shards: ShardRange { start: cut[0], end: cut[1] },
        })
        .collect()
}

/// Gradients over many magnitudes, so that another order of addition gives other bits.
pub(crate) fn gradients(shards: u32, length: usize, seed: u32) -> Vec<Vec<f32>> {
    let value = |shard: u32, index: usize| {
        let mixed = (u64::from(seed) << 32 | u64::from(shard) << 16 | index as u64)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mantissa = (mixed >> 40) as f32 / 16_777_216.0 - 0.5;
        mantissa * 2f32.powi((mixed & 31) as i32 - 16)
    };
    (0..shards).map(|shard| (0..length).map(|index| value(shard, index)).collect()).collect()
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}
