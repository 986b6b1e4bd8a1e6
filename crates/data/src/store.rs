//! Verifies and stores one file of a data set on disk. A file is verified before it is stored, and appears as a whole.
//! An existing file is never replaced: it may belong to another data set that uses the same names.
//!
//! Does not know where bytes come from (`fetch.rs`) or what they mean.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use config::FileEntry;
use sha2::{Digest as _, Sha256};

use crate::DataError;
use crate::error::Damage;

const BUFFER_BYTES: usize = 256 << 10;

/// The folder of the data set `name`: `$LOCKSTEP_DATA_DIR`, else the folder `name` in [`cache_dir`].
pub fn default_dir(name: &str) -> PathBuf {
    folder_from(name, variable)
}

/// Where data sets are kept: `$XDG_CACHE_HOME/lockstep`, else `~/.cache/lockstep`.
pub fn cache_dir() -> PathBuf {
    cache_from(variable)
}

fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn folder_from(name: &str, variable: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    variable("LOCKSTEP_DATA_DIR").unwrap_or_else(|| cache_from(variable).join(name))
}

fn cache_from(variable: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    // The XDG specification says that relative paths are ignored.
    let cache = variable("XDG_CACHE_HOME").filter(|cache| cache.is_absolute());
    let cache = cache.or_else(|| Some(variable("HOME")?.join(".cache")));
    cache.unwrap_or_else(env::temp_dir).join("lockstep")
}

/// SHA-256 in lowercase hexadecimal.
#[must_use]
pub fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The manifest entry of a file on this machine: its name, size, digest and path.
///
/// # Errors
/// The file cannot be read, or its path is not UTF-8.
pub fn local(path: &Path) -> Result<FileEntry, DataError> {
    let error = |source| DataError::Io { action: "read", path: path.into(), source };
    let place = path.canonicalize().map_err(error)?;
    let mut file = File::open(&place).map_err(error)?;
    let (mut bytes, mut hasher, mut buffer) = (0, Sha256::new(), vec![0; BUFFER_BYTES]);
    loop {
        match file.read(&mut buffer).map_err(error)? {
            0 => break,
            read => {
                bytes += read as u64;
                hasher.update(&buffer[..read]);
            }
        }
    }
    let texts = (place.file_name().and_then(OsStr::to_str), place.to_str());
    let (Some(name), Some(place)) = texts else {
        return Err(error(io::Error::new(io::ErrorKind::InvalidInput, "its path is not UTF-8")));
    };
    let (name, sha256) = (name.to_owned(), hex(&hasher.finalize()));
    Ok(FileEntry { name, bytes, sha256, sources: vec![format!("file://{place}")] })
}

/// Verifies that the file at `path` has the size and the digest of `file`.
///
/// # Errors
/// The file is missing, or how it differs.
pub fn verify(path: &Path, file: &FileEntry) -> Result<(), DataError> {
    let mut reader = open(path, file)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match reader.read(&mut buffer).map_err(DataError::io("read", path))? {
            0 => break,
            bytes => hasher.update(&buffer[..bytes]),
        }
    }
    compare(file, &hasher.finalize()).map_err(|damage| damaged(path, damage))
}

/// Stores the content of `reader` as `file` in `directory`, which is created if needed. The content is bounded by the
/// expected size and verified; then the file is put in place at once, so that no reader ever sees a part of it and
/// several processes may store the same file. An existing file stays.
///
/// # Errors
/// [`DataError::Received`] and [`DataError::Interrupted`] are the source's fault, [`DataError::Io`] is the disk's.
/// [`DataError::Damaged`] means that a file with other content has the name.
pub fn store(directory: &Path, file: &FileEntry, reader: impl Read) -> Result<(), DataError> {
    let path = directory.join(&file.name);
    fs::create_dir_all(directory).map_err(DataError::io("create", directory))?;
    let mut temporary = disk::temporary(directory)
        .map_err(DataError::io("create a temporary file in", directory))?;
    copy(reader, temporary.as_file_mut(), &path, file)?;
    disk::sync_file(temporary.as_file(), &path).map_err(DataError::io("write", &path))?;
    match disk::put_new(temporary, &path) {
        // Another process may have stored the same file.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => verify(&path, file),
        put => put.map_err(DataError::io("write", &path)),
    }
}

/// Copies exactly the bytes of `file`, and no more, even if `reader` never ends.
fn copy(
    mut reader: impl Read,
    out: &mut File,
    path: &Path,
    file: &FileEntry,
) -> Result<(), DataError> {
    let received = |damage| DataError::Received { name: file.name.clone(), damage };
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut found = 0;
    loop {
        let piece = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(bytes) => &buffer[..bytes],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => {
                let (name, bytes) = (file.name.clone(), found);
                return Err(DataError::Interrupted { name, bytes, source });
            }
        };
        found += piece.len() as u64;
        if found > file.bytes {
            return Err(received(Damage::TooLong { expected: file.bytes, found }));
        }
        hasher.update(piece);
        out.write_all(piece).map_err(DataError::io("write", path))?;
    }
    if found < file.bytes {
        return Err(received(Damage::Truncated { expected: file.bytes, found }));
    }
    compare(file, &hasher.finalize()).map_err(received)
}

