//! Measures JAX: runs `jax_peer.py` in one process, with a JAX that is fetched into `.jax/`.
//!
//! The newest JAX is faster than older versions, and needs a newer Python than PyTorch does. So JAX
//! is fetched for the newest Python with pip on this machine. A fetched JAX stays; to fetch a newer
//! version, remove the folder. Only `cargo xtask bench` uses it.

use super::process::{self, Process};
use super::procfs;
use super::pytorch::{RUN_BOUND, SECONDS, Shown, source, speed_in};
use super::subject::Training;
use crate::python::{self, Dependencies};
use crate::staging::{Scratch, entries, put_in_place};
use crate::{prerequisites, workspace};
use anyhow::{Context, ensure};
use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// This file holds the version of JAX, the version of Python, and the path of Python, a line each.
const STAMP: &str = "version";

/// The disk space that a fetch needs at its peak, in bytes.
const PEAK_BYTES: u64 = 1_500_000_000;

/// The alternative, for the error message of a failed fetch.
const INSTEAD: &str = "the bench runs without JAX";

/// How many Pythons are tried, from the newest on: there may be no JAX yet for the newest Python.
const PYTHONS_MAX: usize = 2;

/// Lets XLA reorder sums and leave out the handling of infinities and NaN.
const XLA_FLAGS: &str = "--xla_cpu_enable_fast_math=true";

/// A JAX, and the Python that it was fetched for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Jax {
    version: String,
    python_version: String,
    python: PathBuf,
    /// The folder for PYTHONPATH.
    site: PathBuf,
}

impl Jax {
    /// Makes sure that JAX is in place.
    pub(super) fn ensure() -> anyhow::Result<Jax> {
        let destination = workspace::root().join(".jax");
        put_in_place(&destination, || installed(&destination).is_some(), make)?;
        let jax = installed(&destination).context("JAX was put in place, but does not load")?;
        stdout::say!("{} is in place", jax.describe());
        Ok(jax)
    }

    pub(super) fn describe(&self) -> String {
        format!("JAX {}, Python {}", self.version, self.python_version)
    }

    /// Trains in one process, with a device for each worker.
    pub(super) fn train(&self, training: Training, data_dir: &Path) -> anyhow::Result<Shown> {
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        let mut command = process::command(&self.python);
        command.args(["-s", "-B"]).arg(source("jax_peer.py")).arg("--data-dir").arg(data_dir);
        command.arg(format!("--batch-size={}", training.batch_size));
        command.arg(format!("--devices={}", training.workers));
        command.arg(format!("--seconds={SECONDS}"));
        command.env("PYTHONPATH", &self.site).env("XLA_FLAGS", XLA_FLAGS);
        command.env("JAX_PLATFORMS", "cpu");
        let mut processes = [Process::start("jax", &mut command, folder.path())?];
        let mut worker_peak_bytes = 0;
        process::wait(&mut processes, RUN_BOUND, |processes| {
            let memory = procfs::memory(processes[0].id());
            worker_peak_bytes = memory.map_or(worker_peak_bytes, |memory| memory.peak);
        })?;
        let (images_per_second, seconds) =
            speed_in(&processes[0].output()).context("jax_peer.py printed no speed")?;
        Ok(Shown { images_per_second, seconds, worker_peak_bytes })
    }
}

/// The JAX in a folder, if it is complete and its Python still exists.
fn installed(folder: &Path) -> Option<Jax> {
    let jax = stamped(&fs::read_to_string(folder.join(STAMP)).ok()?, folder)?;
    let is_there = jax.site.join("jax/__init__.py").is_file()
        && version_of(&jax.python).is_some_and(|found| dotted(&found) == jax.python_version);
    is_there.then_some(jax)
}

fn stamped(stamp: &str, folder: &Path) -> Option<Jax> {
    let mut lines = stamp.lines().map(str::to_owned);
    Some(Jax {
        version: lines.next()?,
        python_version: lines.next()?,
        python: lines.next()?.into(),
        site: folder.join("site"),
    })
}

/// Fetches JAX into a folder of `scratch`, and returns its path.
fn make(scratch: &Scratch) -> anyhow::Result<PathBuf> {
    prerequisites::disk_space(&scratch.path, PEAK_BYTES, INSTEAD)?;
    let mut last = Err(anyhow::anyhow!("no python3 with pip was found"));
    let with_pip = pythons().into_iter().rev().filter(|(_, python)| has_pip(python));
    for (version, python) in with_pip.take(PYTHONS_MAX) {
        let name = format!("jax-{}", dotted(&version));
        last = make_for(&python, &dotted(&version), scratch, &name);
        if last.is_ok() {
            break;
        }
    }
    last
}

