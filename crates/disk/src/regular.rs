//! Opens files that another person may have put there, and that may be no files at all.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// Opens a regular file for reading. Never waits: anything else, such as a named pipe, is an error.
///
/// # Errors
/// The error of the system, or [`io::ErrorKind::InvalidInput`] for a path that leads to no regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    // Without this flag, opening a pipe waits for a writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(irregular("it is not a regular file")),
    }
}

/// Whether a path leads to a device such as `/dev/null` or `/dev/full`, which holds nothing to read.
pub fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|there| there.file_type().is_char_device())
}

/// Refuses a named pipe, whose opening for writing would wait for a reader.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`].
pub fn refuse_pipe(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(there) if there.file_type().is_fifo() => Err(irregular("it is a named pipe")),
        _ => Ok(()),
    }
}

fn irregular(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{what}: move it away"))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), "bytes").unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        for name in ["file", "link"] {
            let mut text = String::new();
            open_regular(&path(name)).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "bytes");
            refuse_pipe(&path(name)).unwrap();
        }
        assert!(Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
        let error = open_regular(&path("pipe")).unwrap_err();
        assert_eq!(error.to_string(), "it is not a regular file: move it away");
        refuse_pipe(&path("pipe")).unwrap_err();
        assert!(is_device(Path::new("/dev/full")) && !is_device(&path("pipe")));
        for other in [folder.path(), Path::new("/dev/zero")] {
            open_regular(other).unwrap_err();
            refuse_pipe(other).unwrap();
        }
        let missing = open_regular(&path("none")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
