//! The files of a data set on this host.
//!
//! A file is in the data set's folder, or at the path of a `file:///` source in the manifest, where it is used in
//! place. A file with other content than the manifest's stays as it is, and is an error. This file does not know how
//! missing files are fetched: see `fetch.rs`, and the worker, which asks the coordinator.

use std::path::{Path, PathBuf};

use config::{FileEntry, Manifest};

use crate::{DataError, source, store};

/// The places of a data set's files.
#[derive(Clone, Debug)]
pub struct Files {
    folder: PathBuf,
    manifest: Manifest,
}

impl Files {
    /// The files of the data set in `folder`. Opens none of them.
    #[must_use]
    pub fn new(folder: &Path, manifest: &Manifest) -> Self {
        Self { folder: folder.into(), manifest: manifest.clone() }
    }

    /// The files of a data set that must be complete. Reads each file once and verifies it.
    ///
    /// # Errors
    /// The first file that is missing or has other content.
    pub fn verified(folder: &Path, manifest: &Manifest) -> Result<Self, DataError> {
        let files = Self::new(folder, manifest);
        match files.missing()?.first() {
            Some(file) => Err(DataError::Missing { path: files.locate(file) }),
            None => Ok(files),
        }
    }

    /// The manifest of the data set.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The folder that files are fetched into.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The path of the file of that name, whether or not the file exists.
    ///
    /// # Errors
    /// [`DataError::NoSuchFile`] where the data set has no such file.
    pub fn path(&self, name: &str) -> Result<PathBuf, DataError> {
        let file = self.manifest.file(name).ok_or_else(|| DataError::NoSuchFile {
            name: name.into(),
            files: self.manifest.files.iter().map(|file| file.name.clone()).collect(),
        })?;
        Ok(self.locate(file))
    }

    /// The files that do not exist; all others are read and verified.
    ///
    /// # Errors
    /// The first file that has other content, or cannot be read.
    pub fn missing(&self) -> Result<Vec<FileEntry>, DataError> {
        let mut missing = Vec::new();
        for file in &self.manifest.files {
            match store::verify(&self.locate(file), file) {
                Ok(()) => {}
                Err(DataError::Missing { .. }) => missing.push(file.clone()),
                Err(error) => return Err(error),
            }
        }
        Ok(missing)
    }

    /// Whether all sources of a file are paths on a machine.
    pub(crate) fn is_local(&self, file: &FileEntry) -> bool {
        file.sources.iter().all(|source| source.starts_with("file:"))
    }

    /// The path where a file of the data set is, or where it belongs.
    #[must_use]
    pub fn locate(&self, file: &FileEntry) -> PathBuf {
        let own = self.folder.join(&file.name);
        // A link whose target is missing counts as present, and is an error.
        if own.symlink_metadata().is_ok() {
            return own;
        }
        match source::local(file) {
            Some(elsewhere) if elsewhere.exists() => elsewhere,
            _ => own,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::store::tests::entry;

    fn manifest(files: Vec<FileEntry>) -> Manifest {
        Manifest { name: "set".into(), files, train: 1, test: 1 }
    }

    #[test]
    fn a_file_elsewhere_is_used_in_place_and_another_one_is_named() {
        let root = tempfile::tempdir().unwrap();
        let (theirs, folder) = (root.path().join("a set/x"), root.path().join("cache"));
        fs::create_dir(root.path().join("a set")).unwrap();
        fs::write(&theirs, "right").unwrap();
        let mut file = entry("images", b"right");
        file.sources.push(format!("file://{}", theirs.display()));
        let manifest = manifest(vec![file, entry("labels", b"1")]);
        let files = Files::new(&folder, &manifest);
        assert_eq!(files.path("images").unwrap(), theirs);
        assert_eq!(files.path("labels").unwrap(), folder.join("labels"));
        assert_eq!(files.missing().unwrap(), manifest.files[1..]);
        let line = Files::verified(&folder, &manifest).unwrap_err().to_string();
        assert!(line.starts_with(&folder.join("labels").display().to_string()), "{line}");
        assert!(!folder.exists(), "nothing is written");

        fs::write(&theirs, "wrong").unwrap();
        let line = files.missing().unwrap_err().to_string();
        assert!(line.starts_with(&theirs.display().to_string()), "{line}");
        assert_eq!(fs::read(&theirs).unwrap(), b"wrong");

        // If that path does not exist, the file is expected in the folder.
        fs::remove_file(&theirs).unwrap();
        assert_eq!(files.missing().unwrap().len(), 2);
        assert_eq!(files.path("images").unwrap(), folder.join("images"));
        let line = files.path("other").unwrap_err().to_string();
        assert_eq!(line, "the data set has no file \"other\", only images, labels");
    }
}
