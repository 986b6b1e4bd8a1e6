//! One file that appears whole or not at all: written beside its place, then renamed. It does not know what is in it.

use std::io::Write as _;
use std::path::Path;

use crate::{CheckpointError, Directory};

/// Writes a file so that there is either all of it or what was there before.
///
/// # Errors
/// A full disk, or what the system said; nothing is left beside it then.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    let error = CheckpointError::write(path, bytes.len() as u64);
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if path.is_dir() {
        return Err(error(std::io::ErrorKind::IsADirectory.into()));
    }
    // What a writer that was killed has left goes with the next one.
    let beside = Directory::open(folder);
    beside.sweep()?;
    let mut temporary = beside.temporary("file").map_err(&error)?;
    temporary.write_all(bytes).map_err(&error)?;
    temporary.as_file().sync_all().map_err(&error)?;
    temporary.persist(path).map_err(|persist| error(persist.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_stays_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for bytes in [&b"first"[..], b"second, longer", b""] {
            write_whole(&path, bytes).unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_killed_writer_left_goes_and_what_a_live_one_needs_stays() {
        let folder = tempfile::tempdir().unwrap();
        let live = Directory::open(folder.path()).temporary("other").unwrap();
        fs::write(folder.path().join(".writing-file-dead.tmp"), b"half").unwrap();
        write_whole(&folder.path().join("file"), b"bytes").unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        assert!(live.path().exists());
    }

    #[test]
    fn a_place_that_cannot_be_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for place in ["", "missing/file"] {
            let path = folder.path().join(place);
            let message = write_whole(&path, b"bytes").unwrap_err().to_string();
            assert!(message.starts_with(&format!("cannot write {}", path.display())), "{message}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
