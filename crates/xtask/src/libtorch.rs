//! A folder with libtorch: its layout, the check that it is complete, and its installation.
//!
//! The folder has `lib/`, `include/`, `licenses/` and the stamp `build-version`. It appears complete, by
//! one rename (`staging.rs`). This file does not know where the files come from (`python.rs`).

use crate::prerequisites;
use crate::python::{self, Dependencies};
use crate::staging::{Scratch, entries, put_in_place};
use anyhow::{Context, bail};
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// The version of libtorch for tch 0.24; both versions change together.
pub(crate) const VERSION: &str = "2.11.0";

/// This file holds version and flavour, such as `2.11.0+cpu`. The build script of torch-sys also reads the
/// file, and checks the version.
const STAMP: &str = "build-version";

/// The packages with which libtorch_cpu is linked, in the versions that PyTorch's wheels require.
const CUDA_RUNTIME: &str = "nvidia-cuda-runtime==13.0.96";
const CUDA_PROFILING: &str = "nvidia-cuda-cupti==13.0.85";

/// The alternative, for the error message of a failed fetch.
const INSTEAD: &str = "set LIBTORCH to the folder of a libtorch that you have";

/// The libraries that a program needs to start; a libtorch without one of them counts as damaged.
const LIBRARIES: [&str; 6] = [
    "libtorch.so",
    "libtorch_cpu.so",
    "libc10.so",
    "libgomp.so.1",
    "libcudart.so.13",
    "libcupti.so.13",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    Cpu,
    Cuda,
}

impl Flavour {
    /// The disk space that a fetch needs at its peak, in bytes: the wheels twice (pip copies them), then
    /// their contents.
    fn peak_bytes(self) -> u64 {
        match self {
            Flavour::Cpu => 1_200_000_000,
            Flavour::Cuda => 6_000_000_000,
        }
    }

    /// The members of a wheel to unpack, as shell patterns in which `*` matches `/` too.
    fn wanted_members(self) -> Vec<String> {
        let mut patterns = vec!["torch/include/*".to_owned(), "*.dist-info/licenses/*".to_owned()];
        match self {
            Flavour::Cpu => patterns.extend(LIBRARIES.map(|name| format!("*/lib/{name}"))),
            Flavour::Cuda => patterns.push("*/lib/*.so*".to_owned()),
        }
        patterns
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Flavour::Cpu => "cpu",
            Flavour::Cuda => "cuda",
        })
    }
}

/// A complete libtorch of the right version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Installation {
    pub(crate) flavour: Flavour,
}

/// The libtorch in `folder`; none if it has another version, is incomplete or does not exist.
pub(crate) fn installed(folder: &Path) -> Option<Installation> {
    let stamp = fs::read_to_string(folder.join(STAMP)).ok()?;
    let flavour = match stamp.trim().strip_prefix(VERSION)? {
        "+cpu" => Flavour::Cpu,
        "+cuda" => Flavour::Cuda,
        _ => return None,
    };
    missing_file(folder).is_none().then_some(Installation { flavour })
}

/// The first of the necessary files that is absent or empty.
fn missing_file(folder: &Path) -> Option<PathBuf> {
    let header = PathBuf::from("include/torch/csrc/api/include/torch/torch.h");
    let libraries = LIBRARIES.iter().map(|name| Path::new("lib").join(name));
    let has = |file: &PathBuf| fs::metadata(folder.join(file)).is_ok_and(|file| file.len() > 0);
    libraries.chain([header]).find(|file| !has(file))
}

/// Fetches libtorch, and replaces the folder `destination` by it.
pub(crate) fn fetch(destination: &Path, flavour: Flavour) -> anyhow::Result<()> {
    prerequisites::platform()?;
    prerequisites::python(INSTEAD)?;
    let is_there = || installed(destination) == Some(Installation { flavour });
    put_in_place(destination, is_there, |scratch| {
        prerequisites::disk_space(&scratch.path, flavour.peak_bytes(), INSTEAD)?;
        stdout::say!("fetching libtorch {VERSION} ({flavour}) into {}", destination.display());
        download(scratch, flavour)?;
        stage(scratch, flavour)
    })?;
    stdout::say!("libtorch {VERSION} ({flavour}) is in place");
    Ok(())
}

/// Downloads the wheels, and unpacks their wanted members into `scratch`.
fn download(scratch: &Scratch, flavour: Flavour) -> anyhow::Result<()> {
    let wheels = scratch.folder("wheels")?;
    let unpacked = scratch.folder("unpacked")?;
    let torch = format!("torch=={VERSION}");
    match flavour {
        Flavour::Cpu => {
            let wanted = [torch, CUDA_RUNTIME.to_owned(), CUDA_PROFILING.to_owned()];
            python::download(&wanted, Dependencies::Leave, &wheels, INSTEAD)?;
        }
        Flavour::Cuda => {
            python::download(&[torch], Dependencies::Leave, &wheels, INSTEAD)?;
            let wanted = python::nvidia_requirements(&wheels, &unpacked)?;
            python::download(&wanted, Dependencies::Follow, &wheels, INSTEAD)?;
        }
    }
    for wheel in entries(&wheels)? {
        python::unpack(&wheel, &flavour.wanted_members(), &unpacked)?;
        // Removed at once, so that the disk never holds all wheels and all their contents.
        let _ = fs::remove_file(&wheel);
    }
    Ok(())
}

