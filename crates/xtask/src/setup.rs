//! `cargo xtask setup`: makes sure that there is a libtorch for the build.
//!
//! This file decides which libtorch is used and whether it must be fetched. `libtorch.rs` knows its
//! layout and installs it, `python.rs` downloads its files, `prerequisites.rs` checks the machine.

use crate::libtorch::{self, Flavour, Installation};
use crate::{prerequisites, workspace};
use anyhow::{bail, ensure};
use clap::ValueEnum;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Which libtorch to fetch
    #[arg(long, value_enum, default_value_t)]
    flavour: Choice,

    /// Fetch into this folder instead of .libtorch/, whatever LIBTORCH says
    #[arg(long, hide = true)]
    destination: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Choice {
    /// Keep an existing libtorch; else cuda if an NVIDIA driver is installed, or cpu
    #[default]
    Auto,
    /// Only for CPUs: a download of 0.5 GB
    Cpu,
    /// With the CUDA libraries: a download of 2.5 GB, which works on CPUs too
    Cuda,
}

/// Makes sure that a libtorch of the right version is in place, and prints which one is used.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    prerequisites::compiler()?;
    let own = workspace::root().join(".libtorch");
    let destination = match &options.destination {
        Some(destination) => std::path::absolute(destination)?,
        None => match users_libtorch(env::var_os("LIBTORCH"), &own)? {
            Some(theirs) => {
                stdout::say!("using the libtorch of LIBTORCH={}", theirs.display());
                return Ok(());
            }
            None => own,
        },
    };
    let present = libtorch::installed(&destination);
    match wanted(options.flavour, present, prerequisites::nvidia_driver()) {
        Some(flavour) => libtorch::fetch(&destination, flavour)?,
        None => {
            let Some(Installation { flavour }) = present else { return Ok(()) };
            stdout::say!("libtorch {} ({flavour}) is in place", libtorch::VERSION);
            if flavour == Flavour::Cpu && prerequisites::nvidia_driver() {
                stdout::say!("  for the GPU: cargo xtask setup --flavour cuda");
            }
        }
    }
    Ok(())
}

/// The libtorch that the user has chosen, checked; none if LIBTORCH is unset or names our own.
///
/// `.cargo/config.toml` sets LIBTORCH to `own` for all programs that cargo starts, also for xtask,
/// unless LIBTORCH is set already. So a value that leads to `own` is not the user's choice.
fn users_libtorch(value: Option<OsString>, own: &Path) -> anyhow::Result<Option<PathBuf>> {
    let Some(value) = value else { return Ok(None) };
    let theirs = PathBuf::from(value);
    ensure!(
        theirs.is_absolute(),
        "LIBTORCH is {theirs:?}, which is not an absolute path: set it to the folder that holds \
         libtorch's lib/ and include/, or unset it to have libtorch fetched"
    );
    let same_folder = || Some(theirs.canonicalize().ok()? == own.canonicalize().ok()?);
    if theirs == own || same_folder() == Some(true) {
        return Ok(None);
    }
    let library = theirs.join("lib/libtorch_cpu.so");
    if !library.is_file() {
        bail!(
            "LIBTORCH is {}, but {} is not there: set it to a libtorch {} (the folder that \
             holds lib/ and include/), or unset it to have libtorch fetched",
            theirs.display(),
            library.display(),
            libtorch::VERSION
        );
    }
    Ok(Some(theirs))
}

/// The flavour to fetch; none if the present libtorch is good.
fn wanted(choice: Choice, present: Option<Installation>, driver: bool) -> Option<Flavour> {
    let flavour = match (choice, present) {
        // Without a chosen flavour nothing is replaced: a test run must not download gigabytes.
        (Choice::Auto, Some(_)) => return None,
        (Choice::Auto, None) if driver => Flavour::Cuda,
        (Choice::Auto, None) | (Choice::Cpu, _) => Flavour::Cpu,
        (Choice::Cuda, _) => Flavour::Cuda,
    };
    (present != Some(Installation { flavour })).then_some(flavour)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const CPU: Option<Installation> = Some(Installation { flavour: Flavour::Cpu });
    const CUDA: Option<Installation> = Some(Installation { flavour: Flavour::Cuda });

    #[test]
    fn what_is_present_is_kept_unless_another_flavour_is_asked_for() {
        for (choice, present, driver, expected) in [
            (Choice::Auto, None, false, Some(Flavour::Cpu)),
            (Choice::Auto, None, true, Some(Flavour::Cuda)),
            (Choice::Auto, CPU, true, None),
            (Choice::Auto, CUDA, false, None),
            (Choice::Cpu, CPU, true, None),
            (Choice::Cpu, CUDA, true, Some(Flavour::Cpu)),
            (Choice::Cpu, None, true, Some(Flavour::Cpu)),
            (Choice::Cuda, CPU, false, Some(Flavour::Cuda)),
            (Choice::Cuda, CUDA, false, None),
        ] {
            assert_eq!(
                wanted(choice, present, driver),
                expected,
                "{choice:?} {present:?} {driver}"
            );
        }
    }

    #[test]
    fn cargos_own_value_of_libtorch_is_no_choice_of_the_users() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join(".libtorch");
        fs::create_dir(&own).unwrap();
        let detour = folder.path().join(".libtorch/../.libtorch");
        assert_eq!(users_libtorch(None, &own).unwrap(), None);
        assert_eq!(users_libtorch(Some(own.clone().into()), &own).unwrap(), None);
        assert_eq!(users_libtorch(Some(detour.into()), &own).unwrap(), None);
    }

    #[test]
    fn a_users_libtorch_wins_and_is_checked() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join(".libtorch");
        let theirs = folder.path().join("theirs");
        let chosen = || users_libtorch(Some(theirs.clone().into()), &own);
        assert!(chosen().unwrap_err().to_string().contains("libtorch_cpu.so is not there"));
        fs::create_dir_all(theirs.join("lib")).unwrap();
        fs::write(theirs.join("lib/libtorch_cpu.so"), "library").unwrap();
        assert_eq!(chosen().unwrap(), Some(theirs.clone()));
        let relative = users_libtorch(Some("theirs".into()), &own).unwrap_err();
        assert!(relative.to_string().contains("absolute"));
    }
}
