//! The folder of a run's checkpoints: a file appears whole or not at all, the newest one that verifies is found, old
//! ones go.
//!
//! Several processes may use one folder at once; see the crate `disk`. A file that has the name of a checkpoint and was
//! not written by the run is neither replaced nor deleted. It does not know when to write or how many to keep.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::file::{Draft, read, verify};
use crate::{Checkpoint, CheckpointError, Metadata, TensorView};

const NAME_PREFIX: &str = "step-";
const NAME_SUFFIX: &str = ".safetensors";

/// The link to the best checkpoint.
pub const BEST: &str = "best.safetensors";

/// The same while it is made.
const BEST_NEW: &str = ".best.safetensors.new";

/// A folder of checkpoints.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
}

/// The newest checkpoint that verifies, and the newer ones that do not.
#[derive(Debug)]
pub struct Newest {
    /// The newest sound checkpoint; none if there is none.
    pub checkpoint: Option<(PathBuf, Checkpoint)>,
    /// Newer files that could not be used, newest first.
    pub damaged: Vec<(PathBuf, CheckpointError)>,
}

/// The file name for a step: `step-00001170.safetensors`, with more digits where eight do not do.
pub fn file_name(step: u64) -> String {
    format!("{NAME_PREFIX}{step:08}{NAME_SUFFIX}")
}

