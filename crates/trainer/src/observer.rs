//! What an observer is told of a trainer's progress.

use std::time::Duration;

use collective::{Contribution, Control, Tally, Timing};

use crate::{EpochLedger, Ledger, Replica};

/// One step, after it was applied.
#[derive(Clone, Debug)]
pub struct StepSummary<'a> {
    /// Updates done.
    pub step: u64,
    /// The epoch, from 1.
    pub epoch: u64,
    /// The sums and examples of the step, over all members.
    pub tally: Tally,
    /// What each member brought, in rank order, with where its previous step spent its time.
    pub contributions: &'a [Contribution],
    /// How long the step took.
    pub elapsed: Duration,
    /// What is computed only where the observer wants it.
    pub details: Option<StepDetails>,
}

/// What the schedule was in a step, and the gradient.
#[derive(Clone, Debug, PartialEq)]
pub struct StepDetails {
    /// The learning rate.
    pub learning_rate: f64,
    /// Other numbers of the model's schedule, by name.
    pub factors: Vec<(&'static str, f64)>,
    /// Norm of the mean gradient, before it was clipped.
    pub gradient_norm: f64,
}

/// One epoch, after its last step.
#[derive(Clone, Debug)]
pub struct EpochSummary {
    /// The epoch, from 1.
    pub epoch: u64,
    /// The training examples' sums, as they were when each was visited.
    pub train: EpochLedger,
    /// The test examples' sums at the end of the epoch.
    pub test: Tally,
    /// The mean loss of the held-out training examples at the end of the epoch, where there are any.
    pub validation: Option<f64>,
}

/// Hears of progress, and may ask for things in return. Called on the training thread, so
/// every call is short.
pub trait Observer {
    /// What this member asks for with the step that is about to be exchanged.
    fn control(&self) -> Control;

    /// Whether the details of the step in hand are wanted, which take time; `is_last` says that the
    /// step is the last of its epoch.
    fn wants_details(&self, is_last: bool) -> bool {
        let _ = is_last;
        false
    }

    /// The state has moved from this process's memory to memory that the members share.
    fn memory_freed(&mut self) {}

    /// Whether the state after a step is wanted soon. Where it is on a device, it is fetched for the
    /// next call of [`stepped`](Self::stepped) that can have it.
    fn wants_state(&self) -> bool {
        false
    }

    /// A step was applied, and the replica has the state after it; on a device, it may not be
    /// [at hand](Replica::is_at_hand).
    fn stepped(&mut self, step: &StepSummary<'_>, replica: &Replica, ledger: &Ledger);

    /// An epoch was completed; the state is at hand. A generation that begins at the end of an epoch reports that
    /// epoch once more.
    fn epoch_ended(&mut self, epoch: &EpochSummary, replica: &Replica, ledger: &Ledger);
}

/// An observer that neither hears nor asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoopObserver;

impl Observer for NoopObserver {
    fn control(&self) -> Control {
        Control::default()
    }

    fn stepped(&mut self, _step: &StepSummary<'_>, _replica: &Replica, _ledger: &Ledger) {}

    fn epoch_ended(&mut self, _epoch: &EpochSummary, _replica: &Replica, _ledger: &Ledger) {}
}

/// Splits a step's time, given when each part of it was over, into what each was for.
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
