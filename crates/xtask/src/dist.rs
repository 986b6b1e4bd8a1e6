//! `cargo xtask dist`: a folder that can be packed and taken to another machine.
//!
//! The three programs, libtorch's libraries where the programs look for them, man pages and
//! shell completions, which each program writes itself, the README and the licence.

use crate::staging;
use crate::workspace::{self, Build};
use crate::{child, setup};
use anyhow::{Context, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// What is in the release, by package.
const PACKAGES: [&str; 3] = ["vae-coordinator", "vae-worker", "latent"];
/// The flag with which a program writes its man pages and completions.
const WRITE_MANUAL: &str = "--write-manual";

/// In a program with crash points, the variable that orders them.
const CRASH_POINTS: &[u8] = b"LOCKSTEP_CRASH_POINT";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The folder to make; one that is there is replaced
    #[arg(long, default_value = "target/dist", value_name = "DIR")]
    output: PathBuf,
    /// Leave out libtorch (450 MB): the programs then run on this machine only, or where
    /// LD_LIBRARY_PATH leads to it
    #[arg(long)]
    no_libtorch: bool,
}

/// Sets up, builds and lays out. Returns the exit status of what failed.
pub(crate) fn run(options: &Options) -> anyhow::Result<u8> {
    setup::run(&setup::Options::default())?;
    let selection: Vec<&str> = PACKAGES.iter().flat_map(|package| ["-p", package]).collect();
    let programs = match workspace::build_programs(&[&["--bins"], &selection[..]].concat())? {
        Build::Failed(code) => return Ok(code),
        Build::Done(programs) => programs,
    };
    let output = workspace::root().join(&options.output);
    staging::put_in_place(
        &output,
        || false,
        |scratch| {
            let staged = scratch.folder("dist")?;
            lay_out(&programs, &staged)?;
            if !options.no_libtorch {
                // As cargo has it from .cargo/config.toml, or from the user.
                let libtorch = env::var_os("LIBTORCH").map(PathBuf::from);
                let libtorch = libtorch.unwrap_or_else(|| workspace::root().join(".libtorch"));
                copy_all(&staging::entries(&libtorch.join("lib"))?, &made(&staged, "lib")?)?;
            }
            Ok(staged)
        },
    )?;
    stdout::say!("{}", output.display());
    Ok(child::SUCCESS)
}

fn lay_out(programs: &[PathBuf], folder: &Path) -> anyhow::Result<()> {
    ensure!(programs.len() == PACKAGES.len(), "the build has made {} programs", programs.len());
    programs.iter().try_for_each(|program| refuse_crash_points(program))?;
    copy_all(programs, &made(folder, "bin")?)?;
    let share = made(folder, "share")?;
    for program in programs {
        let status = Command::new(program)
            .arg(WRITE_MANUAL)
            .arg(&share)
            .status()
            .with_context(|| format!("cannot start {}", program.display()))?;
        ensure!(status.success(), "{} has not written its manual", program.display());
    }
    let man = made(&share, "man")?;
    fs::rename(share.join("man1"), man.join("man1")).context("there are no man pages")?;
    let documents = ["README.md", ".github/LICENSE"];
    copy_all(&documents.map(|file| workspace::root().join(file)), folder)
}

/// A program with crash points is for tests alone: people's must not even know the name.
fn refuse_crash_points(program: &Path) -> anyhow::Result<()> {
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let armed = bytes.windows(CRASH_POINTS.len()).any(|window| window == CRASH_POINTS);
    ensure!(!armed, "{} has crash points: it was built for tests", program.display());
    Ok(())
}

fn made(parent: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let folder = parent.join(name);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

fn copy_all(files: &[PathBuf], folder: &Path) -> anyhow::Result<()> {
    for file in files.iter().filter(|file| file.is_file()) {
        let name = file.file_name().unwrap_or_default();
        fs::copy(file, folder.join(name))
            .with_context(|| format!("cannot copy {} to {}", file.display(), folder.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Stands for a program: a script that writes a page and completions.
    fn program(folder: &Path, name: &str) -> PathBuf {
        let script = format!(
            "#!/bin/sh\n[ \"$1\" = {WRITE_MANUAL} ] || exit 1\n\
             mkdir -p \"$2/man1\" \"$2/completions\"\n\
             echo page > \"$2/man1/{name}.1\"\necho words > \"$2/completions/{name}.bash\"\n"
        );
        let path = folder.join(name);
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn programs_pages_and_completions_have_their_places() {
        let folder = tempfile::tempdir().unwrap();
        let programs = ["one", "two", "three"].map(|name| program(folder.path(), name));
        let dist = made(folder.path(), "dist").unwrap();
        lay_out(&programs, &dist).unwrap();
        let in_share = ["share/man/man1/two.1", "share/completions/three.bash"];
        for file in [&["bin/one", "README.md", "LICENSE"], &in_share[..]].concat() {
            assert!(dist.join(file).is_file(), "{file}");
        }
        assert!(lay_out(&programs[..2], &dist).is_err());
        let armed = fs::read(&programs[0]).unwrap();
        fs::write(&programs[0], [&armed, CRASH_POINTS].concat()).unwrap();
        assert!(lay_out(&programs, &dist).unwrap_err().to_string().contains("crash points"));
    }
}
