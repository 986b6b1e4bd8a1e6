//! The path of the checkout, calls of cargo in it, and builds of its programs.

use crate::child;
use anyhow::Context;
use serde_json::Value;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The folder of the workspace's Cargo.toml.
pub(crate) fn root() -> PathBuf {
    // Cargo sets the variable for `cargo run` too, so the path is right even after the checkout was moved.
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.ancestors().nth(2).unwrap_or(Path::new(".")).to_owned()
}

/// The cargo that runs xtask, in the root of the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(root());
    // The variables that describe xtask are removed: ring's build script depends on them, so ring and all
    // crates that use it would be compiled again whenever cargo was called without xtask in between.
    for (name, _) in env::vars_os() {
        let of_xtask = ["CARGO_PKG_", "CARGO_MANIFEST_"];
        if of_xtask.iter().any(|start| name.to_string_lossy().starts_with(start)) {
            command.env_remove(name);
        }
    }
    command
}

/// Builds programs that the scenarios start, with an alias of .cargo/config.toml. Returns the exit status.
pub(crate) fn build_for_tests(alias: &str) -> anyhow::Result<u8> {
    child::run(cargo().args([alias, "--release"]))
}

/// The profile of all programs but those of `cargo xtask dist`.
pub(crate) const RELEASE: &str = "release";

/// The outcome of a build.
pub(crate) enum Build<T = Vec<PathBuf>> {
    /// The built programs, or the wanted ones of them.
    Done(T),
    /// The build failed with this exit status; cargo printed the reason.
    Failed(u8),
}

/// The folder of cargo's build products, which is created if it does not exist.
pub(crate) fn target_folder() -> anyhow::Result<PathBuf> {
    let chosen = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let folder = root().join(chosen.unwrap_or_else(|| PathBuf::from("target")));
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

/// Builds the programs that `selection` names (such as `--bins` and `--workspace`) in a profile, with
/// these environment variables.
///
/// The programs' paths come from cargo's messages, so any configured target folder works.
pub(crate) fn build_programs(
    profile: &str,
    selection: &[&str],
    environment: &[(String, OsString)],
) -> anyhow::Result<Build> {
    let mut command = cargo();
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command.args(["build", "--profile", profile, "--message-format=json-render-diagnostics"]);
    let mut build = command
        .args(selection)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo to build the programs")?;
    let mut programs = Vec::new();
    if let Some(messages) = build.stdout.take() {
        for line in BufReader::new(messages).lines() {
            programs.extend(program_in(&line.context("cannot read cargo's messages")?));
        }
    }
    let status = build.wait().context("cannot wait for cargo")?;
    Ok(if status.success() { Build::Done(programs) } else { Build::Failed(child::code(status)) })
}

/// The program of this name among the programs of a build.
pub(crate) fn named<'a>(programs: &'a [PathBuf], name: &str) -> anyhow::Result<&'a PathBuf> {
    let found = programs.iter().find(|program| program.file_name() == Some(OsStr::new(name)));
    found.with_context(|| format!("the build has made no {name}"))
}

/// The path of a program in one of cargo's JSON messages, if the message names a program.
fn program_in(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    message["executable"].as_str().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_holds_the_workspace() {
        let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[workspace]"));
    }

    #[test]
    fn only_messages_about_programs_name_one() {
        let program = r#"{"reason":"compiler-artifact","executable":"/t/release/vae-worker"}"#;
        assert_eq!(program_in(program), Some(PathBuf::from("/t/release/vae-worker")));
        assert_eq!(program_in(r#"{"reason":"compiler-artifact","executable":null}"#), None);
        assert_eq!(program_in(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(program_in("not JSON"), None);
    }
}
