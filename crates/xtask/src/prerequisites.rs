//! Checks of the programs and the disk space that a machine needs. Each error says how to fix it.

use crate::libtorch;
use anyhow::{bail, ensure};
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PYTHON_HINT: &str = "install it (Debian and Ubuntu: apt-get install python3 python3-pip)";

/// The folders of the NVIDIA driver's user-space library on the usual distributions and under WSL.
const DRIVER_FOLDERS: [&str; 5] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/lib/x86_64-linux-gnu/nvidia/current",
    "/usr/lib/wsl/lib",
];

/// Checks that the wheels are made for this platform.
pub(crate) fn platform() -> anyhow::Result<()> {
    ensure!(
        cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")),
        "libtorch is fetched for x86-64 Linux with glibc only: on another platform set \
         LIBTORCH to the folder of a libtorch {}",
        libtorch::VERSION
    );
    Ok(())
}

/// Checks that cargo finds a C++ compiler, which compiles libtorch's bindings.
pub(crate) fn compiler() -> anyhow::Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = env::split_paths(&path).collect();
    match find_compiler(env::var("CXX").ok().filter(|chosen| !chosen.is_empty()), &folders) {
        Compiler::Found => Ok(()),
        Compiler::Elsewhere(name) => bail!(
            "cargo calls the C++ compiler as `c++`, but only `{name}` is installed: run \
             `export CXX={name}` first"
        ),
        Compiler::ChosenMissing(name) => bail!(
            "CXX names the C++ compiler `{name}`, which was not found: correct CXX, or \
             unset it to use `c++`"
        ),
        Compiler::Missing => bail!(
            "no C++ compiler (c++, g++ or clang++) was found: install one (Debian and \
             Ubuntu: apt-get install g++)"
        ),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Compiler {
    Found,
    Elsewhere(&'static str),
    ChosenMissing(String),
    Missing,
}

fn find_compiler(chosen: Option<String>, folders: &[PathBuf]) -> Compiler {
    let present = |name: &str| folders.iter().any(|folder| folder.join(name).is_file());
    if let Some(chosen) = chosen {
        // CXX may contain a wrapper and flags, as in "ccache g++".
        let program = chosen.split_whitespace().next().unwrap_or_default();
        return match present(program) {
            true => Compiler::Found,
            false => Compiler::ChosenMissing(program.to_owned()),
        };
    }
    if present("c++") {
        return Compiler::Found;
    }
    ["g++", "clang++"]
        .into_iter()
        .find(|name| present(name))
        .map_or(Compiler::Missing, Compiler::Elsewhere)
}

/// Checks python3 and its pip, which fetch and unpack the wheels; the error names the alternative
/// `instead`.
pub(crate) fn python(instead: &str) -> anyhow::Result<()> {
    let quietly = |arguments: &[&str]| {
        let mut command = Command::new("python3");
        command
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .stdin(Stdio::null())
            .status()
    };
    if let Err(error) = quietly(&["--version"]) {
        bail!(
            "Python packages are fetched with python3, which cannot be started ({error}): \
             {PYTHON_HINT}, or {instead}"
        );
    }
    ensure!(
        quietly(&["-m", "pip", "--version"])?.success(),
        "Python packages are fetched with pip, and `python3 -m pip` does not work: {PYTHON_HINT}, \
         or {instead}"
    );
    Ok(())
}

/// Whether an NVIDIA driver is installed.
pub(crate) fn nvidia_driver() -> bool {
    let searched = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    Path::new("/proc/driver/nvidia/version").exists()
        || (DRIVER_FOLDERS.into_iter().map(PathBuf::from).chain(env::split_paths(&searched)))
            .any(|folder| folder.join("libcuda.so.1").exists())
}

/// Checks that the file system of `folder` has `bytes` free; the error names the alternative
/// `instead`.
pub(crate) fn disk_space(folder: &Path, bytes: u64, instead: &str) -> anyhow::Result<()> {
    // If the free space is unknown, the fetch is tried: a full disk is reported then.
    let Ok(found) = rustix::fs::statvfs(folder) else { return Ok(()) };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    ensure!(
        free >= bytes,
        "{} MB are needed in {} during the fetch, but only {} MB are free: make room, or {instead}",
        bytes / 1_000_000,
        folder.display(),
        free / 1_000_000
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_compiler_is_the_one_that_cargo_will_call() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().to_owned()];
        let chosen = |name: &str| find_compiler(Some(name.to_owned()), &folders);
        assert_eq!(find_compiler(None, &folders), Compiler::Missing);
        assert_eq!(chosen("g++ -m64"), Compiler::ChosenMissing("g++".to_owned()));
        fs::write(folder.path().join("g++"), "").unwrap();
        assert_eq!(find_compiler(None, &folders), Compiler::Elsewhere("g++"));
        assert_eq!(chosen("g++ -m64"), Compiler::Found);
        fs::write(folder.path().join("c++"), "").unwrap();
        assert_eq!(find_compiler(None, &folders), Compiler::Found);
    }

    #[test]
    fn too_little_space_is_an_error_that_says_how_much() {
        let folder = tempfile::tempdir().unwrap();
        assert!(disk_space(folder.path(), 1, "").is_ok());
        let error = disk_space(folder.path(), u64::MAX, "").unwrap_err().to_string();
        assert!(error.contains("MB are free"), "{error}");
    }
}
