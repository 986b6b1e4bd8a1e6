//! The coordinates of an all-reduce: rank, generation, step, shards.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A worker's stable slot in the run, below the number of workers.
    Rank(u32)
}
number! {
    /// The number of a fixed set of members; any change of membership starts the next one.
    Generation(u64)
}
number! {
    /// Optimizer updates done so far.
    Step(u64)
}

impl Generation {
    /// The generation after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Step {
    /// The step after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A contiguous range of shards, `start..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShardRange {
    /// The first shard.
    pub start: u32,
    /// One past the last shard.
    pub end: u32,
}

impl ShardRange {
    /// The number of shards in the range.
    #[must_use]
    pub fn len(self) -> u32 {
        self.end - self.start
    }

    /// Whether the range holds no shard.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// The shards of the range in order.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        self.start..self.end
    }

    /// Divides `shards` among `members` in contiguous ranges. The sizes differ by at most one;
    /// the larger ranges come last.
    ///
    /// If there are more members than shards, the first ranges are empty.
    #[must_use]
    pub fn deal(shards: u32, members: u32) -> Vec<Self> {
        let cut = |member: u32| {
            let part = u64::from(shards) * u64::from(member) / u64::from(members);
            u32::try_from(part).unwrap_or(shards)
        };
        (0..members).map(|member| Self { start: cut(member), end: cut(member + 1) }).collect()
    }
}

impl fmt::Display for ShardRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}
