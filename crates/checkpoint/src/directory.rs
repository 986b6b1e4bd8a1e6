//! The folder of a run's checkpoints: writes a file completely or not at all, finds the newest file that verifies, and
//! deletes old files.
//!
//! Several processes may use one folder at once; see the crate `disk`. A file that has the name of a checkpoint but was
//! not written by the run is neither replaced nor deleted. The caller decides when to write and how many to keep.

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

/// The temporary name of the new link, which is then renamed to [`BEST`].
const BEST_NEW: &str = ".best.safetensors.new";

/// A folder of checkpoints.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
}

/// The newest checkpoint that verifies, and the newer ones that do not.
#[derive(Debug)]
pub struct Newest {
    /// The newest sound checkpoint and its path, if there is any.
    pub checkpoint: Option<(PathBuf, Checkpoint)>,
    /// Newer files that cannot be used, the newest first, with the reason.
    pub damaged: Vec<(PathBuf, CheckpointError)>,
}

/// The file name for a step: `step-00001170.safetensors`, with more digits if eight are not enough.
pub fn file_name(step: u64) -> String {
    format!("{NAME_PREFIX}{step:08}{NAME_SUFFIX}")
}

impl Directory {
    /// Takes the path of a folder, without any access to the disk.
    pub fn open(path: impl Into<PathBuf>) -> Directory {
        Directory { path: path.into() }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates the folder and its parents, unless it exists.
    ///
    /// # Errors
    /// The error of the system.
    pub fn create(&self) -> Result<(), CheckpointError> {
        // Durable: otherwise a power cut could lose the folder with every synced file in it.
        disk::create_folder(&self.path).map_err(CheckpointError::io("create", &self.path))
    }

    /// Writes a checkpoint: afterwards the complete file is durable on the disk, or there is no file. A file of the
    /// same step with the same tensors is left unchanged. A file of the same run with other tensors, or a damaged
    /// file of the run, is replaced.
    ///
    /// # Errors
    /// Tensors that contradict themselves, a file of another program under the name, a full disk, or another error of
    /// the system. The temporary file is then deleted.
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

    /// The sound checkpoint with the most steps. A folder that does not exist has none.
    ///
    /// # Errors
    /// The folder cannot be read. Errors of single files are in [`Newest::damaged`].
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
                Err(error) if error.is_not_found() => {
                    // A link that leads nowhere; otherwise another process deleted the file after the listing.
                    if path.is_symlink() {
                        damaged.push((path.clone(), CheckpointError::NotAFile { path }));
                    }
                }
                Err(error) => damaged.push((path, error)),
            }
        }
        Ok(Newest { checkpoint: None, damaged })
    }

    /// Deletes the old checkpoints of a run. It keeps the newest `keep` (at least one) and the checkpoint of the step
    /// `best`. If none of the newest verifies, it also keeps the newest older one that does, so that the run can still
    /// be resumed. `sound` is a step whose checkpoint need not be verified, because it was just written. Files of other
    /// runs or programs are not counted and not deleted. Temporary files whose writer has ended are deleted too.
    ///
    /// # Errors
    /// The error of the system on listing or deleting.
    pub fn retain(
        &self,
        keep: usize,
        best: Option<u64>,
        sound: Option<u64>,
        run_id: &str,
    ) -> Result<(), CheckpointError> {
        let is_sound = |file: &(u64, PathBuf)| Some(file.0) == sound || is_sound(file);
        let mut old = self.list()?;
        if old.len() > keep.max(1) {
            old.retain(|(_, path)| is_of_run(path, run_id));
        }
        let kept = old.split_off(old.len().saturating_sub(keep.max(1)));
        if !old.is_empty() && !kept.iter().rev().any(&is_sound) {
            let newest = old.iter().rposition(&is_sound);
            newest.map(|index| old.remove(index));
        }
        old.retain(|(step, _)| Some(*step) != best);
        for (_, path) in old {
            remove(&path)?;
            crashpoint::reach!("checkpoint.retired");
        }
        disk::sweep(&self.path);
        Ok(())
    }

    /// Makes [`BEST`] a link to the checkpoint of a step.
    ///
    /// # Errors
    /// The error of the system, or a file of that name that is not a link.
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

    /// The link of [`Directory::mark_best`], if it exists and leads to a file.
    #[must_use]
    pub fn best(&self) -> Option<PathBuf> {
        let link = self.path.join(BEST);
        link.exists().then_some(link)
    }

    /// Creates the folder if necessary, and checks that files can be created in it.
    ///
    /// # Errors
    /// The error of the system.
    pub fn try_write(&self) -> Result<(), CheckpointError> {
        self.create()?;
        let tried = disk::temporary(&self.path).map(drop);
        tried.map_err(CheckpointError::io("create a file in", &self.path))
    }

    /// The steps and paths of the checkpoints, fewest steps first. No file is opened; other files are ignored.
    ///
    /// # Errors
    /// The folder exists and cannot be read.
    pub fn list(&self) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
        let mut steps: Vec<_> = self.names()?.iter().filter_map(|name| step_of(name)).collect();
        steps.sort_unstable();
        Ok(steps.into_iter().map(|step| (step, self.path.join(file_name(step)))).collect())
    }

    /// The names in the folder that are valid UTF-8. The names of checkpoints are.
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

/// The step in a file name, if the name is exactly that of [`file_name`].
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

/// Whether a run wrote a file: the file contains the run's id, even if it is otherwise damaged. An empty file counts as
/// the run's own, because replacing it loses nothing.
fn is_of_run(path: &Path, run_id: &str) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() == 0)
        || disk::holds(path, run_id.as_bytes())
}

/// Refuses a path at which there is a file that the run did not write.
pub(crate) fn refuse_occupied(path: &Path, run_id: &str) -> Result<(), CheckpointError> {
    if fs::symlink_metadata(path).is_ok() && !is_of_run(path, run_id) {
        return Err(CheckpointError::Occupied { path: path.into() });
    }
    Ok(())
}
