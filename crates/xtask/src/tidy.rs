//! `cargo xtask tidy`: the structure check, run as a test too.
//!
//! `tidy/architecture.rs` has the rules as tables; most people need to read only this file.
//! `graph.rs` checks the dependencies between crates, `packages.rs` the external packages,
//! `source.rs` the Rust files, `wire.rs` the .proto files and `documents.rs` the Markdown files. Each
//! takes plain values, so that its tests need no cargo. Nothing here knows what a crate does.

mod architecture;
mod documents;
mod graph;
mod packages;
mod source;
mod wire;

use crate::{child, workspace};
use anyhow::{Context, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fmt, fs};

/// One breach of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Breach {
    /// A crate, or a file with a line.
    place: String,
    /// The breach itself.
    found: String,
    /// The rule, as a sentence.
    rule: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n    rule: {}", self.place, self.found, self.rule)
    }
}

/// Checks the workspace and prints every breach. Returns the exit status: 1 if there was a breach.
pub(crate) fn run() -> anyhow::Result<u8> {
    let breaches = check(&workspace::root())?;
    for breach in &breaches {
        stdout::say!("{breach}");
    }
    match breaches.len() {
        0 => stdout::say!("tidy: the structure agrees with the tables in crates/xtask/src/tidy"),
        count => {
            stdout::say!("tidy: {count} breaches of the rules in crates/xtask/src/tidy")
        }
    }
    Ok(if breaches.is_empty() { child::SUCCESS } else { 1 })
}

/// All breaches in the workspace at `root`, in order of place.
fn check(root: &Path) -> anyhow::Result<Vec<Breach>> {
    let metadata = metadata()?;
    let graph = graph::Graph::parse(&metadata)?;
    let mut breaches = graph::check(&graph);
    breaches.extend(packages::check(&metadata)?);
    for path in files(root, "rs")? {
        breaches.extend(source::check(&relative(&path, root), &read(&path)?));
    }
    for path in files(&root.join("proto"), "proto")? {
        breaches.extend(wire::check(&relative(&path, root), &read(&path)?));
    }
    for path in [files(root, "md")?, files(&root.join(".github"), "md")?].concat() {
        let is_there = |path: &str| root.join(path).exists();
        breaches.extend(documents::check(&relative(&path, root), &read(&path)?, &is_there));
    }
    breaches.sort();
    Ok(breaches)
}

/// The output of `cargo metadata`. Uses the network only if a package in Cargo.lock was never
/// downloaded on this machine.
pub(crate) fn metadata() -> anyhow::Result<Vec<u8>> {
    let compiler = Command::new("rustc").arg("-vV").output().context("cannot start rustc")?;
    let about = String::from_utf8_lossy(&compiler.stdout);
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    let ask = |more: &[&str]| {
        // Without the filter, cargo would need the packages of all other platforms too.
        let mut cargo = workspace::cargo();
        cargo.args(["metadata", "--format-version=1", "--filter-platform"]);
        cargo.arg(host.context("rustc does not name its host")?).args(more);
        cargo.output().context("cannot start cargo metadata")
    };
    let mut output = ask(&["--offline"])?;
    if !output.status.success() {
        output = ask(&[])?;
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo metadata failed: {}", complaint.trim());
    Ok(output.stdout)
}

/// The files with the extension under `folder`, in order; none if the folder does not exist. Skips
/// build products and hidden folders.
fn files(folder: &Path, extension: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if !folder.is_dir() {
        return Ok(found);
    }
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?
    {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        let name = entry.file_name().to_string_lossy().into_owned();
        if kind.is_dir() && !name.starts_with('.') && name != "target" {
            found.extend(files(&path, extension)?);
        } else if kind.is_file() && path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn relative(path: &Path, root: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_tidy() {
        let breaches = check(&workspace::root()).unwrap();
        let list: Vec<String> = breaches.iter().map(ToString::to_string).collect();
        assert!(list.is_empty(), "\n{}", list.join("\n"));
    }

    #[test]
    fn the_check_looks_at_source_and_wire_but_not_at_build_products() {
        let folder = tempfile::tempdir().unwrap();
        let put = |path: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        for path in ["a/src/lib.rs", "a/target/gen.rs", ".cache/x.rs", "a/build.rs", "a/notes.md"] {
            put(path);
        }
        let found = files(folder.path(), "rs").unwrap();
        let found: Vec<String> = found.iter().map(|path| relative(path, folder.path())).collect();
        assert_eq!(found, ["a/build.rs", "a/src/lib.rs"]);
        assert_eq!(files(&folder.path().join("absent"), "rs").unwrap(), Vec::<PathBuf>::new());
    }
}
