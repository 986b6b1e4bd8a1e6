//! A Python wheel with the programs. libtorch is not in it: the wheel depends on PyTorch's wheel, which has
//! libtorch. A wheel is a zip file with a list of its files; the Python packaging guide defines the format ("Binary
//! distribution format").
//!
//! pip puts the programs beside PyTorch, and scripts that start them into the environment's `bin`
//! (`dist/lockstep_vae.py`). The wheel's bytes depend only on its files.

use super::elf;
use super::licences;
use crate::{libtorch, staging, workspace};
use anyhow::{Context, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

/// The folder in which programs of a wheel look for libtorch: they are in `lockstep_vae/bin`, beside `torch`.
pub(super) const BESIDE_TORCH: &str = "$ORIGIN/../../torch/lib";

/// The name of the Python package; the name of the project has a dash.
const PACKAGE: &str = "lockstep_vae";

/// The second number of the glibc that PyTorch's wheel needs.
const GLIBC_OF_TORCH: u32 = 28;

/// The source of the Python package, whose functions start the programs.
const LAUNCHER: &str = include_str!("lockstep_vae.py");

/// The text of the package's page.
const DESCRIPTION: &str = include_str!("wheel.md");

/// The folders to pack: programs, man pages with completions, and licences.
pub(super) struct Contents {
    pub(super) bin: PathBuf,
    pub(super) share: PathBuf,
    pub(super) licences: PathBuf,
}

/// Writes the wheel into a folder.
pub(super) fn write(contents: &Contents, folder: &Path) -> anyhow::Result<()> {
    let programs: Vec<PathBuf> =
        staging::entries(&contents.bin)?.into_iter().filter(|path| path.is_file()).collect();
    let needed = programs.iter().map(|program| elf::glibc(program));
    let needed = needed.collect::<anyhow::Result<Vec<_>>>()?.into_iter().max().unwrap_or_default();
    let tag = format!("py3-none-manylinux_2_{}_x86_64", needed.max(GLIBC_OF_TORCH));
    let name = format!("{PACKAGE}-{}", env!("CARGO_PKG_VERSION"));
    let path = folder.join(format!("{name}-{tag}.whl"));
    let mut wheel = Wheel::create(&path)?;
    wheel.add(&format!("{PACKAGE}/__init__.py"), LAUNCHER.as_bytes(), false)?;
    for program in &programs {
        wheel.add_file(&format!("{PACKAGE}/bin"), program)?;
    }
    let data = format!("{name}.data/data/share");
    for page in staging::entries(&contents.share.join("man/man1"))? {
        wheel.add_file(&format!("{data}/man/man1"), &page)?;
    }
    for script in staging::entries(&contents.share.join("completions"))? {
        wheel.add_completions(&data, &script)?;
    }
    let about = format!("{name}.dist-info");
    let licences = format!("{about}/licenses");
    wheel.add_file(&licences, &workspace::root().join(".github/LICENSE"))?;
    wheel.add_file(&licences, &contents.licences.join(licences::PACKAGES))?;
    let text = format!(
        "Wheel-Version: 1.0\nGenerator: lockstep-xtask\nRoot-Is-Purelib: false\nTag: {tag}\n"
    );
    wheel.add(&format!("{about}/WHEEL"), text.as_bytes(), false)?;
    wheel.add(&format!("{about}/METADATA"), metadata().as_bytes(), false)?;
    wheel.add(&format!("{about}/entry_points.txt"), entry_points(&programs).as_bytes(), false)?;
    wheel.finish(&format!("{about}/RECORD"))
}

fn metadata() -> String {
    format!(
        "Metadata-Version: 2.1\nName: {}\nVersion: {}\nSummary: Trains variational autoencoders, data-parallel: the same \
         bits with any number of workers\nLicense: Apache-2.0\nLicense-File: LICENSE\nLicense-File: {}\n\
         Requires-Python: >=3.10\nRequires-Dist: torch=={}\nDescription-Content-Type: text/markdown\n\n{DESCRIPTION}",
        PACKAGE.replace('_', "-"),
        env!("CARGO_PKG_VERSION"),
        licences::PACKAGES,
        libtorch::VERSION,
    )
}

/// The entry points: pip makes a script for each program that people start.
fn entry_points(programs: &[PathBuf]) -> String {
    let started = programs.iter().filter(|program| !program.ends_with(super::INTERNAL));
    let names = started.filter_map(|program| program.file_name()?.to_str());
    let lines = names.map(|name| format!("{name} = {PACKAGE}:{}\n", name.replace('-', "_")));
    format!("[console_scripts]\n{}", lines.collect::<String>())
}

/// A wheel that is being written.
struct Wheel {
    zip: ZipWriter<File>,
    /// A line for each file.
    record: String,
}

impl Wheel {
    fn create(path: &Path) -> anyhow::Result<Self> {
        stdout::say!("packing {}", path.display());
        let file =
            File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { zip: ZipWriter::new(file), record: String::new() })
    }

    fn add_file(&mut self, folder: &str, file: &Path) -> anyhow::Result<()> {
        let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.file_name().unwrap_or_default().display();
        let is_program = fs::metadata(file)?.permissions().mode() & 0o100 != 0;
        self.add(&format!("{folder}/{name}"), &bytes, is_program)
    }

    /// Adds a script with completions to the folder in which its shell looks for it.
    fn add_completions(&mut self, share: &str, script: &Path) -> anyhow::Result<()> {
        let kind = script.extension().and_then(|kind| kind.to_str());
        let folder = match kind {
            Some("bash") => "bash-completion/completions",
            Some("fish") => "fish/vendor_completions.d",
            _ => "zsh/site-functions",
        };
        let bytes =
            fs::read(script).with_context(|| format!("cannot read {}", script.display()))?;
        // bash looks for a file with the name of the program.
        let name = if kind == Some("bash") { script.file_stem() } else { script.file_name() };
        self.add(&format!("{share}/{folder}/{}", name.unwrap_or_default().display()), &bytes, false)
    }

    fn add(&mut self, name: &str, bytes: &[u8], is_program: bool) -> anyhow::Result<()> {
        let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(bytes));
        let _infallible = writeln!(self.record, "{name},sha256={digest},{}", bytes.len());
        self.write(name, bytes, is_program)
    }

    fn write(&mut self, name: &str, bytes: &[u8], is_program: bool) -> anyhow::Result<()> {
        ensure!(!name.contains([',', '"']), "{name} cannot be in the list of a wheel");
        // The default is the first time that a zip file can contain.
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .last_modified_time(DateTime::default())
            .unix_permissions(if is_program { 0o755 } else { 0o644 });
        let written = self.zip.start_file(name, options).map_err(std::io::Error::other);
        written
            .and_then(|()| self.zip.write_all(bytes))
            .with_context(|| format!("cannot pack {name}"))
    }

    /// Writes the list of files, which contains itself without a digest.
    fn finish(mut self, name: &str) -> anyhow::Result<()> {
        let record = format!("{}{name},,\n", self.record);
        self.write(name, record.as_bytes(), false)?;
        self.zip.finish().context("cannot end the wheel")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::process::Command;

    fn contents(folder: &Path) -> Contents {
        let put = |path: &str, text: &str, mode: u32| {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        put("bin/vae", "GLIBC_2.17 GLIBC_2.39", 0o700);
        put("share/man/man1/vae.1", "page", 0o600);
        put("share/completions/vae.bash", "words", 0o600);
        put("share/completions/_vae", "words", 0o600);
        put("licenses/rust-packages.txt", "licences", 0o600);
        let below = |name: &str| folder.join(name);
        Contents { bin: below("bin"), share: below("share"), licences: below("licenses") }
    }

    #[test]
    fn the_same_files_give_the_same_wheel_and_pip_knows_its_name() {
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let name = format!("lockstep_vae-{}", env!("CARGO_PKG_VERSION"));
        let file = format!("{name}-py3-none-manylinux_2_39_x86_64.whl");
        let bytes = folders.each_ref().map(|folder| {
            write(&contents(folder.path()), folder.path()).unwrap();
            fs::read(folder.path().join(&file)).unwrap()
        });
        assert_eq!(bytes[0], bytes[1]);

        let wheel = File::open(folders[0].path().join(&file)).unwrap();
        let mut wheel = zip::ZipArchive::new(wheel).unwrap();
        let program = wheel.by_name("lockstep_vae/bin/vae").unwrap();
        assert_eq!(program.unix_mode().unwrap() & 0o777, 0o755);
        drop(program);
        let mut text = |path: &str| {
            let mut text = String::new();
            wheel.by_name(path).unwrap().read_to_string(&mut text).unwrap();
            text
        };
        text(&format!("{name}.data/data/share/bash-completion/completions/vae"));
        text(&format!("{name}.data/data/share/zsh/site-functions/_vae"));
        let record = text(&format!("{name}.dist-info/RECORD"));
        // Computed with `sha256sum` and Python's `urlsafe_b64encode`.
        let page = "share/man/man1/vae.1,sha256=NmAxWprz3yVdjxmrB35Hl4IrQUiKDioEvGr3EhPCMnQ,4\n";
        assert!(record.contains(page), "{record}");
        let points = text(&format!("{name}.dist-info/entry_points.txt"));
        assert_eq!(points, "[console_scripts]\nvae = lockstep_vae:vae\n");
    }

    #[test]
    fn the_launcher_has_a_function_for_each_program() {
        let call = "import sys; sys.path.insert(0, sys.argv[1]); import lockstep_vae as package\n\
                    for name in sys.argv[2:]: assert callable(getattr(package, name))";
        let started = super::super::PROGRAMS.iter().filter(|name| **name != super::super::INTERNAL);
        let names = started.map(|name| name.replace('-', "_"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/dist");
        let mut python = Command::new("python3");
        python.args(["-B", "-c", call]).arg(source).args(names);
        assert!(python.status().unwrap().success());
    }
}
