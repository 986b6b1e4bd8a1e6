//! The state from which a worker begins. It comes from the newest sound checkpoint in the folder of the
//! checkpoint that the coordinator names, or from a newer checkpoint in the store, for example after all
//! workers were lost with their disks. Without a checkpoint, the state is that of the seed. The
//! coordinator has not read the checkpoint that it names.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use checkpoint::{Checkpoint, Directory, step_of};
use model::{Layout, State};
use store::Store;
use trainer::Ledger;

use crate::{convert, setup::RunContext};

/// A state to begin from.
pub(crate) struct Restored {
    pub(crate) state: State,
    pub(crate) ledger: Ledger,
    /// The fingerprints of the arithmetic with which the state was computed.
    pub(crate) arithmetic: Vec<String>,
}

/// The state to begin from; none for the state of the seed.
pub(crate) fn newest(context: &RunContext, layout: &Layout) -> Result<Option<Restored>> {
    let named = context.checkpoint.as_deref();
    let here = named.map(newest_beside).transpose()?.flatten();
    let stored = from_store(context, here.as_ref().map(|(path, _)| path.as_path()));
    if let (Some(named), None, None) = (named, &here, &stored) {
        // On a host without the run directory, the state comes from the other workers.
        tracing::warn!("{} is not on this host: beginning without it", named.display());
    }
    let (path, checkpoint) = match (stored, here) {
        (Some(path), _) => {
            let checkpoint = checkpoint::read(&path);
            (path, checkpoint?)
        }
        (None, Some(here)) => here,
        (None, None) => return Ok(None),
    };
    let restored = read(checkpoint, context, layout);
    restored.map(Some).with_context(|| format!("cannot go on from {}", path.display()))
}

/// The newest sound checkpoint in the folder of the checkpoint `named`. Damaged ones are moved away, and
/// logged.
fn newest_beside(named: &Path) -> Result<Option<(PathBuf, Checkpoint)>> {
    let Some(folder) = named.parent() else { return Ok(None) };
    let newest = Directory::open(folder).newest()?;
    for (path, why) in &newest.damaged {
        tracing::warn!("{}", checkpoint::set_aside(path, why));
    }
    Ok(newest.checkpoint)
}

/// Fetches the newest checkpoint from the store, if it is newer than those on this host. If the store
/// does not answer, the worker logs this and goes on.
fn from_store(context: &RunContext, here: Option<&Path>) -> Option<PathBuf> {
    let url = context.config.operation.checkpoint_url.as_deref()?;
    let above = here.and_then(|path| step_of(path.file_name()?.to_str()?));
    let folder = Directory::open(context.run_dir.join("checkpoints"));
    match Store::open(url).and_then(|store| store.newest(above, &folder)) {
        Ok(newest) => {
            for damaged in &newest.damaged {
                tracing::warn!("{}", damaged.skipped());
            }
            let file = newest.file?;
            // A warning, because the disk with this checkpoint is gone.
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

fn read(checkpoint: Checkpoint, context: &RunContext, layout: &Layout) -> Result<Restored> {
    let run_id = &checkpoint.metadata.run_id;
    ensure!(*run_id == context.run_id, "it belongs to run {run_id}");
    let arithmetic = checkpoint.metadata.arithmetic.clone();
    let (state, ledger) = convert::from_checkpoint(checkpoint, layout)?;
    Ok(Restored { state, ledger, arithmetic })
}
