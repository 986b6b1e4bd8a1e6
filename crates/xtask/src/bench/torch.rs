//! A full PyTorch for the benchmarks, in `.torch/`: the same version as our libtorch, from the same
//! index, for the python3 of this machine. Only `cargo xtask bench` fetches or uses it.
//!
//! The folder has `site/`, for PYTHONPATH, and a stamp. It appears only when it is complete
//! (`staging.rs`). The CUDA libraries are fetched on machines without a GPU too: the Python part of
//! the wheel is linked with them and does not load without them.

use crate::libtorch::VERSION;
use crate::python::{self, Dependencies, requirements_in};
use crate::staging::{Scratch, entries, put_in_place};
use crate::{prerequisites, workspace};
use anyhow::{Context, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// This file holds versions, such as `torch 2.11.0, Python 3.12`: a wheel is for one version of
/// Python.
const STAMP: &str = "version";

/// The disk space that a fetch needs at its peak, in bytes: the wheels and their contents.
const PEAK_BYTES: u64 = 8_000_000_000;

/// The alternative, for the error message of a failed fetch.
const INSTEAD: &str = "leave the comparison to another machine";

/// Packages that torch's metadata requires and that nothing here loads: a GPU compiler and CUDA
/// bindings, 0.7 GB.
const NOT_NEEDED: [&str; 2] = ["triton", "cuda-bindings"];

/// Makes sure that PyTorch is in place, and returns the folder for PYTHONPATH.
pub(super) fn ensure() -> anyhow::Result<PathBuf> {
    prerequisites::platform()?;
    prerequisites::python(INSTEAD)?;
    let destination = workspace::root().join(".torch");
    let stamp = format!("torch {VERSION}, Python {}", python::version()?);
    let is_there = || installed(&destination, &stamp);
    put_in_place(&destination, is_there, |scratch| make(scratch, &stamp))?;
    stdout::say!("{stamp} is in place");
    Ok(destination.join("site"))
}

fn installed(folder: &Path, stamp: &str) -> bool {
    fs::read_to_string(folder.join(STAMP)).is_ok_and(|found| found.trim() == stamp)
        && folder.join("site/torch/__init__.py").is_file()
}

/// Fetches PyTorch into a folder of `scratch`, and returns its path.
fn make(scratch: &Scratch, stamp: &str) -> anyhow::Result<PathBuf> {
    prerequisites::disk_space(&scratch.path, PEAK_BYTES, INSTEAD)?;
    stdout::say!("fetching {stamp} into .torch (2.4 GB)");
    let staged = scratch.folder("torch")?;
    let site = scratch.folder("torch/site")?;
    python::install(&[format!("torch=={VERSION}")], Dependencies::Leave, &site, INSTEAD)?;
    python::install(&needed(&metadata(&site)?), Dependencies::Follow, &site, INSTEAD)?;
    check(&site)?;
    fs::write(staged.join(STAMP), format!("{stamp}\n")).context("cannot write PyTorch's stamp")?;
    Ok(staged)
}

/// The metadata of the installed torch.
fn metadata(site: &Path) -> anyhow::Result<String> {
    let about_torch = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with("torch-") && name.ends_with(".dist-info")
    };
    let folder = entries(site)?.into_iter().find(about_torch);
    let file = folder.context("the wheel of torch has no dist-info")?.join("METADATA");
    fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
}

/// The requirements of torch, without its extras and without [`NOT_NEEDED`].
fn needed(metadata: &str) -> Vec<String> {
    let name = |line: &str| -> String {
        line.chars().take_while(|c| c.is_alphanumeric() || "-_.".contains(*c)).collect()
    };
    let wanted =
        |line: &&str| !line.contains("extra ==") && !NOT_NEEDED.contains(&name(line).as_str());
    requirements_in(metadata).filter(wanted).map(str::to_owned).collect()
}

/// Checks that torch loads, and that its version is [`VERSION`].
fn check(site: &Path) -> anyhow::Result<()> {
    let script = "import torch, torch.distributed as d; assert d.is_gloo_available(); \
                  print(torch.__version__)";
    let output = Command::new("python3")
        .args(["-s", "-c", script])
        .env("PYTHONPATH", site)
        .output()
        .context("cannot start python3")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    let last = complaint.lines().last().unwrap_or_default();
    ensure!(output.status.success(), "the fetched PyTorch does not load: {last}");
    let version = String::from_utf8_lossy(&output.stdout);
    ensure!(
        version.starts_with(VERSION),
        "PyTorch {VERSION} was asked for, but {version} was installed"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_torch_needs_is_what_it_asks_for_but_options_and_gpu_compilers() {
        let metadata = "Name: torch\n\
             Requires-Dist: sympy>=1.13.3\n\
             Requires-Dist: cuda-toolkit[cublas]==13.0.2; platform_system == \"Linux\"\n\
             Requires-Dist: cuda-bindings<14,>=13.0.3; platform_system == \"Linux\"\n\
             Requires-Dist: triton==3.6.0; platform_system == \"Linux\"\n\
             Requires-Dist: optree>=0.13.0; extra == \"optree\"\n";
        let expected =
            ["sympy>=1.13.3", "cuda-toolkit[cublas]==13.0.2; platform_system == \"Linux\""];
        assert_eq!(needed(metadata), expected);
    }

    #[test]
    fn a_pytorch_counts_as_installed_by_its_stamp() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("site/torch")).unwrap();
        fs::write(folder.path().join("site/torch/__init__.py"), "").unwrap();
        assert!(!installed(folder.path(), "torch 2"));
        fs::write(folder.path().join(STAMP), "torch 2\n").unwrap();
        assert!(installed(folder.path(), "torch 2"));
        assert!(!installed(folder.path(), "torch 3"));
    }
}
