//! The data that travels beside the gradient: sums, the ledger of examples, digests, control.

use std::{
    fmt,
    ops::{Add, BitOr},
    time::Duration,
};

use thiserror::Error;

use crate::{Digest, Plan, Rank, Reducer, Step};

/// The most sums that a task reports for a batch; the first sum is the loss.
pub const TERMS_MAX: usize = 8;

/// The data that a round adds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The gradient of a step, and its tallies.
    Train,
    /// The tallies of the test set at the end of an epoch; no gradient.
    Evaluate,
    /// The tallies of the held-out training examples; no gradient.
    Validate,
}

/// One exchange among the members of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Round {
    /// Optimizer updates done before the round.
    pub step: Step,
    /// The data that is added up.
    pub kind: Kind,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Train => write!(f, "step {}", self.step),
            Kind::Evaluate => write!(f, "the evaluation after step {}", self.step),
            Kind::Validate => write!(f, "the validation after step {}", self.step),
        }
    }
}

/// Sums over examples: the task's terms, and which examples were counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// The task's terms, the loss first. Unused terms are zero.
    pub terms: [f64; TERMS_MAX],
    /// The number of examples.
    pub examples: u64,
    /// The sum of the examples' indices in the data set, modulo 2^64.
    pub index_sum: u64,
}

impl Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            terms: std::array::from_fn(|index| self.terms[index] + other.terms[index]),
            examples: self.examples + other.examples,
            index_sum: self.index_sum.wrapping_add(other.index_sum),
        }
    }
}

/// Requests that travel with a step. They are OR-ed over the members, so that all members see the
/// same control word after the same step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control(pub u32);

impl Control {
    /// Apply this step, then stop together.
    pub const PAUSE: Self = Self(1);

    /// Whether all bits of `request` are set.
    #[must_use]
    pub fn contains(self, request: Self) -> bool {
        self.0 & request.0 == request.0
    }
}

impl BitOr for Control {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Where a member's time went in its previous step, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// Computing gradients and the update.
    pub compute_us: u32,
    /// Moving and adding gradients.
    pub all_reduce_us: u32,
    /// Waiting for the other members' gradients.
    pub waiting_us: u32,
}

/// The data that one member brings to a round, beside its partials.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contribution {
    /// One tally per node that the member contributes, in shard order.
    pub tallies: Vec<Tally>,
    /// The member's requests.
    pub control: Control,
    /// The digest of the member's state, if this round verifies it.
    pub digest: Option<Digest>,
    /// Where the member's time went in its previous step.
    pub timing: Timing,
}

impl Contribution {
    /// Copies another contribution into this one, and reuses this one's memory.
    pub fn copy_from(&mut self, other: &Self) {
        let Self { tallies, control, digest, timing } = self;
        tallies.clone_from(&other.tallies);
        (*control, *digest, *timing) = (other.control, other.digest, other.timing);
    }
}

/// A member's contribution as the others see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// The round that the contribution is for.
    pub round: Round,
    /// The member's contribution.
    pub contribution: Contribution,
}

/// The result of a round, which every member knows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// The tallies of all shards, added along the shard tree.
    pub tally: Tally,
    /// All members' requests.
    pub control: Control,
    /// How long this member waited for the others' gradients.
    pub waiting: Duration,
}

impl Outcome {
    /// Combines the members' contributions, given in rank order. The waiting time is zero. A missing
    /// tally counts as zero: a transport checks their number with [`Plan::nodes`] on arrival.
    ///
    /// # Errors
    /// [`Divergence`] when the digests that members sent differ.
    pub fn combine(
        plan: &Plan,
        reducer: &Reducer,
        step: Step,
        contributions: &[Contribution],
    ) -> Result<Self, Divergence> {
        Divergence::check(plan, step, contributions)?;
        let tallies = || contributions.iter().flat_map(|contribution| &contribution.tallies);
        Ok(Self {
            tally: reducer.add_tallies(|node| tallies().nth(node).copied().unwrap_or_default()),
            control: contributions
                .iter()
                .fold(Control::default(), |control, contribution| control | contribution.control),
            waiting: Duration::ZERO,
        })
    }
}

