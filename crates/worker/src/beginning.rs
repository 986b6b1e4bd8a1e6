//! Where a worker begins: at the newest checkpoint that verifies, among those beside the one that
//! the coordinator names, or at a newer one that only the store has, as after all workers were lost
//! together with their disks; else at the seed. The coordinator has not read the one that it names.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use checkpoint::{Checkpoint, Directory, step_of};
use collective::TERMS_MAX;
use model::{Layout, State};
use store::Store;
use trainer::{EpochLedger, Ledger};

use crate::training::Setup;

/// What a worker begins from.
pub(crate) struct Beginning {
    pub(crate) state: State,
    pub(crate) ledger: Ledger,
    /// How it was computed, a fingerprint for each kind.
    pub(crate) arithmetic: Vec<String>,
}

/// The state to begin from; none for that of the seed.
pub(crate) fn find(setup: &Setup, layout: &Layout) -> Result<Option<Beginning>> {
    let told = setup.checkpoint.as_deref();
    let here = told.map(newest_beside).transpose()?.flatten();
    let stored = from_store(setup, here.as_ref().map(|(path, _)| path.as_path()));
    if let (Some(told), None, None) = (told, &here, &stored) {
        // On a host without the run directory, the state comes from the other workers.
        tracing::warn!("{} is not on this host: beginning without it", told.display());
    }
    let (path, checkpoint) = match (stored, here) {
        (Some(path), _) => {
            let checkpoint = checkpoint::read(&path);
            (path, checkpoint?)
        }
        (None, Some(here)) => here,
        (None, None) => return Ok(None),
    };
    let begun = restore(checkpoint, setup, layout);
    begun.map(Some).with_context(|| format!("cannot go on from {}", path.display()))
}

/// The newest checkpoint that verifies in the folder of the one at `told`; damaged ones are named.
fn newest_beside(told: &Path) -> Result<Option<(PathBuf, Checkpoint)>> {
    let Some(folder) = told.parent() else { return Ok(None) };
    let newest = Directory::open(folder).newest()?;
    for (damaged, why) in &newest.damaged {
        tracing::warn!(checkpoint = %damaged.display(), "skipped a damaged checkpoint: {why}");
    }
    Ok(newest.checkpoint)
}

/// Brings the newest checkpoint in the store to this host, if it is newer than what is here. A
/// store that does not answer keeps nobody from beginning.
fn from_store(setup: &Setup, here: Option<&Path>) -> Option<PathBuf> {
    let url = setup.config.operation.checkpoint_url.as_deref()?;
    let above = here.and_then(|path| step_of(path.file_name()?.to_str()?));
    let folder = Directory::open(setup.run_dir.join("checkpoints"));
    match Store::open(url).and_then(|store| store.newest(above, &folder)) {
        Ok(newest) => {
            for damaged in &newest.damaged {
                tracing::warn!("skipped a damaged checkpoint: {damaged}");
            }
            let file = newest.file?;
            // Worth a warning: the disk that it was written to is gone.
            tracing::warn!(
                "this host lacked the newest checkpoint: fetched {} from {url}",
                file.display()
            );
            Some(file)
        }
        Err(error) => {
            tracing::warn!("beginning without the store: {error}");
            None
        }
    }
}

fn restore(checkpoint: Checkpoint, setup: &Setup, layout: &Layout) -> Result<Beginning> {
    let Checkpoint { metadata, tensors, .. } = checkpoint;
    ensure!(metadata.run_id == setup.run_id, "it belongs to run {}", metadata.run_id);
    let gather = |prefix: &str| {
        layout.gather(|name| {
            let tensor = tensors.get(&format!("{prefix}{name}"))?;
            Some((&tensor.shape[..], &tensor.data[..]))
        })
    };
    let state = State {
        step: metadata.step,
        parameters: gather("")?,
        exp_avg: gather("exp_avg.")?,
        exp_avg_sq: gather("exp_avg_sq.")?,
    };
    let epoch = |epoch: checkpoint::EpochLedger| {
        let mut terms = [0.0; TERMS_MAX];
        terms.iter_mut().zip(epoch.loss_terms).for_each(|(sum, term)| *sum = term);
        EpochLedger { examples: epoch.images, index_sum: epoch.index_sum, terms }
    };
    let ledger = Ledger { epochs: metadata.ledger.into_iter().map(epoch).collect() };
    Ok(Beginning { state, ledger, arithmetic: metadata.arithmetic })
}
