//! The trait for observers of a trainer's progress, and the summaries that they get.

use std::time::Duration;

use collective::{Contribution, Control, Tally, Timing};

use crate::{EpochLedger, Ledger, Replica};

/// The summary of a step, after the step was applied.
#[derive(Clone, Debug)]
pub struct StepSummary<'a> {
    /// Updates done.
    pub step: u64,
    /// The epoch, from 1.
    pub epoch: u64,
    /// The sums and examples of the step, over all members.
    pub tally: Tally,
    /// Each member's contribution, in rank order. Its timing is that of the member's previous step.
    pub contributions: &'a [Contribution],
    /// How long the step took.
    pub elapsed: Duration,
    /// The details, which are computed only if the observer wants them.
    pub details: Option<StepDetails>,
}

/// The schedule's values in a step, and the norm of the gradient.
#[derive(Clone, Debug, PartialEq)]
pub struct StepDetails {
    /// The learning rate.
    pub learning_rate: f64,
    /// Other numbers of the model's schedule, by name.
    pub factors: Vec<(&'static str, f64)>,
    /// Norm of the mean gradient, before it was clipped.
    pub gradient_norm: f64,
}

/// The summary of an epoch, after its last step.
#[derive(Clone, Debug)]
pub struct EpochSummary {
    /// The epoch, from 1.
    pub epoch: u64,
    /// The training examples' sums, each computed when the example was visited.
    pub train: EpochLedger,
    /// The test examples' sums at the end of the epoch.
    pub test: Tally,
    /// The mean loss of the held-out training examples at the end of the epoch, if there are any.
    pub validation: Option<f64>,
}

/// Receives a trainer's progress, and can make requests. The training thread calls it, so every
/// call must be short.
pub trait Observer {
    /// The requests that this member sends with the next exchange.
    fn control(&self) -> Control;

    /// Whether the observer wants the details of the current step; computing them takes time.
    /// `is_last` means that the step is the last of its epoch.
    fn wants_details(&self, is_last: bool) -> bool {
        let _ = is_last;
        false
    }

    /// The state has moved from this process's memory to memory that the members share.
    fn memory_freed(&mut self) {}

    /// Whether the observer wants the state after a step soon. A state on a device is then copied to the
    /// host for one of the next calls of [`stepped`](Self::stepped).
    fn wants_state(&self) -> bool {
        false
    }

    /// A step was applied, and the replica has the state after it. A state on a device may not be
    /// [at hand](Replica::is_at_hand).
    fn stepped(&mut self, step: &StepSummary<'_>, replica: &Replica, ledger: &Ledger);

    /// An epoch was completed; the state is at hand. A generation that begins at the end of an epoch
    /// reports this epoch once more.
    fn epoch_ended(&mut self, epoch: &EpochSummary, replica: &Replica, ledger: &Ledger);
}

/// An observer that ignores everything and requests nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoopObserver;

impl Observer for NoopObserver {
    fn control(&self) -> Control {
        Control::default()
    }

    fn stepped(&mut self, _step: &StepSummary<'_>, _replica: &Replica, _ledger: &Ledger) {}

    fn epoch_ended(&mut self, _epoch: &EpochSummary, _replica: &Replica, _ledger: &Ledger) {}
}

/// Splits the time of a step by purpose. The first three arguments are the times since the step's
/// begin at which a part ended.
pub(crate) fn timing(
    computed: Duration,
    reduced: Duration,
    updated: Duration,
    waiting: Duration,
) -> Timing {
    let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    Timing {
        compute_us: micros(computed + (updated - reduced)),
        all_reduce_us: micros((reduced - computed).saturating_sub(waiting)),
        waiting_us: micros(waiting),
    }
}
