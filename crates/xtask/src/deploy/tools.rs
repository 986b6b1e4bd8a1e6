//! The tools that check the files in `deploy/`: the packages in `deploy/requirements.txt`,
//! installed in `target/deploy` for the python3 of this machine.
//!
//! The folder has `site/`, `schemas/` and a stamp. It appears only when it is complete
//! (`staging.rs`).

use crate::python::{self, Dependencies};
use crate::staging::{Scratch, put_in_place};
use crate::{prerequisites, workspace};
use anyhow::{Context, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// This file holds the requirements and the version of Python for which they were fetched.
const STAMP: &str = "version";

/// Writes the schemas of the kinds that are not Kubernetes' own into the folder `argv[1]`.
const WRITE_SCHEMAS: &str = include_str!("schemas.py");

/// The disk space that a fetch needs at its peak, in bytes.
const PEAK_BYTES: u64 = 500_000_000;

/// The alternative, for the error message of a failed fetch.
const INSTEAD: &str = "leave this check to another machine";

/// The tools, in place.
pub(super) struct Tools {
    folder: PathBuf,
}

impl Tools {
    /// A tool that is a Python module.
    pub(super) fn module(&self, name: &str) -> Command {
        let mut python = Command::new("python3");
        python.args(["-s", "-m", name]).env("PYTHONPATH", self.site());
        python
    }

    /// A tool that is a program.
    pub(super) fn program(&self, name: &str) -> Command {
        Command::new(self.site().join("bin").join(name))
    }

    /// The schema of a kind.
    pub(super) fn schema(&self, kind: &str) -> PathBuf {
        self.folder.join("schemas").join(format!("{kind}.json"))
    }

    fn site(&self) -> PathBuf {
        self.folder.join("site")
    }
}

/// Makes sure that the tools are in place.
pub(super) fn ensure() -> anyhow::Result<Tools> {
    prerequisites::python(INSTEAD)?;
    let file = workspace::root().join("deploy/requirements.txt");
    let requirements =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let stamp = format!("{requirements}{WRITE_SCHEMAS}# Python {}\n", python::version()?);
    let tools = Tools { folder: workspace::root().join("target/deploy") };
    let is_there = || is_installed(&tools.folder, &stamp);
    put_in_place(&tools.folder, is_there, |scratch| make(scratch, &requirements, &stamp))?;
    Ok(tools)
}

fn is_installed(folder: &Path, stamp: &str) -> bool {
    fs::read_to_string(folder.join(STAMP)).is_ok_and(|found| found == stamp)
}

/// Fetches the tools into a folder of `scratch`, and returns its path.
fn make(scratch: &Scratch, requirements: &str, stamp: &str) -> anyhow::Result<PathBuf> {
    prerequisites::disk_space(&scratch.path, PEAK_BYTES, INSTEAD)?;
    stdout::say!("fetching the packages of deploy/requirements.txt into target/deploy");
    let staged = Tools { folder: scratch.folder("tools")? };
    scratch.folder("tools/site")?;
    python::install(&named(requirements), Dependencies::Follow, &staged.site(), INSTEAD)?;
    let mut python = Command::new("python3");
    python.args(["-s", "-c", WRITE_SCHEMAS]).arg(scratch.folder("tools/schemas")?);
    let output =
        python.env("PYTHONPATH", staged.site()).output().context("cannot start python3")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    let last = complaint.lines().last().unwrap_or_default();
    ensure!(output.status.success(), "cannot write the schemas: {last}");
    fs::write(staged.folder.join(STAMP), stamp).context("cannot write the tools' stamp")?;
    Ok(staged.folder)
}

/// The packages that a requirements file names.
fn named(requirements: &str) -> Vec<String> {
    let lines = requirements.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_has_its_version() {
        let file = workspace::root().join("deploy/requirements.txt");
        let named = named(&fs::read_to_string(file).unwrap());
        assert!(!named.is_empty() && named.iter().all(|name| name.contains("==")), "{named:?}");
    }
}