fn make_for(
    python: &Path,
    python_version: &str,
    scratch: &Scratch,
    name: &str,
) -> anyhow::Result<PathBuf> {
    stdout::say!("fetching JAX for Python {python_version} into .jax (0.5 GB)");
    let staged = scratch.folder(name)?;
    let site = scratch.folder(&format!("{name}/site"))?;
    let packages = ["jax".to_owned()];
    python::install_for(python, &packages, Dependencies::Follow, &site, INSTEAD)?;
    let version = check(python, &site)?;
    let stamp = format!("{version}\n{python_version}\n{}\n", python.display());
    fs::write(staged.join(STAMP), stamp).context("cannot write JAX's stamp")?;
    Ok(staged)
}

/// Checks that JAX loads and computes; returns its version.
fn check(python: &Path, site: &Path) -> anyhow::Result<String> {
    let script = "import jax; assert int(jax.jit(lambda x: x + 1)(1)) == 2; print(jax.__version__)";
    let output = Command::new(python)
        .args(["-s", "-B", "-c", script])
        .env("PYTHONPATH", site)
        .env("JAX_PLATFORMS", "cpu")
        .output()
        .with_context(|| format!("cannot start {}", python.display()))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    let last = complaint.lines().next_back().unwrap_or_default();
    ensure!(output.status.success(), "JAX does not load: {last}");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The numbers of a version, such as 3 and 13.
type Version = Vec<u32>;

fn dotted(version: &Version) -> String {
    version.iter().map(ToString::to_string).collect::<Vec<_>>().join(".")
}

/// The Pythons on this machine, one for each version, from old to new: the programs in PATH, and the
/// Pythons of pyenv and uv.
fn pythons() -> BTreeMap<Version, PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut programs: Vec<PathBuf> =
        env::split_paths(&path).flat_map(|folder| entries(&folder).unwrap_or_default()).collect();
    programs.retain(|program| is_python(program));
    for versions in kept_aside() {
        let folders = entries(&versions).unwrap_or_default();
        programs.extend(folders.into_iter().map(|folder| folder.join("bin/python3")));
    }
    let mut found = BTreeMap::new();
    for program in programs.into_iter().filter(|program| program.is_file()) {
        // Shims of pyenv do not start.
        if let Some(version) = version_of(&program) {
            found.entry(version).or_insert(program);
        }
    }
    found
}

/// Whether a file has a name of CPython's programs: python3, python3.13.
fn is_python(program: &Path) -> bool {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let minor = name.strip_prefix("python3").map(|rest| rest.strip_prefix('.').unwrap_or(rest));
    minor.is_some_and(|minor| minor.chars().all(|c| c.is_ascii_digit()))
}

/// The folders of pyenv and uv; each of their subfolders holds one Python.
fn kept_aside() -> Vec<PathBuf> {
    let home = env::var_os("HOME").map(PathBuf::from);
    let below = |folder: &str| home.as_ref().map(|home| home.join(folder));
    let pyenv = env::var_os("PYENV_ROOT").map(PathBuf::from).or_else(|| below(".pyenv"));
    let uv = below(".local/share/uv/python");
    [pyenv.map(|root| root.join("versions")), uv].into_iter().flatten().collect()
}

fn version_of(program: &Path) -> Option<Version> {
    let script = "import sys; print('%d.%d.%d' % sys.version_info[:3])";
    version_in(&said(program, &["-s", "-c", script])?)
}

fn version_in(text: &str) -> Option<Version> {
    text.trim().split('.').map(|part| part.parse().ok()).collect()
}

fn has_pip(program: &Path) -> bool {
    said(program, &["-m", "pip", "--version"]).is_some()
}

/// The output of a program, if its exit status is success.
fn said(program: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pythons_are_known_by_their_names() {
        for (name, expected) in [
            ("python3", true),
            ("python3.13", true),
            ("python3.13t", false),
            ("python3-config", false),
            ("python2.7", false),
        ] {
            assert_eq!(is_python(&Path::new("/usr/bin").join(name)), expected, "{name}");
        }
    }

    #[test]
    fn versions_are_ordered_by_their_numbers() {
        let version = |text| version_in(text).unwrap();
        assert!(version("3.13.0\n") > version("3.9.18"));
        assert_eq!(dotted(&version("3.13.0\n")), "3.13.0");
        assert_eq!(version_in("pyenv: not found"), None);
    }

    #[test]
    fn what_is_installed_is_known_by_its_stamp_and_its_python() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let python = Path::new("python3");
        let version = version_of(python).unwrap();
        fs::create_dir_all(path.join("site/jax")).unwrap();
        fs::write(path.join("site/jax/__init__.py"), "").unwrap();
        assert_eq!(installed(path), None);
        let stamp = |version: &str| {
            fs::write(path.join(STAMP), format!("0.12\n{version}\n{}\n", python.display()))
        };
        stamp(&dotted(&version)).unwrap();
        let jax = installed(path).unwrap();
        assert_eq!(jax.describe(), format!("JAX 0.12, Python {}", dotted(&version)));
        stamp("2.0.0").unwrap();
        assert_eq!(installed(path), None);
    }
}
