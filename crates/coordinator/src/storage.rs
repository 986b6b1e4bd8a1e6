//! The object store that also keeps a run's configuration and checkpoints. This module finds the run in
//! the store, and copies into the run directory the files that the directory lacks; everything else
//! reads the run directory only. The workers upload the checkpoints.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use checkpoint::Directory;
use store::{Store, StoreError};

use crate::{
    origin,
    program::Program,
    run_dir::{self, RunDir, RunInfo},
};

/// The beginning of an error message about the store.
const FLAG: &str = "--checkpoint-url (the word none stands for no store)";

/// A run's folder in a store.
#[derive(Clone, Debug)]
pub(crate) struct Storage {
    store: Store,
    program: &'static dyn Program,
    /// Whether the configuration in the store is this run's.
    is_ours: bool,
}

/// Whether the store itself has failed, and not a file in it.
pub(crate) fn is_away(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(StoreError::Failed { .. }))
}

impl Storage {
    /// Opens the folder at a URL, if one is given. No request is sent to the store.
    pub(crate) fn open(url: Option<&str>, program: &'static dyn Program) -> Result<Option<Self>> {
        let Some(url) = url else { return Ok(None) };
        Ok(Some(Self { store: Store::open(url).context(FLAG)?, program, is_ours: false }))
    }

    /// Refuses to begin a run in a folder that already holds a run.
    pub(crate) fn refuse_occupied(&self) -> Result<()> {
        // The list comes first, because it distinguishes a missing bucket from an empty one.
        let steps = self.store.steps().context(FLAG)?;
        ensure!(steps.is_empty() && !self.holds_run()?, self.occupied());
        Ok(())
    }

    /// Whether the store holds a run.
    pub(crate) fn holds_run(&self) -> Result<bool> {
        Ok(self.run()?.is_some())
    }

    fn occupied(&self) -> String {
        format!(
            "--checkpoint-url {} holds a run already: go on with --resume, or choose another",
            self.store.url()
        )
    }

    /// Writes the run's configuration into the store. If the store already has an older
    /// configuration of this run, a failure is only logged.
    pub(crate) fn claim(&self, info: &RunInfo) -> Result<()> {
        let config = run_dir::json(info)?;
        if self.is_ours {
            if let Err(error) = self.store.put_config(&config) {
                tracing::warn!("the stored configuration is the one before: {error}");
            }
            return Ok(());
        }
        match self.store.claim(&config) {
            Err(StoreError::Exists { .. }) => bail!(self.occupied()),
            result => result.context(FLAG),
        }
    }

    /// Copies the newest valid checkpoint from the store into the run directory at `path`, unless the
    /// directory has it or a newer one. `here` is the run in that directory, if there is one. If it
    /// is not the store's run, a run directory is made at `place(run_id)`, which must differ from
    /// `path` if `here` is another run. Returns the run directory.
    pub(crate) fn restore(
        &mut self,
        here: Option<&RunInfo>,
        path: &Path,
        place: impl Fn(&str) -> PathBuf,
    ) -> Result<PathBuf> {
        let steps = self.store.steps().context(FLAG)?;
        let url = self.store.url();
        let Some(there) = self.run()? else {
            ensure!(
                steps.is_empty(),
                "{url} holds checkpoints but no config.json, so their run is unknown: copy \
                 config.json there from the run directory, or choose another --checkpoint-url"
            );
            ensure!(
                here.is_some(),
                "nothing to resume: neither {} nor {url} holds a run",
                path.display()
            );
            return Ok(path.to_owned());
        };
        let is_here = here.is_some_and(|here| here.run_id == there.run_id);
        let run_dir = if is_here { path.to_owned() } else { place(&there.run_id) };
        if !is_here {
            ensure!(
                here.is_none() || run_dir != path,
                "{} holds another run than {url}: choose another --run-dir or --checkpoint-url",
                path.display()
            );
            RunDir::restore(&run_dir, &there)?;
        }
        self.is_ours = true;
        self.fetch(&run_dir, steps.last().copied())?;
        Ok(run_dir)
    }

    /// The run in the store, if there is one.
    fn run(&self) -> Result<Option<RunInfo>> {
        let Some(config) = self.store.config().context(FLAG)? else { return Ok(None) };
        let info = RunInfo::parse(&config, self.program);
        let url = self.store.url();
        info.with_context(|| format!("{url}/config.json is not a run's configuration")).map(Some)
    }

    /// Fetches the newest valid checkpoint that is newer than those here; `last` is the store's last step.
    fn fetch(&self, run_dir: &Path, last: Option<u64>) -> Result<()> {
        let checkpoints = Directory::open(RunDir::checkpoints_in(run_dir));
        let here = checkpoints.newest()?;
        let above = here.checkpoint.map(|(_, newest)| newest.metadata.step);
        // A damaged file here may have the name of the one to fetch.
        if last > above && !RunDir::is_open(run_dir) {
            for (path, why) in &here.damaged {
                tracing::warn!("{}", checkpoint::set_aside(path, why));
            }
        }
        let newest = self.store.newest(above, &checkpoints).context(FLAG)?;
        for damaged in &newest.damaged {
            tracing::warn!("{}", damaged.skipped());
        }
        ensure!(
            above.is_some() || newest.file.is_some() || newest.damaged.is_empty(),
            "nothing to resume: {}, at {}; restore one from a copy, or begin a new run with another \
             --checkpoint-url",
            origin::all_damaged(newest.damaged.len()),
            self.store.url()
        );
        Ok(())
    }
}
