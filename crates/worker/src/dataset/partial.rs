//! A file that arrives in pieces. The bytes that have arrived stay on the disk when the connection
//! breaks or the worker is killed, and the next attempt continues after them.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use config::FileEntry;
use tempfile::{NamedTempFile, TempPath};

/// The number of hexadecimal digits of the file's digest in the name of the partial file.
const DIGITS: usize = 12;

/// The part of a file that has arrived. It is locked, so no other process appends to it.
#[derive(Debug)]
pub(super) struct Partial {
    file: File,
    path: PathBuf,
    bytes: u64,
    bytes_max: u64,
}

impl Partial {
    /// Opens the part in `folder`, or creates one. None while another process receives the same file.
    ///
    /// # Errors
    /// The error of the system.
    pub(super) fn open(folder: &Path, entry: &FileEntry) -> io::Result<Option<Self>> {
        fs::create_dir_all(folder)?;
        let path = path(folder, entry);
        let file = File::options().create(true).read(true).append(true).open(&path)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(None),
            // An error means a file system without locks.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let found = file.metadata()?;
        // Another process may have given the part its final name between opening and locking.
        if !fs::metadata(&path).is_ok_and(|there| there.ino() == found.ino()) {
            return Ok(None);
        }
        let mut bytes = found.len();
        if bytes > entry.bytes {
            file.set_len(0)?;
            bytes = 0;
        }
        Ok(Some(Self { file, path, bytes, bytes_max: entry.bytes }))
    }

    /// Deletes the part, because the complete file exists.
    ///
    /// # Errors
    /// The error of the system.
    pub(super) fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }

    /// The path of the part.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes that have arrived.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether as many bytes have arrived as the file has.
    pub(super) const fn is_complete(&self) -> bool {
        self.bytes == self.bytes_max
    }

    /// Appends a piece.
    ///
    /// # Errors
    /// The part would become longer than the file, or the error of the system.
    pub(super) fn append(&mut self, piece: &[u8]) -> io::Result<()> {
        if piece.len() as u64 > self.bytes_max - self.bytes {
            return Err(io::Error::other("more bytes arrived than the file has"));
        }
        self.file.write_all(piece)?;
        self.bytes += piece.len() as u64;
        Ok(())
    }

    /// Verifies the file and gives it its name. An existing file of this name is kept.
    ///
    /// # Errors
    /// The bytes do not have the file's digest (the part is then deleted), or the error of the system.
    pub(super) fn finish(self, folder: &Path, entry: &FileEntry) -> anyhow::Result<()> {
        if let Err(error) = data::verify(&self.path, entry) {
            fs::remove_file(&self.path)?;
            return Err(error.into());
        }
        disk::sync_file(&self.file, &self.path)?;
        let target = folder.join(&entry.name);
        let file = NamedTempFile::from_parts(self.file, TempPath::try_from_path(self.path)?);
        match disk::put_new(file, &target) {
            // Another process has put the file there meanwhile.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Ok(data::verify(&target, entry)?)
            }
            put => Ok(put?),
        }
    }
}

/// The path of a file's part. It contains the digest, so that files of the same name have different parts.
fn path(folder: &Path, entry: &FileEntry) -> PathBuf {
    let FileEntry { name, sha256, .. } = entry;
    folder.join(format!(".{name}.{}.part", sha256.get(..DIGITS).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of `abcdef`.
    const SHA256: &str = "bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721";

    fn entry(sha256: &str) -> FileEntry {
        let (name, sha256) = ("file".to_owned(), sha256.to_owned());
        FileEntry { name, bytes: 6, sha256, sources: Vec::new() }
    }

    fn open(folder: &Path, entry: &FileEntry) -> Partial {
        Partial::open(folder, entry).unwrap().expect("nobody else receives it")
    }

    #[test]
    fn what_has_arrived_is_continued_and_the_file_appears_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, entry) = (folder.path(), entry(SHA256));
        open(folder, &entry).append(b"abcd").unwrap();
        let mut partial = open(folder, &entry);
        assert_eq!((partial.bytes(), partial.is_complete()), (4, false));
        assert!(Partial::open(folder, &entry).unwrap().is_none(), "one process at a time");
        partial.append(b"ef").unwrap();
        assert!(partial.is_complete() && !folder.join("file").exists());
        assert!(partial.append(b"g").is_err());
        partial.finish(folder, &entry).unwrap();
        assert_eq!(fs::read(folder.join("file")).unwrap(), b"abcdef");
        assert_eq!(fs::read_dir(folder).unwrap().count(), 1);
    }

    #[test]
    fn other_bytes_are_deleted_and_a_file_that_is_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, entry) = (folder.path(), entry(SHA256));
        let mut partial = open(folder, &entry);
        partial.append(b"ABCDEF").unwrap();
        assert!(partial.finish(folder, &entry).is_err());
        assert_eq!(fs::read_dir(folder).unwrap().count(), 0);

        fs::write(folder.join("file"), "theirs").unwrap();
        let mut partial = open(folder, &entry);
        partial.append(b"abcdef").unwrap();
        assert!(partial.finish(folder, &entry).is_err());
        assert_eq!(fs::read(folder.join("file")).unwrap(), b"theirs");
    }

    #[test]
    fn a_part_that_is_too_long_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let entry = entry(SHA256);
        fs::write(path(folder.path(), &entry), "abcdefg").unwrap();
        assert_eq!(open(folder.path(), &entry).bytes(), 0);
    }
}
