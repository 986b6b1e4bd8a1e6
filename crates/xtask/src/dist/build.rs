//! Builds programs whose bytes depend only on the commit, and not on the paths of the checkout and of cargo's
//! packages, nor on the time.
//!
//! The programs are built for a named target, so that the flags do not apply to build scripts and macros, and so that
//! the files of `cargo build` stay as they are.

use crate::workspace::{self, Build};
use anyhow::{Context, ensure};
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The target of a release.
pub(super) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The profile of a release: unlike the profile `release`, it optimises every package.
const PROFILE: &str = "optimized";

/// The names that replace the paths of the checkout and of cargo's folder in programs and their symbols.
const CHECKOUT: &str = "/lockstep";
const PACKAGES: &str = "/cargo";

/// The first second of 1980, the first time that a zip file can contain.
const NO_TIME: u64 = 315_532_800;

/// The commit that a release is made of.
pub(super) struct Source {
    /// The abbreviated hash; none if git gives none.
    commit: Option<String>,
    /// The time of the commit and of every file in the release, in seconds since 1970.
    pub(super) time: u64,
}

impl Source {
    pub(super) fn of(root: &Path) -> Self {
        let git = |arguments: &[&str]| {
            let output = Command::new("git").current_dir(root).args(arguments).output().ok()?;
            let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            output.status.success().then_some(text)
        };
        let last = git(&["log", "-1", "--abbrev=12", "--format=%h %ct"]);
        let Some((commit, time)) = last.as_deref().and_then(|line| line.split_once(' ')) else {
            return Self { commit: None, time: NO_TIME };
        };
        let is_clean = git(&["status", "--porcelain"]).is_some_and(|changes| changes.is_empty());
        let commit = if is_clean { commit.to_owned() } else { format!("{commit}, modified") };
        Self { commit: Some(commit), time: time.parse().unwrap_or(NO_TIME) }
    }
}

/// Builds the programs of these packages.
pub(super) fn programs(source: &Source, packages: &[&str]) -> anyhow::Result<Build> {
    let selection = packages.iter().flat_map(|package| ["-p", package]);
    let selection: Vec<&str> =
        ["--bins", "--target", TARGET].into_iter().chain(selection).collect();
    workspace::build_programs(PROFILE, &selection, &environment(source)?)
}

/// The environment variables that keep paths and times out of programs, and put the commit into them.
fn environment(source: &Source) -> anyhow::Result<Vec<(String, OsString)>> {
    let places = places()?;
    let mut rust = vec!["-Clink-arg=-Wl,--build-id=sha1".to_owned()];
    let mut c = String::new();
    for (place, name) in &places {
        ensure!(
            !place.contains(char::is_whitespace),
            "{place} contains a space, which ends a compiler's flag: make the release in a folder without spaces"
        );
        rust.push(format!("--remap-path-prefix={place}={name}"));
        c.push_str(&format!("-ffile-prefix-map={place}={name} "));
    }
    let target = TARGET.replace('-', "_");
    let mut variables: Vec<(String, OsString)> = vec![
        ("CARGO_ENCODED_RUSTFLAGS".to_owned(), rust.join("\x1f").into()),
        (format!("CFLAGS_{target}"), c.clone().into()),
        (format!("CXXFLAGS_{target}"), c.into()),
        (lockstep_build::RELEASE.to_owned(), "1".into()),
        ("SOURCE_DATE_EPOCH".to_owned(), source.time.to_string().into()),
    ];
    if let Some(commit) = &source.commit {
        variables.push((manual::COMMIT.to_owned(), commit.into()));
    }
    Ok(variables)
}

/// Folders whose paths compilers see, with the name that replaces each. If several match, the last one applies.
fn places() -> anyhow::Result<Vec<(String, String)>> {
    let shown = |path: PathBuf| path.display().to_string();
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(env::home_dir()?.join(".cargo")));
    let home = home.context("neither CARGO_HOME nor HOME is set")?;
    let root = workspace::root();
    let about = compiler("-vV")?;
    let hash = about.lines().find_map(|line| line.strip_prefix("commit-hash: "));
    let library = Path::new(&sysroot()?).join("lib/rustlib/src/rust");
    Ok(vec![
        (shown(home), PACKAGES.to_owned()),
        // The name that the standard library has if its source is not installed.
        (shown(library), format!("/rustc/{}", hash.unwrap_or_default())),
        (shown(workspace::target_folder()?), format!("{CHECKOUT}/target")),
        (shown(root), CHECKOUT.to_owned()),
        (shown(super::libtorch()), format!("{CHECKOUT}/.libtorch")),
    ])
}

/// The folder of the toolchain.
pub(super) fn sysroot() -> anyhow::Result<String> {
    Ok(compiler("--print sysroot")?.trim().to_owned())
}

fn compiler(arguments: &str) -> anyhow::Result<String> {
    let mut rustc = Command::new("rustc");
    rustc.current_dir(workspace::root()).args(arguments.split(' '));
    super::ask(&mut rustc, "cannot ask the compiler")
}
