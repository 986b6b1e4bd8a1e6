//! `cargo xtask dist`: makes a release. One archive has the programs, libtorch, man pages, completions and licences; a
//! second one has the programs' debug symbols; a file has the checksums. Or makes a Python wheel with the programs.
//!
//! The same commit gives the same bytes, wherever the checkout is: `dist/build.rs` keeps paths out of the programs,
//! `dist/archive.rs` and `dist/wheel.rs` keep times and owners out of the archives, and `dist/check.rs` builds twice
//! and compares. `dist/symbols.rs` separates programs from their symbols, `dist/licences.rs` collects the licences.

mod archive;
mod build;
mod check;
mod elf;
mod licences;
mod symbols;
mod wheel;

use crate::workspace::{self, Build};
use crate::{child, kernels, setup, staging};
use anyhow::{Context, ensure};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use self::build::Source;

/// The packages in the release, and their programs.
const PACKAGES: [&str; 4] = ["vae-coordinator", "vae-worker", INTERNAL, "latent"];
const PROGRAMS: [&str; 4] = ["vae-coordinator", "vae-worker", INTERNAL, "vae"];

/// The program that people do not start themselves: `vae-worker` becomes it. It has no manual.
const INTERNAL: &str = "vae-worker-conv";

/// The flag with which a program writes its man pages and completions.
const WRITE_MANUAL: &str = "--write-manual";

/// The environment variable that a program with crash points reads.
const CRASH_POINTS: &[u8] = b"LOCKSTEP_CRASH_POINT";

/// The folder in which programs of an archive look for libtorch.
const BESIDE_BIN: &str = "$ORIGIN/../lib";

/// The folder of licences, in libtorch's folder and in the archive.
const LICENCES: &str = "licenses";

/// The compression level of zstd. The next level that makes libtorch smaller takes ten minutes instead of two.
const LEVEL: i32 = 15;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The folder to make; an existing folder is replaced
    #[arg(long, default_value = "target/dist", value_name = "DIR")]
    output: PathBuf,
    /// Write the release as a folder, and pack nothing
    #[arg(long, conflicts_with_all = ["wheel", "check"])]
    unpacked: bool,
    /// Make a Python wheel in place of the archive
    ///
    /// `pip install` of the wheel installs the programs. The wheel depends on the wheel of PyTorch, which brings
    /// libtorch.
    #[arg(long)]
    wheel: bool,
    /// Leave out libtorch (450 MB): vae and vae-worker-conv then need LD_LIBRARY_PATH to find it
    #[arg(long, conflicts_with_all = ["wheel", "check"])]
    no_libtorch: bool,
    /// Make the release of the last commit without libtorch twice, from two clones, and compare the bytes
    ///
    /// The clones are at different paths. Two whole builds take long, and need 12 GB of disk.
    #[arg(long)]
    check: bool,
    /// Pack the programs in this folder, and build nothing
    #[arg(long, hide = true, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Compression level of zstd, from 1 to 19
    #[arg(long, hide = true, default_value_t = LEVEL)]
    level: i32,
}

/// Sets up, builds and packs. Returns the exit status of the step that failed, or success.
pub(crate) fn run(options: &Options) -> anyhow::Result<u8> {
    if options.check {
        return check::run(options.wheel);
    }
    let source = Source::of(&workspace::root());
    let programs = match &options.programs {
        Some(folder) => PROGRAMS.map(|name| folder.join(name)).to_vec(),
        None => match build(&source)? {
            Build::Failed(code) => return Ok(code),
            Build::Done(programs) => programs,
        },
    };
    let output = workspace::root().join(&options.output);
    staging::put_in_place(
        &output,
        || false,
        |scratch| {
            let is_given = options.programs.is_some();
            let release = Release { source, programs, is_given, work: scratch.folder("work")? };
            let staged = scratch.folder("dist")?;
            if options.wheel {
                release.wheel(&staged)?;
            } else if options.unpacked {
                release.lay_out(options, &staged)?;
                let symbols = staged.join("bin").join(symbols::FOLDER);
                fs::remove_dir_all(&symbols).context("there are no debug symbols")?;
            } else {
                release.pack(options, &staged)?;
            }
            Ok(staged)
        },
    )?;
    for file in staging::entries(&output)?.iter().filter(|file| file.is_file()) {
        if file.file_name() != Some(OsStr::new(staging::MARK)) {
            stdout::say!("{}", file.display());
        }
    }
    stdout::say!("{}", output.display());
    Ok(child::SUCCESS)
}

fn build(source: &Source) -> anyhow::Result<Build> {
    setup::run(&setup::Options::default())?;
    let code = kernels::run(&kernels::Options::default())?;
    if code != child::SUCCESS {
        return Ok(Build::Failed(code));
    }
    build::programs(source, &PACKAGES)
}

/// The contents of a release, and a folder for intermediate files.
struct Release {
    source: Source,
    programs: Vec<PathBuf>,
    /// Whether the programs come from `--programs`, and may lack line numbers.
    is_given: bool,
    work: PathBuf,
}

impl Release {
    /// The name of the archive, and of the folder in it.
    fn name() -> String {
        format!("lockstep-{}-x86_64-linux", env!("CARGO_PKG_VERSION"))
    }

