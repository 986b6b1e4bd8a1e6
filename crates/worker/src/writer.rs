//! Writes the leader's files from snapshots, on a separate thread, so that no step waits for a
//! disk.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::{Component, Path, PathBuf},
    sync::{
        Arc,
        mpsc::{self, SyncSender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use checkpoint::{Directory, Metadata, TensorView};
use data::Splits;
use model::{Layout, State};
use store::{Mirror, Unstored};
use trainer::{Artifacts, Ledger, Replica, Snapshot, Task, Trainer};

use crate::{
    convert,
    setup::{RunContext, Setup},
};

/// The most snapshots that wait to be written; if there are more, training waits.
const JOBS: usize = 2;

/// The mark of a picture of this project is within so many first bytes.
const MARKED_BYTES: usize = 4 << 10;

/// How long the last checkpoint may take to reach the store over a slow link. If the store does not
/// answer, the attempts end within two minutes.
pub(crate) const STORE_TIMEOUT: Duration = Duration::from_secs(10 * 60);

enum Job {
    Checkpoint(Snapshot, Ledger, BTreeMap<u64, Vec<f64>>, Vec<String>),
    Artifacts { epoch: u64, state: Snapshot },
    Flush(SyncSender<()>),
}

/// The handle of the writing thread.
#[derive(Debug)]
pub(crate) struct Writer {
    jobs: SyncSender<Job>,
    /// None after the thread has failed and its error was returned.
    thread: Option<JoinHandle<Result<()>>>,
    /// The store that gets copies of the checkpoints, if there is one.
    mirror: Option<Arc<Mirror>>,
    /// The fingerprints of the arithmetic of the next saved state, for its checkpoint.
    pub(crate) arithmetic: Vec<String>,
}

/// The folders that the leader writes to.
fn folders(context: &RunContext) -> [PathBuf; 2] {
    ["checkpoints", "samples"].map(|name| context.run_dir.join(name))
}

/// Checks that this worker could lead: that it can write to the run directory, which may be on another
/// host's disk or belong to another user. The check leaves no files.
pub(crate) fn try_folders(context: &RunContext) -> Result<()> {
    let tried = folders(context).iter().try_for_each(|folder| disk::try_folder(folder));
    tried.map_err(|error| {
        anyhow!(
            "{error}, so this worker cannot lead: give its user the right to write the run \
             directory, or choose another --run-dir"
        )
    })
}

/// The state of the writing thread.
struct WriterThread<T: Task> {
    checkpoints: Directory,
    keep: usize,
    /// Whether the checkpoint with the lowest validation loss is kept too.
    keep_best: bool,
    steps_per_epoch: u64,
    mirror: Option<Arc<Mirror>>,
    samples: PathBuf,
    metadata: Metadata,
    /// The number of sums that the task reports.
    metrics: usize,
    layout: Layout,
    options: T::Options,
    data: Arc<Splits<T::Data>>,
}

impl Writer {
    /// Starts the writing thread.
    pub(crate) fn start<T: Task>(setup: &Setup<T>, trainer: &Trainer<T::Data>) -> Result<Self> {
        let training = &setup.context.config.training;
        // On a host that does not share the coordinator's disk, the folders do not exist yet.
        let [checkpoints, samples] = folders(&setup.context);
        for folder in [&checkpoints, &samples] {
            disk::create_folder(folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        try_folders(&setup.context)?;
        let operation = &setup.context.config.operation;
        let keep = operation.keep_checkpoints as usize;
        let mirror = operation.checkpoint_url.clone().map(|url| Mirror::start(url, keep));
        let mirror = mirror.transpose().context("cannot start the storing thread")?.map(Arc::new);
        let writer = WriterThread::<T> {
            checkpoints: Directory::open(checkpoints),
            keep,
            keep_best: operation.keep_best,
            steps_per_epoch: trainer.steps_per_epoch(),
            mirror: mirror.clone(),
            samples,
            metadata: Metadata {
                run_id: setup.context.run_id.clone(),
                seed: training.seed,
                configuration: serde_json::to_string(&setup.context.config)?,
                ..Metadata::default()
            },
            metrics: training.task.metrics.len(),
            layout: trainer.model().layout().clone(),
            options: setup.options.clone(),
            data: Arc::clone(&setup.data),
        };
        let (jobs, received) = mpsc::sync_channel(JOBS);
        let thread = thread::Builder::new()
            .name("writer".into())
            .spawn(move || writer.work(&received))
            .context("cannot start the writing thread")?;
        Ok(Self { jobs, thread: Some(thread), mirror, arithmetic: Vec::new() })
    }

    /// Queues a checkpoint of the state. `tests` are the test losses of epochs, counted from 1.
    pub(crate) fn save(&self, replica: &Replica, ledger: &Ledger, tests: &BTreeMap<u64, Vec<f64>>) {
        let (state, ledger) = (replica.snapshot(), ledger.clone());
        self.hand_over(Job::Checkpoint(state, ledger, tests.clone(), self.arithmetic.clone()));
    }

    /// Queues the task's artifacts after an epoch, counted from 1.
    pub(crate) fn show(&self, epoch: u64, replica: &Replica) {
        self.hand_over(Job::Artifacts { epoch, state: replica.snapshot() });
    }

    /// Whether a file could not be written; [`Self::flush`] gives the error.
    pub(crate) fn has_failed(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until all queued files are on disk.
    ///
    /// # Errors
    /// The error of the first file that could not be written.
    pub(crate) fn flush(&mut self) -> Result<()> {
        let (done, wait) = mpsc::sync_channel(1);
        self.hand_over(Job::Flush(done));
        if wait.recv().is_ok() {
            return Ok(());
        }
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => Err(error),
            _ => Err(anyhow!("the writing thread is gone")),
        }
    }

    /// Waits until the store has the last checkpoint on disk, if the run has a store.
    ///
    /// # Errors
    /// The checkpoint could not be stored.
    pub(crate) fn flush_store(&self) -> Result<(), Unstored> {
        self.mirror.as_ref().map_or(Ok(()), |mirror| mirror.flush(STORE_TIMEOUT))
    }

    /// Queues a job. If the writing thread has failed, the next flush reports it.
    fn hand_over(&self, job: Job) {
        let _failed = self.jobs.send(job);
    }
}

impl<T: Task> WriterThread<T> {
    fn work(mut self, jobs: &mpsc::Receiver<Job>) -> Result<()> {
        for job in jobs {
            match job {
                Job::Checkpoint(state, ledger, tests, arithmetic) => {
                    self.metadata.arithmetic = arithmetic;
                    self.write(state.state(), &ledger, &tests)?;
                }
                Job::Artifacts { epoch, state } => self.show(epoch, &state.state().parameters),
                Job::Flush(done) => drop(done.send(())),
            }
            // The next job may come only after an epoch.
            transport::release_freed_blocks();
        }
        Ok(())
    }

    /// Writes the task's artifacts of an epoch. If they cannot be made or written, the run goes on.
    fn show(&self, epoch: u64, parameters: &[f32]) {
        let context =
            Artifacts { parameters, test: &self.data.test, seed: self.metadata.seed, epoch };
        let files = match T::artifacts(&self.options, &context) {
            Ok(files) => files,
            Err(error) => {
                let error = limits::told(&*error);
                tracing::warn!("the task {} made no samples of epoch {epoch}: {error}", T::NAME);
                return;
            }
        };
        if let Err(error) = make_again(&self.samples) {
            tracing::warn!("training goes on without samples of epoch {epoch}: {error:#}");
            return;
        }
        for (name, bytes) in files {
            if !is_file_name(&name) {
                tracing::warn!("the task {} gave {name:?}, which is not a file name", T::NAME);
                continue;
            }
            let path = self.samples.join(name);
            let written = if is_own_picture(&bytes) {
                disk::write_own(&path, &bytes, picture::MARK)
            } else {
                disk::write_whole(&path, &bytes)
            };
            if let Err(error) = written {
                tracing::warn!("training goes on without samples of epoch {epoch}: {error}");
            }
        }
    }

    fn write(
        &mut self,
        state: &State,
        ledger: &Ledger,
        tests: &BTreeMap<u64, Vec<f64>>,
    ) -> Result<()> {
        let _span = tracing::info_span!("checkpoint", step = state.step).entered();
        self.metadata.step = state.step;
        self.metadata.ledger = convert::checkpoint_ledger(ledger, self.metrics, tests);
        let named = convert::checkpoint_tensors(state, &self.layout);
        let views: Vec<TensorView<'_>> =
            named.iter().map(|(name, shape, data)| TensorView { name, shape, data }).collect();
        let mut written = self.checkpoints.write(&self.metadata, &views);
        if written.is_err() && !self.checkpoints.path().exists() {
            make_again(self.checkpoints.path())?;
            written = self.checkpoints.write(&self.metadata, &views);
        }
        let path = written?;
        let best = ledger.best_epoch().filter(|_| self.keep_best);
        let best = best.map(|(epoch, _)| epoch * self.steps_per_epoch);
        if best == Some(state.step) {
            self.checkpoints.mark_best(state.step)?;
        }
        self.checkpoints.retain(self.keep, best, Some(state.step), &self.metadata.run_id)?;
        tracing::debug!(step = state.step, path = %path.display(), "wrote a checkpoint");
        if let Some(mirror) = &self.mirror {
            mirror.hand_over(path);
        }
        Ok(())
    }
}

/// Makes a folder of the run directory again if it was removed. Folders above are not made: if the run
/// directory itself is gone, it was moved.
fn make_again(folder: &Path) -> Result<()> {
    match fs::create_dir(folder) {
        Ok(()) => tracing::warn!("{} was gone and is made again", folder.display()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot create {}", folder.display()));
        }
    }
    folder.parent().map_or(Ok(()), disk::sync_folder)?;
    Ok(())
}

/// Whether a name is a plain file name, so that the file stays in its folder.
fn is_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(only)), None) if only == name)
}

/// Whether the bytes are a picture with this project's mark. Such a picture replaces only pictures with
/// the mark.
fn is_own_picture(bytes: &[u8]) -> bool {
    let begin = &bytes[..bytes.len().min(MARKED_BYTES)];
    begin.windows(picture::MARK.len()).any(|window| window == picture::MARK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_was_removed_is_made_again_and_one_above_is_not() {
        let run = tempfile::tempdir().unwrap();
        let folder = run.path().join("samples");
        for _ in 0..2 {
            make_again(&folder).unwrap();
            assert!(folder.is_dir());
        }
        let moved = run.path().join("moved/samples");
        let error = format!("{:#}", make_again(&moved).unwrap_err());
        assert!(error.starts_with(&format!("cannot create {}", moved.display())), "{error}");
    }

    #[test]
    fn a_file_stays_in_its_folder() {
        assert!(is_file_name("epoch-001.png"));
        for name in ["", ".", "..", "/etc/passwd", "a/b", "a/", "../a"] {
            assert!(!is_file_name(name), "{name}");
        }
    }
}
