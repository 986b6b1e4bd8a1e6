//! Decides how a file at a person's path is written: as a temporary file that is renamed, or in place if a rename would
//! destroy what is there.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use tempfile::NamedTempFile;

use crate::{DiskError, pipe, temporary};

/// The most links that are followed one after the other, as in the kernel.
const LINKS_MAX: usize = 40;

/// How a path is written.
#[derive(Debug)]
pub(crate) enum Destination {
    /// As a temporary file, which then gets this name; links are already resolved.
    Beside(NamedTempFile, PathBuf),
    /// A regular file that must keep its inode: it has other names, or no file can be made in its folder.
    Direct(File),
    /// A device, a pipe, or an output of this process.
    Stream,
}

/// The metadata of the file at a path, after following links; none if there is no file.
fn look(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a path leads to the standard output of this process, if that is a pipe or a file.
pub fn is_standard_output(path: &Path) -> bool {
    let is = |there: Metadata| {
        !there.file_type().is_char_device() && is_open_as(io::stdout().as_fd(), &there)
    };
    look(path).is_ok_and(|there| there.is_some_and(is))
}

/// Whether a path leads to a device or a pipe, that is, neither to a regular file nor to a folder. Links are followed.
pub fn is_stream(path: &Path) -> bool {
    look(path).is_ok_and(|there| there.is_some_and(|there| !there.is_file() && !there.is_dir()))
}

fn is_open_as(output: BorrowedFd<'_>, there: &Metadata) -> bool {
    rustix::fs::fstat(output)
        .is_ok_and(|own| (own.st_dev, own.st_ino) == (there.dev(), there.ino()))
}

/// The output of this process that a path leads to, as in `/dev/stdout`.
fn own_output(there: &Metadata) -> Option<io::Result<File>> {
    let (stdout, stderr) = (io::stdout(), io::stderr());
    let outputs = [stdout.as_fd(), stderr.as_fd()];
    let output = outputs.into_iter().find(|output| is_open_as(*output, there))?;
    Some(output.try_clone_to_owned().map(File::from))
}

impl Destination {
    /// Decides how `path` is written, and prepares that.
    pub(crate) fn of(path: &Path) -> io::Result<Destination> {
        let Some(there) = look(path)? else {
            let target = follow(path)?;
            return Ok(Destination::Beside(temporary(folder_of(&target))?, target));
        };
        if there.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if there.file_type().is_block_device() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a disk"));
        }
        if !there.is_file() || own_output(&there).is_some() {
            return Ok(Destination::Stream);
        }
        // A user who may not write a file may not replace it either.
        let file = File::options().write(true).open(path)?;
        let target = fs::canonicalize(path)?;
        if there.nlink() > 1 {
            return Ok(Destination::Direct(file));
        }
        match temporary(folder_of(&target)) {
            Ok(beside) if take_after(beside.as_file(), &there).is_ok() => {
                Ok(Destination::Beside(beside, target))
            }
            Ok(_) => Ok(Destination::Direct(file)),
            Err(error) if is_closed(&error) => Ok(Destination::Direct(file)),
            Err(error) => Err(error),
        }
    }
}

/// Whether an error means that no file can be made in a folder; existing files in it may still be writable.
fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// Gives a file the owner and the mode of the file that it replaces.
fn take_after(file: &File, there: &Metadata) -> io::Result<()> {
    let own = file.metadata()?;
    let (user, group) = (there.uid(), there.gid());
    if (own.uid(), own.gid()) != (user, group) {
        std::os::unix::fs::fchown(file, Some(user), Some(group))?;
    }
    // The mode is set after the owner, because a change of owner clears bits of the mode.
    if file.metadata()?.permissions().mode() != there.permissions().mode() {
        file.set_permissions(there.permissions())?;
    }
    Ok(())
}

/// Opens a device, a pipe or an output of this process.
pub(crate) fn open_stream(path: &Path) -> io::Result<File> {
    let there = fs::metadata(path)?;
    if let Some(output) = own_output(&there) {
        return output;
    }
    if there.file_type().is_fifo() {
        return pipe::open(path);
    }
    File::options().write(true).open(path)
}

/// The path that a chain of links leads to, if no file exists there yet.
fn follow(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_path_buf();
    for _ in 0..LINKS_MAX {
        match fs::read_link(&path) {
            Ok(next) => path = folder_of(&path).join(next),
            Err(_) => return Ok(path),
        }
    }
    Err(rustix::io::Errno::LOOP.into())
}

pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Checks whether a file could be written at `path` now. Leaves no file behind and changes nothing.
///
/// # Errors
/// Why the file could not be written.
pub fn try_write(path: &Path) -> Result<(), DiskError> {
    let tried = || match Destination::of(path)? {
        Destination::Beside(..) | Destination::Direct(_) => Ok(()),
        // A stream is not opened, because opening a pipe would wait for a reader.
        Destination::Stream => Ok(rustix::fs::access(path, Access::WRITE_OK)?),
    };
    tried().map_err(DiskError::write(path))
}

/// Checks whether files can be written in a folder. If there is no folder, checks whether it could be made. Leaves no
/// file behind.
///
/// # Errors
/// Why files cannot be written there.
pub fn try_folder(folder: &Path) -> Result<(), DiskError> {
    let absolute = std::path::absolute(folder).map_err(DiskError::write(folder))?;
    let there = absolute.ancestors().find(|folder| fs::symlink_metadata(folder).is_ok());
    let there = there.unwrap_or(Path::new("/"));
    temporary(there).map(drop).map_err(DiskError::write(folder))
}
