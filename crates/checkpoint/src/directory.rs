//! The folder of a run's checkpoints: a file appears whole or not at all, the newest one that verifies is found, old
//! ones go.
//!
//! Several processes may use one folder at once: temporary names are unique, and the writer of a temporary file holds
//! a lock on it, so that what a dead writer left can be told from what a live one needs. It does not know when to write
//! or how many to keep.

use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::file::{Draft, read, verify};
use crate::{Checkpoint, CheckpointError, Metadata, TensorView};

const NAME_PREFIX: &str = "step-";
const NAME_SUFFIX: &str = ".safetensors";
/// A leading dot hides temporary files from `step-*` patterns.
const TEMPORARY_PREFIX: &str = ".writing-";
const TEMPORARY_SUFFIX: &str = ".tmp";
/// How often a temporary file may be swept away between its creation and its lock; each time needs another process
/// to look in that very moment, so once is already rare.
const TEMPORARY_ATTEMPTS: usize = 8;

/// A folder of checkpoints.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
}

/// The newest checkpoint which verifies, and what had to be passed over to find it.
#[derive(Debug)]
pub struct Newest {
    /// None where there is no sound checkpoint.
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
        fs::create_dir_all(&self.path).map_err(CheckpointError::io("create", &self.path))?;
        // Without this a power cut could lose the folder together with every file synced in it.
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => sync(parent),
            _ => Ok(()),
        }
    }

    /// Writes a checkpoint so that it is either there, whole and on the disk, or not there at all. A file of the same
    /// step with the same tensors is left alone; one with other tensors, or a damaged one, is replaced.
    ///
    /// # Errors
    /// Tensors that contradict themselves, a full disk, or what the system said; the temporary file is gone then.
    pub fn write(
        &self,
        metadata: &Metadata,
        tensors: &[TensorView<'_>],
    ) -> Result<PathBuf, CheckpointError> {
        let path = self.path.join(file_name(metadata.step));
        let draft = Draft::new(&path, metadata, tensors)?;
        let error = CheckpointError::write(&path, draft.bytes());
        if let Ok(present) = verify(&path)
            && present.sha256 == draft.sha256().map_err(&error)?
        {
            return Ok(path);
        }
        let temporary = self.temporary(&file_name(metadata.step));
        let mut temporary =
            temporary.map_err(CheckpointError::io("create a temporary file in", &self.path))?;
        crashpoint::reach!("checkpoint.created");
        draft.write(&path, temporary.as_file_mut())?;
        crashpoint::reach!("checkpoint.written");
        temporary.as_file().sync_all().map_err(&error)?;
        crashpoint::reach!("checkpoint.synced");
        temporary.persist(&path).map_err(|persist| error(persist.error))?;
        crashpoint::reach!("checkpoint.renamed");
        sync(&self.path)?;
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

    /// Deletes all checkpoints but the newest `keep` (at least one), and temporary files whose writer is gone. Where
    /// none of those verifies, the newest older one that does is kept as well: what could still be resumed from is
    /// never deleted.
    ///
    /// # Errors
    /// What the system said on listing or deleting.
    pub fn retain(&self, keep: usize) -> Result<(), CheckpointError> {
        let mut old = self.list()?;
        let kept = old.split_off(old.len().saturating_sub(keep.max(1)));
        if !old.is_empty() && !kept.iter().rev().any(is_sound) {
            let sound = old.iter().rposition(is_sound);
            sound.map(|index| old.remove(index));
        }
        for (_, path) in old {
            remove(&path)?;
            crashpoint::reach!("checkpoint.retired");
        }
        self.sweep()
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

    /// A temporary file in this folder for one of this name, locked by us.
    pub(crate) fn temporary(&self, name: &str) -> io::Result<NamedTempFile> {
        let mut builder = tempfile::Builder::new();
        let prefix = format!("{TEMPORARY_PREFIX}{name}-");
        builder.prefix(&prefix).suffix(TEMPORARY_SUFFIX);
        // tempfile's default is for secrets; a checkpoint is as readable as any other file.
        #[cfg(unix)]
        builder.permissions(<Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666));
        let mut outcome = io::Error::from(io::ErrorKind::TimedOut);
        for _ in 0..TEMPORARY_ATTEMPTS {
            let file = builder.tempfile_in(&self.path)?;
            match file.as_file().try_lock() {
                // A file system without locks: no sweeper can lock either, so none will delete the file.
                Ok(()) | Err(TryLockError::Error(_)) if file.path().exists() => return Ok(file),
                Ok(()) => outcome = io::ErrorKind::NotFound.into(),
                Err(error) => outcome = error.into(),
            }
        }
        Err(outcome)
    }

    /// Deletes the temporary files of writers that are gone: theirs can be locked.
    pub(crate) fn sweep(&self) -> Result<(), CheckpointError> {
        let temporary =
            |name: &String| name.starts_with(TEMPORARY_PREFIX) && name.ends_with(TEMPORARY_SUFFIX);
        for name in self.names()?.into_iter().filter(temporary) {
            let path = self.path.join(name);
            // Gone by now: it was renamed or swept by another.
            let Ok(file) = File::open(&path) else { continue };
            if file.try_lock().is_ok() {
                remove(&path)?;
            }
        }
        Ok(())
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

/// Makes the names in a folder durable.
pub(crate) fn sync(directory: &Path) -> Result<(), CheckpointError> {
    match File::open(directory).and_then(|folder| folder.sync_all()) {
        // Some network file systems cannot: the rename is then as durable as they make it.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        result => result.map_err(CheckpointError::io("sync", directory)),
    }
}