/// Opens a regular file of the right size; the reader is bounded to that size.
fn open(path: &Path, file: &FileEntry) -> Result<impl Read + use<>, DataError> {
    // The kind is checked first, because opening a pipe would wait for a writer.
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if path.is_symlink() {
                return Err(damaged(path, Damage::Dangling));
            }
            return Err(DataError::Missing { path: path.into() });
        }
        Err(error) => return Err(DataError::io("read", path)(error)),
    };
    let (expected, found) = (file.bytes, metadata.len());
    if !metadata.is_file() {
        return Err(damaged(path, Damage::NotAFile));
    }
    if found < expected {
        return Err(damaged(path, Damage::Truncated { expected, found }));
    }
    if found > expected {
        return Err(damaged(path, Damage::TooLong { expected, found }));
    }
    Ok(File::open(path).map_err(DataError::io("open", path))?.take(expected))
}

fn compare(file: &FileEntry, digest: &[u8]) -> Result<(), Damage> {
    let found = hex(digest);
    if found == file.sha256 {
        return Ok(());
    }
    Err(Damage::Digest { expected: file.sha256.clone(), found })
}

fn damaged(path: &Path, damage: Damage) -> DataError {
    DataError::Damaged { path: path.into(), damage }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A file with this content and no sources.
    pub(crate) fn entry(name: &str, content: &[u8]) -> FileEntry {
        let sha256 = hex(&Sha256::digest(content));
        FileEntry { name: name.into(), sha256, bytes: content.len() as u64, sources: Vec::new() }
    }

    #[test]
    fn the_directory_is_the_first_that_is_named() {
        let of = |variables: &[(&str, &str)]| {
            folder_from("mnist", |name| {
                let (_, value) = variables.iter().find(|(variable, _)| *variable == name)?;
                Some(PathBuf::from(value))
            })
        };
        let [own, cache, home] =
            [("LOCKSTEP_DATA_DIR", "/own"), ("XDG_CACHE_HOME", "/cache"), ("HOME", "/home/me")];
        assert_eq!(of(&[own, cache, home]), Path::new("/own"));
        assert_eq!(of(&[cache, home]), Path::new("/cache/lockstep/mnist"));
        assert_eq!(of(&[home]), Path::new("/home/me/.cache/lockstep/mnist"));
        let relative = ("XDG_CACHE_HOME", "cache");
        assert_eq!(of(&[relative, home]), Path::new("/home/me/.cache/lockstep/mnist"));
    }

    #[test]
    fn what_is_stored_verifies_and_reads_back() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("a/b");
        let content = vec![7; 3 * BUFFER_BYTES + 1];
        let file = entry("x", &content);
        store(&directory, &file, &content[..]).unwrap();
        verify(&directory.join("x"), &file).unwrap();
        assert_eq!(fs::read(directory.join("x")).unwrap(), content);
        assert_eq!(fs::read_dir(directory).unwrap().count(), 1);
    }

    #[test]
    fn a_wrong_source_leaves_what_was_there() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
        let root = tempfile::tempdir().unwrap();
        let directory = root.path();
        let file = entry("x", b"right");
        store(directory, &file, &b"right"[..]).unwrap();
        let error = |reader: &mut dyn Read| store(directory, &file, reader).unwrap_err();
        let damage = |bytes: &[u8]| match error(&mut &bytes[..]) {
            DataError::Received { name, damage } if name == "x" => damage,
            other => panic!("{other}"),
        };
        assert_eq!(damage(b"righ"), Damage::Truncated { expected: 5, found: 4 });
        assert_eq!(damage(b"right!"), Damage::TooLong { expected: 5, found: 6 });
        assert!(matches!(damage(b"wrong"), Damage::Digest { .. }));
        let endless = error(&mut io::repeat(0));
        assert!(endless.to_string().contains("too long"), "{endless}");
        let broken = error(&mut b"ri".chain(Broken));
        assert!(matches!(broken, DataError::Interrupted { bytes: 2, .. }), "{broken}");
        verify(&directory.join("x"), &file).unwrap();
        assert_eq!(fs::read_dir(directory).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn errors_say_which_file_what_and_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x");
        let file = entry("x", b"right");
        let line = || verify(&path, &file).unwrap_err().to_string();
        let named = path.display();
        let missing = format!(
            "{named} is missing; fetch it while online, or put the raw (unzipped) file there by hand"
        );
        assert_eq!(line(), missing);
        for (content, expected) in [
            ("righ", "truncated (5 bytes expected, 4 found)"),
            ("right!", "too long (5 bytes expected, at least 6 found)"),
            ("wrong", &file.sha256),
        ] {
            fs::write(&path, content).unwrap();
            let line = line();
            assert!(line.starts_with(&format!("{named} is ")), "{line}");
            assert!(line.contains(expected) && line.contains("--data-dir"), "{line}");
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(line().contains("not a regular file"));
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        assert!(line().contains("a link to nothing"));
    }

    #[test]
    fn a_file_of_another_set_is_never_replaced() {
        let root = tempfile::tempdir().unwrap();
        let file = entry("x", b"right");
        let path = root.path().join("x");
        for theirs in ["wrong", "other sizes", ""] {
            fs::write(&path, theirs).unwrap();
            let error = store(root.path(), &file, &b"right"[..]).unwrap_err();
            assert!(matches!(error, DataError::Damaged { .. }), "{error}");
            assert_eq!(fs::read(&path).unwrap(), theirs.as_bytes());
        }
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        store(root.path(), &file, &b"right"[..]).unwrap_err();
        assert_eq!(fs::read_link(&path).unwrap(), Path::new("nowhere"));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn many_may_store_the_same_file_at_once() {
        let root = tempfile::tempdir().unwrap();
        let content = vec![3; 100_000];
        let file = entry("x", &content);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| store(root.path(), &file, &content[..]).unwrap());
            }
        });
        verify(&root.path().join("x"), &file).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
