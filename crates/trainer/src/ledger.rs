//! The ledger: the examples that were counted, added up by the all-reduce.

use collective::{TERMS_MAX, Tally};

/// The counts of one epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EpochLedger {
    /// The number of examples.
    pub examples: u64,
    /// The sum of the examples' indices.
    pub index_sum: u64,
    /// The task's terms, summed over the examples.
    pub terms: [f64; TERMS_MAX],
}

impl EpochLedger {
    /// The counts of a complete epoch over so many examples, with the terms at zero.
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

/// The counts of every epoch that has begun.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    /// One entry for each epoch, the first epoch first.
    pub epochs: Vec<EpochLedger>,
    /// The mean loss of the held-out examples after each completed epoch; empty if no example is held
    /// out.
    pub validation: Vec<f64>,
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

    /// The epoch with the lowest validation loss, counted from 1, and this loss. Of equal losses the
    /// first epoch counts.
    #[must_use]
    pub fn best_epoch(&self) -> Option<(u64, f64)> {
        let lower = |a: (u64, f64), b: (u64, f64)| if b.1 < a.1 { b } else { a };
        (1..).zip(self.validation.iter().copied()).reduce(lower)
    }

    /// Whether at least `epochs` epochs have passed since the best epoch. Never if `epochs` is 0.
    #[must_use]
    pub fn has_stalled(&self, epochs: u32) -> bool {
        let since = |(best, _): (u64, f64)| self.validation.len() as u64 - best;
        epochs > 0 && self.best_epoch().is_some_and(|best| since(best) >= epochs.into())
    }

    /// Notes the validation loss after an epoch, counted from 1. A generation that begins at the end
    /// of the epoch notes the same loss once more.
    pub(crate) fn note_validation(&mut self, epoch: u64, loss: f64) {
        self.validation.truncate(usize::try_from(epoch - 1).unwrap_or(usize::MAX));
        self.validation.push(loss);
    }

    /// Counts a step. Its epoch, counted from 0, is the last one in the ledger or the next one.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_has_stalled_when_no_epoch_was_better_for_long_enough() {
        let mut ledger = Ledger::default();
        assert!(!ledger.has_stalled(1) && ledger.best_epoch().is_none());
        let stalled: Vec<bool> = (1..)
            .zip([5.0, 3.0, 4.0, 3.0, 2.5, 2.6])
            .map(|(epoch, loss)| {
                ledger.note_validation(epoch, loss);
                ledger.has_stalled(2)
            })
            .collect();
        // An equal loss is no better.
        assert_eq!(stalled, [false, false, false, true, false, false]);
        assert_eq!(ledger.best_epoch(), Some((5, 2.5)));
        assert!(ledger.has_stalled(1) && !ledger.has_stalled(0));
        // Reported once more.
        ledger.note_validation(6, 2.6);
        assert_eq!(ledger.validation.len(), 6);
    }
}
