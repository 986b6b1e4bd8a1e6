//! Which shard gets which image in which step: pure arithmetic on the step number, the same on every member.
//!
//! An epoch visits every image once, in an order that depends on (seed, epoch) alone. A step takes the next
//! `shards * batch_size` positions of that order; shard s takes the s-th `batch_size` of them. The last step of an
//! epoch takes the remaining positions, so its trailing shards may be short or empty. Ranks and members do not occur.

use std::ops::Range;

use crate::{Domain, Stream};

/// The positions of all steps and shards of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    seed: u64,
    images: u32,
    shards: u32,
    batch_size: u32,
}

/// A step's place in the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The epoch, from 0.
    pub epoch: u64,
    /// The step in the epoch, from 0.
    pub step: u64,
}

impl Schedule {
    /// The schedule for a training set of `images` images: each of `shards` shards takes `batch_size` images a step.
    ///
    /// # Panics
    /// If any of the three is zero: the configuration must have been validated before.
    pub fn new(seed: u64, images: u32, shards: u32, batch_size: u32) -> Schedule {
        assert!(images > 0 && shards > 0 && batch_size > 0, "{images} {shards} {batch_size}");
        Schedule { seed, images, shards, batch_size }
    }

    /// Images in the training set, and so in every epoch.
    pub fn images(&self) -> u32 {
        self.images
    }

    /// Steps in every epoch; at least one.
    pub fn steps_per_epoch(&self) -> u64 {
        u64::from(self.images).div_ceil(self.global_batch())
    }

    /// The position of the step that follows `step` completed steps.
    pub fn locate(&self, step: u64) -> Position {
        let steps = self.steps_per_epoch();
        Position { epoch: step / steps, step: step % steps }
    }

    /// The positions, in the epoch's order, of one shard in a step of the epoch. Empty beyond the last shard or step.
    pub fn positions(&self, step_in_epoch: u64, shard: u32) -> Range<usize> {
        let Range { start, end } = self.block(step_in_epoch);
        let offset = u64::from(shard) * u64::from(self.batch_size);
        let first = start.saturating_add(offset).min(end);
        let last = first.saturating_add(u64::from(self.batch_size)).min(end);
        // Both are at most `images`, a u32.
        first as usize..last as usize
    }

    /// The images of all shards together in a step of the epoch.
    pub fn images_in(&self, step_in_epoch: u64) -> u32 {
        let Range { start, end } = self.block(step_in_epoch);
        (end - start) as u32
    }

    /// The order of an epoch: a permutation of the image indices `0..images`, each equally likely.
    pub fn order(&self, epoch: u64) -> Vec<u32> {
        let mut words = Words::new(Stream::new(self.seed, Domain::Order, epoch, 0));
        let mut order: Vec<u32> = (0..self.images).collect();
        // Fisher and Yates, in the version of Durstenfeld (1964).
        for last in (1..self.images).rev() {
            let other = words.below(last + 1);
            order.swap(last as usize, other as usize);
        }
        order
    }

    fn global_batch(&self) -> u64 {
        u64::from(self.shards) * u64::from(self.batch_size)
    }

    /// The positions of all shards in a step.
    fn block(&self, step_in_epoch: u64) -> Range<u64> {
        let images = u64::from(self.images);
        let start = step_in_epoch.saturating_mul(self.global_batch()).min(images);
        start..start.saturating_add(self.global_batch()).min(images)
    }
}

/// A stream that is read one word at a time.
struct Words {
    stream: Stream,
    block: u32,
    words: [u32; 4],
    used: usize,
}

impl Words {
    fn new(stream: Stream) -> Words {
        Words { stream, block: 0, words: stream.block(0), used: 0 }
    }

    fn next(&mut self) -> u32 {
        if self.used == self.words.len() {
            // A stream has 2^34 words. A permutation of 2^32 images needs fewer, unless absurdly many are rejected.
            self.block = self.block.wrapping_add(1);
            self.words = self.stream.block(self.block);
            self.used = 0;
        }
        let word = self.words[self.used];
        self.used += 1;
        word
    }

