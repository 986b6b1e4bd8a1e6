//! Which examples were counted, as added up by the all-reduce.

use collective::{TERMS_MAX, Tally};

/// What one epoch has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EpochLedger {
    /// Examples.
    pub examples: u64,
    /// The sum of their indices.
    pub index_sum: u64,
    /// The task's terms, summed over them.
    pub terms: [f64; TERMS_MAX],
}

impl EpochLedger {
    /// What a complete epoch over so many examples counts; its terms are left at zero.
    #[must_use]
    pub fn complete(examples: u32) -> Self {
        let examples = u64::from(examples);
        let index_sum = examples * examples.saturating_sub(1) / 2;
        Self { examples, index_sum, terms: [0.0; TERMS_MAX] }
    }

    /// The mean of each term over the examples.
    #[must_use]
    pub fn means(&self) -> [f64; TERMS_MAX] {
        self.terms.map(|sum| sum / self.examples.max(1) as f64)
    }
}

/// What each epoch begun so far has counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    /// By epoch, from the first.
    pub epochs: Vec<EpochLedger>,
}

impl Ledger {
    /// The ledger of an epoch, counted from 0; empty if it has not begun.
    #[must_use]
    pub fn epoch(&self, epoch: u64) -> EpochLedger {
        usize::try_from(epoch)
            .ok()
            .and_then(|epoch| self.epochs.get(epoch))
            .copied()
            .unwrap_or_default()
    }

    /// Counts a step of an epoch, counted from 0: the last one begun, or the one after it.
    pub(crate) fn add(&mut self, epoch: u64, tally: &Tally) {
        if self.epochs.len() as u64 <= epoch {
            self.epochs.push(EpochLedger::default());
        }
        let Some(ledger) = self.epochs.last_mut() else { return };
        ledger.examples += tally.examples;
        ledger.index_sum = ledger.index_sum.wrapping_add(tally.index_sum);
        for (sum, term) in ledger.terms.iter_mut().zip(tally.terms) {
            *sum += term;
        }
    }
}
