//! The bits that the job [`SMALL`] must give, after any number of epochs.

use std::sync::OnceLock;

use checkpoint::Checkpoint;

use super::{Place, SMALL, coordinator_at};

/// Steps in an epoch of [`SMALL`].
pub(crate) const STEPS_PER_EPOCH: u64 = 94;

/// Epochs whose checkpoints are kept; what goes further is computed when it is asked for.
const EPOCHS: u64 = 12;

/// The checkpoint after so many epochs of [`SMALL`], computed by one worker without a break.
pub(crate) fn reference(epochs: u64) -> Checkpoint {
    static RUN: OnceLock<Place> = OnceLock::new();
    if epochs <= EPOCHS {
        return RUN.get_or_init(|| undisturbed(EPOCHS)).checkpoint(epochs * STEPS_PER_EPOCH);
    }
    undisturbed(epochs).newest()
}

fn undisturbed(epochs: u64) -> Place {
    let place = Place::new();
    let flags =
        format!("{SMALL} --workers 1 --spawn --epochs {epochs} --keep-checkpoints {epochs}");
    coordinator_at(&place, &flags).wait().succeeded();
    place
}