impl Directory {
    /// Names a folder; touches nothing.
    pub fn open(path: impl Into<PathBuf>) -> Directory {
        Directory { path: path.into() }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates the folder, parents included, where it does not exist.
    ///
    /// # Errors
    /// What the system said.
    pub fn create(&self) -> Result<(), CheckpointError> {
        // Durable, for a power cut could else lose the folder together with every file synced in it.
        disk::create_folder(&self.path).map_err(CheckpointError::io("create", &self.path))
    }

    /// Writes a checkpoint so that it is either there, whole and on the disk, or not there at all. A file of the same
    /// step with the same tensors is left alone; one of the same run with other tensors, or a damaged one, is replaced.
    ///
    /// # Errors
    /// Tensors that contradict themselves, a file of another program under the name, a full disk, or what the system said;
    /// the temporary file is gone then.
    pub fn write(
        &self,
        metadata: &Metadata,
        tensors: &[TensorView<'_>],
    ) -> Result<PathBuf, CheckpointError> {
        let path = self.path.join(file_name(metadata.step));
        let draft = Draft::new(&path, metadata, tensors)?;
        let error = CheckpointError::write(&path, draft.bytes());
        if let Ok(present) = verify(&path)
            && present.metadata.run_id == metadata.run_id
            && present.sha256 == draft.sha256().map_err(&error)?
        {
            return Ok(path);
        }
        refuse_occupied(&path, &metadata.run_id)?;
        let temporary = disk::temporary(&self.path);
        let mut temporary =
            temporary.map_err(CheckpointError::io("create a temporary file in", &self.path))?;
        crashpoint::reach!("checkpoint.created");
        draft.write(&path, temporary.as_file_mut())?;
        crashpoint::reach!("checkpoint.written");
        disk::sync_file(temporary.as_file(), &path).map_err(&error)?;
        crashpoint::reach!("checkpoint.synced");
        temporary.persist(&path).map_err(|persist| error(persist.error))?;
        crashpoint::reach!("checkpoint.renamed");
        disk::sync_folder(&self.path).map_err(CheckpointError::io("sync", &self.path))?;
        crashpoint::reach!("checkpoint.durable");
        Ok(path)
    }

    /// The checkpoint with the most steps which verifies. A folder that does not exist has none.
    ///
    /// # Errors
    /// Only where the folder cannot be read: what is wrong with a single file is in [`Newest::damaged`].
    pub fn newest(&self) -> Result<Newest, CheckpointError> {
        let mut damaged = Vec::new();
        for (step, path) in self.list()?.into_iter().rev() {
            match read(&path) {
                Ok(checkpoint) if checkpoint.metadata.step == step => {
                    return Ok(Newest { checkpoint: Some((path, checkpoint)), damaged });
                }
                Ok(checkpoint) => {
                    let step = checkpoint.metadata.step;
                    damaged.push((path.clone(), CheckpointError::Misnamed { path, step }));
                }
                // Another process retired it between the listing and now.
                Err(error) if error.is_not_found() => (),
                Err(error) => damaged.push((path, error)),
            }
        }
        Ok(Newest { checkpoint: None, damaged })
    }

    /// Deletes all checkpoints of a run but the newest `keep` (at least one) and that of the step `best`, and temporary files whose writer is gone.
    /// Where none of those verifies, the newest older one that does is kept as well: what could still be resumed from is
    /// never deleted. Files that have the name of a checkpoint and are not of this run do not count and stay.
    ///
    /// # Errors
    /// What the system said on listing or deleting.
    pub fn retain(
        &self,
        keep: usize,
        best: Option<u64>,
        run_id: &str,
    ) -> Result<(), CheckpointError> {
        let mut old = self.list()?;
        if old.len() > keep.max(1) {
            old.retain(|(_, path)| is_of_run(path, run_id));
        }
        let kept = old.split_off(old.len().saturating_sub(keep.max(1)));
        if !old.is_empty() && !kept.iter().rev().any(is_sound) {
            let sound = old.iter().rposition(is_sound);
            sound.map(|index| old.remove(index));
        }
        old.retain(|(step, _)| Some(*step) != best);
        for (_, path) in old {
            remove(&path)?;
            crashpoint::reach!("checkpoint.retired");
        }
        disk::sweep(&self.path);
        Ok(())
    }

    /// Has [`BEST`] lead to the checkpoint of a step.
    ///
    /// # Errors
    /// What the system said, and a file of that name that is no link.
    pub fn mark_best(&self, step: u64) -> Result<(), CheckpointError> {
        let (link, new) = (self.path.join(BEST), self.path.join(BEST_NEW));
        let is_foreign = |found: fs::Metadata| !found.is_symlink();
        let marked = if fs::symlink_metadata(&link).is_ok_and(is_foreign) {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file of this name is there"))
        } else {
            let _not_there = fs::remove_file(&new);
            symlink(file_name(step), &new).and_then(|()| fs::rename(&new, &link))
        };
        marked.map_err(CheckpointError::io("link the best checkpoint as", &link))
    }

    /// Where [`Directory::mark_best`] leads, where that is there.
    #[must_use]
    pub fn best(&self) -> Option<PathBuf> {
        let link = self.path.join(BEST);
        link.exists().then_some(link)
    }

    /// Finds out whether checkpoints can be written in the folder, which is made where there is none.
    ///
    /// # Errors
    /// Why not.
    pub fn try_write(&self) -> Result<(), CheckpointError> {
        self.create()?;
        let tried = disk::temporary(&self.path).map(drop);
        tried.map_err(CheckpointError::io("create a file in", &self.path))
    }

    /// The checkpoints by step, fewest steps first. Nothing is opened; other files are passed over.
    ///
    /// # Errors
    /// Where the folder exists and cannot be read.
    pub fn list(&self) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
        let mut steps: Vec<_> = self.names()?.iter().filter_map(|name| step_of(name)).collect();
        steps.sort_unstable();
        Ok(steps.into_iter().map(|step| (step, self.path.join(file_name(step)))).collect())
    }

    /// The names in the folder which are valid UTF-8: all of ours are.
    fn names(&self) -> Result<Vec<String>, CheckpointError> {
        let io = || CheckpointError::io("list", &self.path);
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io()(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry.map_err(io())?.file_name().into_string().ok());
        }
        Ok(names)
    }
}

/// The step in a file name, where it is spelled exactly as [`file_name`] does.
pub fn step_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(NAME_PREFIX)?.strip_suffix(NAME_SUFFIX)?;
    let step = digits.parse().ok()?;
    (file_name(step) == name).then_some(step)
}

fn is_sound((step, path): &(u64, PathBuf)) -> bool {
    verify(path).is_ok_and(|verified| verified.metadata.step == *step)
}

/// Deletes a file that may already be gone.
fn remove(path: &Path) -> Result<(), CheckpointError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(CheckpointError::io("delete", path)(error))
        }
        _ => Ok(()),
    }
}

/// Whether a file was written by a run: its header names the run, whatever else in it is damaged. An empty file holds
/// nothing that could be lost.
fn is_of_run(path: &Path, run_id: &str) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() == 0)
        || disk::holds(path, run_id.as_bytes())
}

/// Refuses a path where a file is that was not written by the run.
pub(crate) fn refuse_occupied(path: &Path, run_id: &str) -> Result<(), CheckpointError> {
    if fs::symlink_metadata(path).is_ok() && !is_of_run(path, run_id) {
        return Err(CheckpointError::Occupied { path: path.into() });
    }
    Ok(())
}
