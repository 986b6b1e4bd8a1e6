//! The first steps of a user with a model of their own: an example is copied, and the copy is built.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    harness::{cargo, profile, profile_folder},
    tasks::{CLASSIFIER, said},
};

/// The test uses the profiles and the target folder of the workspace, so that packages are not compiled again.
#[test]
fn an_example_that_was_copied_elsewhere_builds_and_describes_itself() {
    let root = fs::canonicalize(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).unwrap();
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mine");
    let _was_not_there = fs::remove_dir_all(&copy);
    let example = root.join("crates/lockstep/examples/classifier");
    fs::create_dir_all(copy.join("src")).unwrap();
    for file in ["build.rs", "src/main.rs"] {
        fs::copy(example.join(file), copy.join(file)).unwrap();
    }
    let manifest = fs::read_to_string(example.join("Cargo.toml")).unwrap();
    let crates = format!("path = \"{}", root.join("crates").display());
    let manifest = manifest
        .replace("path = \"../../../lockstep-build", &format!("{crates}/lockstep-build"))
        .replace("path = \"../..", &format!("{crates}/lockstep"));
    let workspace = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let profiles = &workspace[workspace.find("[profile.").unwrap()..];
    fs::write(copy.join("Cargo.toml"), manifest + "\n" + profiles).unwrap();
    // The same versions as here; other versions may need the network.
    fs::copy(root.join("Cargo.lock"), copy.join("Cargo.lock")).unwrap();
    let mut build = cargo("build");
    // This project's crates are compiled once more, without optimisation, because they only describe a
    // task.
    let crates = fs::read_dir(root.join("crates")).unwrap().flatten();
    for entry in crates.filter(|entry| entry.path().is_dir()) {
        let (profile, name) = (profile(), entry.file_name());
        let setting = format!("profile.{profile}.package.{}.opt-level=0", name.display());
        build.args(["--config", &setting]);
    }
    build.env("LIBTORCH", libtorch(&root)).current_dir(&copy);
    let output = build.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let ours = said(Command::new(CLASSIFIER.program()).arg("describe"));
    let theirs = said(Command::new(profile_folder().join("classifier")).arg("describe"));
    assert_eq!(String::from_utf8_lossy(&ours), String::from_utf8_lossy(&theirs));
}

/// The folder of the libtorch with which the workspace is built.
fn libtorch(root: &Path) -> PathBuf {
    std::env::var_os("LIBTORCH").map_or_else(|| root.join(".libtorch"), PathBuf::from)
}
