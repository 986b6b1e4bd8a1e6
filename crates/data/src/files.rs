//! A data set's files on this host.

use std::path::{Path, PathBuf};

use config::Manifest;

/// Where the files of a data set are.
#[derive(Clone, Debug)]
pub struct Files {
    folder: PathBuf,
    manifest: Manifest,
}

impl Files {
    /// Of the data set whose folder is `folder`; looks at nothing.
    #[must_use]
    pub fn new(folder: &Path, manifest: &Manifest) -> Self {
        Self { folder: folder.into(), manifest: manifest.clone() }
    }

    /// What the data set is.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The path of the file of that name, whether it is there or not.
    ///
    /// # Errors
    /// Where the data set has no such file.
    pub fn path(&self, name: &str) -> Result<PathBuf, String> {
        let file = self.manifest.file(name);
        file.map(|file| self.folder.join(&file.name))
            .ok_or_else(|| format!("the data set has no file {name:?}"))
    }
}
