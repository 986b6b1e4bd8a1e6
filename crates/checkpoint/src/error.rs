//! All errors of checkpoints, with the details that a person needs to act.

use std::io;
use std::path::{Path, PathBuf};

/// Why a checkpoint could not be written, read or retired.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The attempted action, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The disk (or the quota) is full. The temporary file has been removed; older checkpoints are untouched.
    #[error(
        "no space left for {} ({bytes} bytes): {source}; free some space",
        path.display()
    )]
    DiskFull {
        /// The file that could not be written.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
        /// The error of the system.
        source: io::Error,
    },
    /// A file that the run did not write has the name of the checkpoint.
    #[error(
        "{} is there already and was not written by this run, so it stays: move it away, or choose another run directory",
        path.display()
    )]
    Occupied {
        /// The file.
        path: PathBuf,
    },
    /// The file would be larger than this process may write. The temporary file has been removed; older checkpoints
    /// are untouched.
    #[error(
        "{} takes {bytes} bytes, more than a file may have here ({reason}): raise that limit with `ulimit -f`",
        path.display()
    )]
    FileSizeLimit {
        /// The file that could not be written.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
        /// The error of the system.
        reason: String,
    },
    /// A tensor to write contradicts itself, or has the name of another tensor.
    #[error("tensor `{name}` cannot be written: {reason}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The metadata and the tensor names are too long for a header.
    #[error("the header of {} would take {bytes} bytes, at most {max} are allowed", path.display())]
    HeaderTooLarge {
        /// The file that could not be written.
        path: PathBuf,
        /// The header's size in bytes.
        bytes: u64,
        /// The bound in bytes.
        max: u64,
    },
    /// The path is a folder, a pipe or a device.
    #[error("{} is not a regular file; give the path of a checkpoint", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file has no bytes at all.
    #[error("{} is empty (0 bytes); restore it from a copy, or use another checkpoint", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file is shorter than its header says.
    #[error(
        "{} is truncated: {expected} bytes expected, {found} found; restore it from a copy, or use another checkpoint",
        path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The expected size in bytes, or the least possible size if the header is incomplete.
        expected: u64,
        /// The size in bytes that it has.
        found: u64,
    },
    /// The file has more bytes after its last tensor.
    #[error(
        "{} is too long: {expected} bytes expected, {found} found; restore it from a copy, or use another checkpoint",
        path.display()
    )]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The size in bytes that it should have.
        expected: u64,
        /// The size in bytes that it has.
        found: u64,
    },
    /// The header cannot be understood as safetensors.
    #[error(
        "{} is not a safetensors file, or its header is damaged: {reason}; restore it from a copy, or name a checkpoint",
        path.display()
    )]
    NotSafetensors {
        /// The file.
        path: PathBuf,
        /// The error of the reader.
        reason: String,
    },
    /// A safetensors file of another program.
    #[error(
        "{} is a safetensors file but not a checkpoint of lockstep (no format_version in its metadata); name a checkpoint",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file has another version of the layout.
    #[error(
        "{} has format version `{found}`, this program reads `{supported}`; use the program that wrote it",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The version of the file.
        found: String,
        /// The version that this program reads.
        supported: &'static str,
    },
    /// The header has changed since it was written.
    #[error(
        "the header of {} is damaged: sha256 {expected} expected, {found} found; restore it from a copy, or use another checkpoint",
        path.display()
    )]
    HeaderDamaged {
        /// The file.
        path: PathBuf,
        /// The digest that the header carries, in hex.
        expected: String,
        /// The digest of the header found, in hex.
        found: String,
    },
    /// The tensor bytes have changed since they were written.
    #[error(
        "the tensors of {} are damaged: sha256 {expected} expected, {found} found; restore it from a copy, or use another checkpoint",
        path.display()
    )]
    TensorsDamaged {
        /// The file.
        path: PathBuf,
        /// The digest that the header carries, in hex.
        expected: String,
        /// The digest of the tensor bytes found, in hex.
        found: String,
    },
    /// A metadata field is missing or has an impossible value.
    #[error("{}: metadata field `{key}` {reason}; it was not written by this program", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The field.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The tensor has another type of elements.
    #[error("{}: tensor `{name}` holds {found}, F32 expected; it was not written by this program", path.display())]
    ElementType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its element type, in the spelling of safetensors.
        found: String,
    },
    /// The step in the file name differs from the step in the file.
    #[error("{} holds step {step}, not the step in its name; the name for it is {}", path.display(), crate::file_name(*step))]
    Misnamed {
        /// The file.
        path: PathBuf,
        /// The step it holds.
        step: u64,
    },
}

impl CheckpointError {
    pub(crate) fn io(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(io::Error) -> CheckpointError + use<> {
        let path = path.to_path_buf();
        move |source| CheckpointError::Io { action, path, source }
    }

    /// As [`CheckpointError::io`], but with variants of their own for a full disk and a limit of the file size.
    pub(crate) fn write(path: &Path, bytes: u64) -> impl Fn(io::Error) -> CheckpointError + use<> {
        let path = path.to_path_buf();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                CheckpointError::DiskFull { path: path.clone(), bytes, source }
            }
            io::ErrorKind::FileTooLarge => {
                let reason = source.to_string();
                CheckpointError::FileSizeLimit { path: path.clone(), bytes, reason }
            }
            _ => CheckpointError::Io { action: "write", path: path.clone(), source },
        }
    }

    /// Whether the file itself is damaged. Errors of the disk or the system are not damage.
    pub fn is_damage(&self) -> bool {
        use CheckpointError::{DiskFull, FileSizeLimit, Io, Occupied};
        !matches!(self, Io { .. } | DiskFull { .. } | FileSizeLimit { .. } | Occupied { .. })
    }

    /// That a checkpoint was skipped, and why, without the advice that ends the message: for a person whose program
    /// goes on without the file.
    #[must_use]
    pub fn skipped(&self) -> String {
        let text = self.to_string();
        let damage = match text.rsplit_once("; ") {
            Some((damage, _)) if self.is_damage() => damage,
            _ => &text,
        };
        format!("skipped a damaged checkpoint: {damage}")
    }

    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, CheckpointError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}
