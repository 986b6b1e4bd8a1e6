//! `cargo xtask dist --check`: builds the release of the last commit without libtorch twice, in clones at
//! different paths, and compares the bytes.

use super::archive::CHECKSUMS;
use crate::test_tools::NVRTC;
use crate::{child, workspace};
use anyhow::{Context, ensure};
use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The clones' paths below a temporary folder; they have different lengths.
const PLACES: [&str; 2] = ["one", "another/and/a/longer/path"];

/// Folders that the checkout has fetched, and that the clones use too.
const FETCHED: [&str; 2] = [".libtorch", ".nvrtc"];

/// Returns the exit status of the build that failed, or 1 if the bytes differ.
pub(super) fn run(wheel: bool) -> anyhow::Result<u8> {
    // Both clones use this compiler of the checkout.
    NVRTC.fetch()?;
    // On the disk of the checkout, which has space for a build.
    let folder =
        tempfile::Builder::new().prefix("dist-check-").tempdir_in(workspace::target_folder()?);
    let folder = folder.context("cannot make a temporary folder")?;
    let mut checksums = Vec::new();
    for place in PLACES {
        let place = folder.path().join(place);
        let output = folder.path().join("release");
        let code = build(&place, &output, wheel)?;
        if code != child::SUCCESS {
            return Ok(code);
        }
        let made = fs::read_to_string(output.join(CHECKSUMS)).context("there are no checksums")?;
        stdout::say!("{}:\n{made}", place.display());
        checksums.push(made);
        // A build takes gigabytes.
        fs::remove_dir_all(&place).with_context(|| format!("cannot remove {}", place.display()))?;
    }
    let is_same = checksums[0] == checksums[1];
    stdout::say!(
        "{}",
        if is_same { "both builds gave the same bytes" } else { "the bytes differ" }
    );
    Ok(if is_same { child::SUCCESS } else { 1 })
}

/// Clones the checkout, and makes the release there.
fn build(place: &Path, output: &Path, wheel: bool) -> anyhow::Result<u8> {
    let root = workspace::root();
    let mut git = Command::new("git");
    let code = child::run(git.args(["clone", "--quiet"]).arg(&root).arg(place))?;
    ensure!(code == child::SUCCESS, "the checkout cannot be cloned");
    for name in FETCHED.into_iter().filter(|name| root.join(name).is_dir()) {
        std::os::unix::fs::symlink(root.join(name), place.join(name))
            .with_context(|| format!("cannot link {name}"))?;
    }
    let mut dist = Command::new(env::current_exe().context("cannot find this program")?);
    // A wheel never contains libtorch.
    dist.args(["dist", if wheel { "--wheel" } else { "--no-libtorch" }]);
    dist.arg("--output").arg(output).current_dir(place);
    dist.env("CARGO_MANIFEST_DIR", place.join("crates/xtask"));
    // Each clone uses its own libtorch and target folder.
    dist.env_remove("LIBTORCH").env("CARGO_TARGET_DIR", place.join("target"));
    child::run(&mut dist)
}