    /// Uniform in `0..bound`, without bias: Lemire, "Fast random integer generation in an interval" (2019).
    fn below(&mut self, bound: u32) -> u32 {
        let mut product = u64::from(self.next()) * u64::from(bound);
        if (product as u32) < bound {
            let threshold = bound.wrapping_neg() % bound;
            while (product as u32) < threshold {
                product = u64::from(self.next()) * u64::from(bound);
            }
        }
        (product >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mnist_by_four_workers() {
        let schedule = Schedule::new(1, 60_000, 4, 64);
        assert_eq!(schedule.steps_per_epoch(), 235);
        assert_eq!(schedule.locate(1170), Position { epoch: 4, step: 230 });
        assert_eq!(schedule.positions(0, 3), 192..256);
        assert_eq!(schedule.images_in(233), 256);
        assert_eq!(schedule.images_in(234), 96);
        let last: Vec<_> = (0..5).map(|shard| schedule.positions(234, shard)).collect();
        assert_eq!(last[..2], [59_904..59_968, 59_968..60_000]);
        assert!(last[2..].iter().all(|range| range.is_empty()));
        assert_eq!(schedule.images_in(235), 0);
    }

    #[test]
    fn the_order_is_pinned() {
        // The order must not change in a later version. These values come from an independent implementation.
        let order = |seed, epoch| Schedule::new(seed, 10, 1, 1).order(epoch);
        assert_eq!(order(0, 0), PINNED[0]);
        assert_eq!(order(42, 3), PINNED[1]);
    }

    #[test]
    fn every_order_of_three_is_about_as_likely() {
        const EPOCHS: u64 = 6000;
        let schedule = Schedule::new(7, 3, 1, 1);
        let mut counts = std::collections::HashMap::new();
        for epoch in 0..EPOCHS {
            *counts.entry(schedule.order(epoch)).or_insert(0u64) += 1;
        }
        assert_eq!(counts.len(), 6);
        // Five standard deviations of a count are 144; the orders are fixed, so this cannot fail by chance.
        assert!(counts.values().all(|count| count.abs_diff(EPOCHS / 6) < 144), "{counts:?}");
    }

    #[test]
    fn below_is_below_and_reaches_both_ends() {
        let mut words = Words::new(Stream::new(1, Domain::Order, 0, 0));
        for bound in [1, 2, 3, 7, 1 << 31, (1 << 31) + 1, u32::MAX] {
            assert!((0..1000).all(|_| words.below(bound) < bound));
        }
        let seen: std::collections::HashSet<_> = (0..1000).map(|_| words.below(7)).collect();
        assert_eq!(seen.len(), 7);
    }

    #[test]
    fn below_is_not_biased() {
        // At this bound a plain multiplication makes every third value twice as likely as the others.
        const DRAWS: u32 = 30_000;
        let mut words = Words::new(Stream::new(1, Domain::Order, 0, 0));
        let mut counts = [0u32; 3];
        for _ in 0..DRAWS {
            counts[(words.below(3 << 30) % 3) as usize] += 1;
        }
        // Five standard deviations of a count.
        assert!(counts.iter().all(|count| count.abs_diff(DRAWS / 3) < 408), "{counts:?}");
    }

    #[test]
    fn extreme_numbers_do_not_overflow() {
        let schedule = Schedule::new(0, u32::MAX, u32::MAX, u32::MAX);
        assert_eq!(schedule.steps_per_epoch(), 1);
        assert_eq!(schedule.positions(0, 0), 0..u32::MAX as usize);
        for step in [1, u64::MAX] {
            assert_eq!(schedule.images_in(step), 0);
            assert!(schedule.positions(step, u32::MAX).is_empty());
        }
        assert_eq!(schedule.locate(u64::MAX), Position { epoch: u64::MAX, step: 0 });
    }

    fn sizes() -> impl Strategy<Value = (u32, u32, u32)> {
        (1u32..500, 1u32..9, 1u32..40)
    }

    proptest! {
        #[test]
        fn an_order_is_a_permutation(seed: u64, epoch: u64, images in 1u32..300) {
            let mut order = Schedule::new(seed, images, 1, 1).order(epoch);
            order.sort_unstable();
            prop_assert!(order.into_iter().eq(0..images));
        }

        #[test]
        fn an_order_depends_on_seed_and_epoch_and_nothing_else(
            seed: u64, epoch in 0u64..(1 << 55), other in 1u64..1000, (_, shards, batch_size) in sizes(),
        ) {
            // Two orders of 50 images are never equal by chance.
            let schedule = Schedule::new(seed, 50, 1, 1);
            let order = schedule.order(epoch);
            prop_assert_eq!(&Schedule::new(seed, 50, shards, batch_size).order(epoch), &order);
            prop_assert_ne!(&schedule.order(epoch + other), &order);
            prop_assert_ne!(&Schedule::new(seed.wrapping_add(other), 50, 1, 1).order(epoch), &order);
        }

        #[test]
        fn an_epoch_hands_out_every_position_once((images, shards, batch_size) in sizes()) {
            let schedule = Schedule::new(0, images, shards, batch_size);
            let mut next = 0;
            for step in 0..schedule.steps_per_epoch() {
                let mut in_step = 0;
                for shard in 0..shards {
                    let positions = schedule.positions(step, shard);
                    prop_assert!(positions.len() <= batch_size as usize);
                    if !positions.is_empty() {
                        // In ascending order without gap or overlap: exactly once.
                        prop_assert_eq!(positions.start, next);
                        next = positions.end;
                    }
                    in_step += positions.len();
                }
                prop_assert!(in_step > 0, "no step is empty");
                prop_assert_eq!(in_step, schedule.images_in(step) as usize);
                prop_assert!(schedule.positions(step, shards).is_empty());
            }
            prop_assert_eq!(next, images as usize);
            prop_assert!(schedule.positions(schedule.steps_per_epoch(), 0).is_empty());
        }

        #[test]
        fn locate_counts_steps((images, shards, batch_size) in sizes(), step: u64) {
            let schedule = Schedule::new(0, images, shards, batch_size);
            let position = schedule.locate(step);
            prop_assert!(position.step < schedule.steps_per_epoch());
            prop_assert_eq!(position.epoch * schedule.steps_per_epoch() + position.step, step);
        }
    }

    const PINNED: [[u32; 10]; 2] = [[6, 5, 8, 1, 7, 0, 9, 2, 3, 4], [0, 2, 7, 8, 9, 6, 1, 3, 4, 5]];
}