/// Moves the unpacked files into a libtorch folder with its stamp, checks it, and returns its path.
fn stage(scratch: &Scratch, flavour: Flavour) -> anyhow::Result<PathBuf> {
    let staged = scratch.folder("libtorch")?;
    let library_folder = scratch.folder("libtorch/lib")?;
    let unpacked = scratch.path.join("unpacked");
    fs::rename(unpacked.join("torch/include"), staged.join("include"))
        .context("the wheel of torch holds no torch/include")?;
    for library in libraries_under(&unpacked)? {
        if let Some(name) = library.file_name() {
            let target = library_folder.join(name);
            fs::rename(&library, &target).with_context(|| {
                format!("cannot move {} to {}", library.display(), target.display())
            })?;
        }
    }
    for package in entries(&unpacked)? {
        let licences = package.join("licenses");
        if let (true, Some(name)) = (licences.is_dir(), package.file_stem()) {
            let target = scratch.folder("libtorch/licenses")?.join(name);
            fs::rename(&licences, target).context("cannot move the licences of libtorch")?;
        }
    }
    if let Some(missing) = missing_file(&staged) {
        bail!("the wheels lack {}: they are not of libtorch {VERSION}", missing.display());
    }
    let stamp = format!("{VERSION}+{flavour}\n");
    fs::write(staged.join(STAMP), stamp).context("cannot write the stamp of libtorch")?;
    Ok(staged)
}

/// All files in folders named `lib` under `folder`.
fn libraries_under(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for entry in entries(folder)? {
        if entry.is_dir() {
            libraries.extend(libraries_under(&entry)?);
        } else if folder.file_name() == Some(OsStr::new("lib")) {
            libraries.push(entry);
        }
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::staging::MARK;

    /// Makes a folder that counts as a complete libtorch with the given stamp.
    fn installation(folder: &Path, stamp: &str) {
        let headers = folder.join("include/torch/csrc/api/include/torch");
        fs::create_dir_all(folder.join("lib")).unwrap();
        fs::create_dir_all(&headers).unwrap();
        fs::write(headers.join("torch.h"), "header").unwrap();
        for library in LIBRARIES {
            fs::write(folder.join("lib").join(library), "library").unwrap();
        }
        fs::write(folder.join(STAMP), stamp).unwrap();
    }

    #[test]
    fn only_a_whole_libtorch_of_this_version_counts_as_installed() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(installed(folder.path()), None);
        installation(folder.path(), &format!("{VERSION}+cuda\n"));
        assert_eq!(installed(folder.path()), Some(Installation { flavour: Flavour::Cuda }));
        fs::write(folder.path().join("lib/libc10.so"), "").unwrap();
        assert_eq!(installed(folder.path()), None, "an empty library");
        for stamp in ["2.10.0+cpu", "2.11.0", "2.11.0+rocm", ""] {
            installation(folder.path(), stamp);
            assert_eq!(installed(folder.path()), None, "{stamp}");
        }
    }

    #[test]
    fn unpacked_wheels_become_a_libtorch_and_take_the_place_of_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let destination = folder.path().join("libtorch");
        installation(&destination, "2.10.0+cpu");
        fs::write(destination.join("lib/old.so"), "old").unwrap();
        fs::write(destination.join(MARK), "").unwrap();
        put_in_place(
            &destination,
            || false,
            |scratch| {
                installation(&scratch.path.join("unpacked/torch"), "not copied");
                let licences = scratch.path.join("unpacked/torch-2.11.0.dist-info/licenses");
                fs::create_dir_all(&licences).unwrap();
                fs::write(licences.join("LICENSE"), "licence").unwrap();
                stage(scratch, Flavour::Cpu)
            },
        )
        .unwrap();
        assert_eq!(installed(&destination), Some(Installation { flavour: Flavour::Cpu }));
        assert!(!destination.join("lib/old.so").exists());
        assert!(destination.join("licenses/torch-2.11.0/LICENSE").is_file());
        assert_eq!(entries(folder.path()).unwrap(), [destination]);
    }

    #[test]
    fn wheels_that_lack_a_library_are_refused_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let destination = folder.path().join("libtorch");
        let placed = put_in_place(
            &destination,
            || false,
            |scratch| {
                installation(&scratch.path.join("unpacked/torch"), "");
                fs::remove_file(scratch.path.join("unpacked/torch/lib/libgomp.so.1")).unwrap();
                stage(scratch, Flavour::Cpu)
            },
        );
        let error = placed.unwrap_err().to_string();
        assert!(error.contains("lib/libgomp.so.1"), "{error}");
        assert_eq!(entries(folder.path()).unwrap(), [] as [PathBuf; 0]);
    }
}