/// The error for members whose states differ after the same steps.
#[derive(Clone, Debug, Error, PartialEq, Eq, Hash)]
#[error(
    "the members' states differ after step {step}: {}; \
     {}check the memory of that machine before the run goes on",
    list(.digests),
    blame(.digests)
)]
pub struct Divergence {
    /// Updates done when the digests were taken.
    pub step: Step,
    /// Each member's digest, in rank order.
    pub digests: Vec<(Rank, Digest)>,
}

impl Divergence {
    fn check(plan: &Plan, step: Step, contributions: &[Contribution]) -> Result<(), Self> {
        let digests = || {
            let members = contributions.iter().enumerate();
            members.filter_map(|(member, c)| c.digest.map(|digest| (plan.rank(member), digest)))
        };
        Self::compare(step, digests)
    }

    /// Compares the digests of states after the same steps.
    ///
    /// # Errors
    /// [`Divergence`] when the digests differ.
    pub fn among(step: Step, digests: &[(Rank, Digest)]) -> Result<(), Self> {
        Self::compare(step, || digests.iter().copied())
    }

    fn compare<I: Iterator<Item = (Rank, Digest)>>(
        step: Step,
        digests: impl Fn() -> I,
    ) -> Result<(), Self> {
        let first = digests().next();
        if digests().all(|(_, digest)| first.is_some_and(|(_, first)| digest == first)) {
            Ok(())
        } else {
            Err(Self { step, digests: digests().collect() })
        }
    }

    /// The ranks whose digest is not the majority's; empty when there is no majority.
    #[must_use]
    pub fn odd_ranks(&self) -> Vec<Rank> {
        odd_ranks(&self.digests)
    }
}

fn odd_ranks(digests: &[(Rank, Digest)]) -> Vec<Rank> {
    let votes = |digest| digests.iter().filter(|(_, other)| *other == digest).count();
    let majority =
        digests.iter().map(|(_, digest)| *digest).find(|d| 2 * votes(*d) > digests.len());
    let odd = |(rank, digest): &(Rank, Digest)| (Some(*digest) != majority).then_some(*rank);
    majority.map_or_else(Vec::new, |_| digests.iter().filter_map(odd).collect())
}

fn list(digests: &[(Rank, Digest)]) -> String {
    let entries: Vec<String> =
        digests.iter().map(|(rank, digest)| format!("rank {rank} has {digest}")).collect();
    entries.join(", ")
}

fn blame(digests: &[(Rank, Digest)]) -> String {
    let odd: Vec<String> = odd_ranks(digests).iter().map(Rank::to_string).collect();
    if odd.is_empty() { String::new() } else { format!("odd one out: rank {}; ", odd.join(", ")) }
}

/// Why a round did not finish.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Interrupted {
    /// The coordinator ended the generation.
    #[error("the generation was ended")]
    Aborted,
    /// The connection to a member broke.
    #[error("lost rank {rank} in {round}: {reason}")]
    Lost {
        /// The member that is gone.
        rank: Rank,
        /// The round that did not finish.
        round: Round,
        /// The error of the connection.
        reason: String,
    },
    /// A member sent a message that the protocol does not allow.
    #[error("rank {rank} broke the protocol in {round}: {reason}")]
    Protocol {
        /// The member at fault.
        rank: Rank,
        /// The round that did not finish.
        round: Round,
        /// The violation of the protocol.
        reason: String,
    },
    /// A library or the system failed on this host while gradients were moved.
    #[error("{round} failed here: {reason}")]
    Failed {
        /// The round that did not finish.
        round: Round,
        /// The error of the library or the system.
        reason: String,
    },
    /// The members' states differ.
    #[error(transparent)]
    Diverged(#[from] Divergence),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divergence(bytes: &[u8]) -> Divergence {
        let digests =
            bytes.iter().zip(0..).map(|(byte, rank)| (Rank(rank), Digest([*byte; 16]))).collect();
        Divergence { step: Step(7), digests }
    }

    #[test]
    fn the_odd_one_out_is_named() {
        assert_eq!(divergence(&[1, 1, 2]).odd_ranks(), [Rank(2)]);
        assert!(divergence(&[1, 1, 2]).to_string().contains("odd one out: rank 2"));
        assert_eq!(divergence(&[1, 2]).odd_ranks(), []);
        assert!(divergence(&[1, 2]).to_string().contains("after step 7"));
    }
}