    /// Writes the archive, the archive of the symbols, and their checksums.
    fn pack(&self, options: &Options, output: &Path) -> anyhow::Result<()> {
        let name = Self::name();
        let (folder, symbols) = (made(&self.work, &name)?, made(&self.work, "symbols")?);
        self.lay_out(options, &folder)?;
        let bin = folder.join("bin");
        let debug = made(&symbols, &format!("{name}/bin"))?.join(symbols::FOLDER);
        fs::rename(bin.join(symbols::FOLDER), debug).context("there are no debug symbols")?;
        for (archive, folder) in [("", &folder), ("-debug", &symbols.join(&name))] {
            let archive = output.join(format!("{name}{archive}.tar.zst"));
            archive::write(folder, &archive, self.source.time, options.level)?;
        }
        archive::write_checksums(output)
    }

    fn wheel(&self, output: &Path) -> anyhow::Result<()> {
        let bin = self.stripped(&self.work, wheel::BESIDE_TORCH)?;
        let share = self.manual(&self.work)?;
        let licences = made(&self.work, LICENCES)?;
        licences::write(&licences, PACKAGES)?;
        wheel::write(&wheel::Contents { bin, share, licences }, output)?;
        archive::write_checksums(output)
    }

    /// Writes the release as a folder, with the symbols in a folder beside the programs.
    fn lay_out(&self, options: &Options, folder: &Path) -> anyhow::Result<()> {
        self.stripped(folder, BESIDE_BIN)?;
        self.manual(folder)?;
        let licences = made(folder, LICENCES)?;
        licences::write(&licences, PACKAGES)?;
        let root = workspace::root();
        copy(&root.join("crates/xtask/src/dist/readme.md"), &folder.join("README.md"))?;
        copy(&root.join(".github/LICENSE"), &folder.join("LICENSE"))?;
        if !options.no_libtorch {
            let libtorch = libtorch();
            copy_all(&libtorch.join("lib"), &folder.join("lib"))?;
            let texts = libtorch.join(LICENCES);
            ensure!(
                texts.is_dir(),
                "{} does not exist, and a release must not contain libtorch without its licences: remove {} so that \
                 it is fetched again, or leave libtorch out with --no-libtorch",
                texts.display(),
                libtorch.display()
            );
            for package in staging::entries(&texts)? {
                copy_all(&package, &licences.join(package.file_name().unwrap_or_default()))?;
            }
        }
        Ok(())
    }

    /// Writes the programs without their symbols into `bin` of a folder, and the symbols below `bin`.
    fn stripped(&self, folder: &Path, libraries: &str) -> anyhow::Result<PathBuf> {
        ensure!(
            self.programs.len() == PACKAGES.len(),
            "there are {} programs",
            self.programs.len()
        );
        let bin = made(folder, "bin")?;
        for program in &self.programs {
            refuse_crash_points(program)?;
            let name = program.file_name().unwrap_or_default();
            let copied = made(&self.work, "programs")?.join(name);
            copy(program, &copied)?;
            elf::set_library_path(&copied, libraries)?;
            let has_lines = symbols::part(&copied, &bin.join(name))?;
            ensure!(has_lines || self.is_given, "{} has no line numbers", program.display());
        }
        Ok(bin)
    }

    /// Lets each program write its man pages and completions.
    fn manual(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        let share = made(folder, "share")?;
        for program in self.programs.iter().filter(|program| !program.ends_with(INTERNAL)) {
            let status = Command::new(program)
                .arg(WRITE_MANUAL)
                .arg(&share)
                // A released program looks for libtorch only where the archive has it.
                .env("LD_LIBRARY_PATH", libtorch().join("lib"))
                .status()
                .with_context(|| format!("cannot start {}", program.display()))?;
            ensure!(status.success(), "{} has not written its manual", program.display());
        }
        let man = made(&share, "man")?;
        fs::rename(share.join("man1"), man.join("man1")).context("there are no man pages")?;
        Ok(share)
    }
}

/// The libtorch that the programs are built with; .cargo/config.toml or the user sets the variable.
fn libtorch() -> PathBuf {
    let chosen = env::var_os("LIBTORCH").map(PathBuf::from);
    chosen.unwrap_or_else(|| workspace::root().join(".libtorch"))
}

/// Refuses a program with crash points: such programs are for tests only. A released program must not
/// even contain the variable's name.
fn refuse_crash_points(program: &Path) -> anyhow::Result<()> {
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let armed = memchr::memmem::find(&bytes, CRASH_POINTS);
    ensure!(armed.is_none(), "{} has crash points: it was built for tests", program.display());
    Ok(())
}

fn made(parent: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let folder = parent.join(name);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::copy(from, to)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// Copies the files of a folder.
fn copy_all(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    let entries = staging::entries(from)?;
    let files = entries.iter().filter(|file| file.is_file());
    files
        .into_iter()
        .try_for_each(|file| copy(file, &to.join(file.file_name().unwrap_or_default())))
}

/// Runs a program, and returns its standard output; a failure is an error with its standard error.
fn ask(command: &mut Command, purpose: &str) -> anyhow::Result<String> {
    let program = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("{purpose}: cannot start {program}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{purpose}: {program} failed: {}", complaint.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_crash_points_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fs::write(&program, b"a program").unwrap();
        refuse_crash_points(&program).unwrap();
        fs::write(&program, [b"a program", CRASH_POINTS].concat()).unwrap();
        let error = refuse_crash_points(&program).unwrap_err().to_string();
        assert!(error.contains("crash points"), "{error}");
    }
}
