//! The bits that a run with the flags [`SMALL`] must give, after any number of epochs.

use std::{collections::BTreeMap, sync::OnceLock};

use checkpoint::Checkpoint;

use super::{Place, SMALL, coordinator_at};

/// Steps in an epoch of [`SMALL`].
pub(crate) const STEPS_PER_EPOCH: u64 = 94;

/// The epochs that are computed once for all tests; more epochs are computed on request.
const EPOCHS: u64 = 12;

/// Epochs that are trained within the deadline of a wait, also on a busy machine.
const PORTION: u64 = 100;

/// The checkpoint after so many epochs of [`SMALL`], computed by one worker without a break.
pub(crate) fn reference(epochs: u64) -> Checkpoint {
    // The folder is not kept, because a static value is never dropped.
    static CHECKPOINTS: OnceLock<BTreeMap<u64, Checkpoint>> = OnceLock::new();
    let all = CHECKPOINTS.get_or_init(|| {
        let place = undisturbed(EPOCHS);
        (1..=EPOCHS).map(|epoch| (epoch, place.checkpoint(epoch * STEPS_PER_EPOCH))).collect()
    });
    all.get(&epochs).cloned().unwrap_or_else(|| undisturbed(epochs).newest())
}

/// Trains so many epochs, in portions: a run that was struck for long has trained for long.
fn undisturbed(epochs: u64) -> Place {
    let place = Place::new();
    let mut flags = format!("{SMALL} --workers 1 --keep-checkpoints {EPOCHS}");
    for end in (PORTION..epochs).step_by(PORTION as usize).chain([epochs]) {
        coordinator_at(&place, &format!("{flags} --spawn --epochs {end}")).wait().succeeded();
        flags = "--resume".to_owned();
    }
    place
}
