//! `cargo xtask kernels`: compiles the kernels for GPUs, and checks the compiled code.
//!
//! `kernels/compile.py` calls NVRTC; `kernels/reading.rs` reads the result. The build script of the crate
//! `vae` embeds the folder of compiled kernels.

mod reading;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail, ensure};

use crate::{child, staging, test_tools::NVRTC, workspace};

/// The folder of the sources, and the folder for the compiled kernels.
const SOURCES: &str = "crates/vae/src/cuda";
const COMPILED: &str = "crates/vae/kernels";

/// The script that calls the compiler.
const SCRIPT: &str = include_str!("kernels/compile.py");

/// The kinds of GPUs, by compute capability times ten: Ampere (two), Ada, Hopper, Blackwell (two).
const CUBINS: [u32; 6] = [80, 86, 89, 90, 100, 120];
const PTX: u32 = 80;

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Also check that every instruction rounds as on a CPU, and that registers suffice
    #[arg(long)]
    check: bool,
}

/// Compiles the kernels, unless this was done for these sources. Returns the exit status.
pub(crate) fn run(options: &Options) -> anyhow::Result<u8> {
    NVRTC.fetch()?;
    let (sources, compiled) = (workspace::root().join(SOURCES), workspace::root().join(COMPILED));
    let hash = lockstep_build::sources_hash(&sources)
        .with_context(|| format!("cannot read {}", sources.display()))?;
    let folder = compiled.join(hash);
    staging::put_in_place(
        &folder,
        || files(&folder).all(|file| file.is_file()),
        |scratch| {
            let staged = scratch.folder("compiled")?;
            stdout::say!("compiling {SOURCES} for {} kinds of GPUs", CUBINS.len());
            compile(&sources, &staged, &CUBINS)?;
            Ok(staged)
        },
    )?;
    stdout::say!("{}: the next build embeds the kernels", folder.display());
    if !options.check {
        return Ok(child::SUCCESS);
    }
    let mut breaches = check(&folder)?;
    if breaches.is_empty() {
        ensure!(
            !reading::roundings(&spoiled(&sources)?).is_empty(),
            "the check of the kernels is broken: it does not find an approximate square root"
        );
        stdout::say!("{SOURCES}: every operation rounds as on a CPU, and registers suffice");
        return Ok(child::SUCCESS);
    }
    breaches.sort();
    breaches.iter().for_each(|breach| stdout::say!("{breach}"));
    Ok(1)
}

fn files(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let cubins = CUBINS.iter().map(|capability| folder.join(format!("{capability}.cubin")));
    cubins.chain([folder.join(format!("{PTX}.ptx"))])
}

/// Compiles the sources to PTX, and to machine code for these compute capabilities.
fn compile(sources: &Path, out: &Path, cubins: &[u32]) -> anyhow::Result<()> {
    let mut python = Command::new("python3");
    python.args(["-c", SCRIPT]).arg(NVRTC.site().join("nvidia/cu13/lib")).arg(sources).arg(out);
    python.arg(PTX.to_string()).args(cubins.iter().map(u32::to_string));
    let status = python.status().context("cannot start python3")?;
    ensure!(status.success(), "the kernels do not compile: see above");
    Ok(())
}

/// The faults in the compiled kernels.
fn check(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut breaches = Vec::new();
    for file in files(folder) {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let found = if name.ends_with(".ptx") {
            let ptx = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            reading::roundings(&String::from_utf8_lossy(&ptx))
        } else {
            reading::resources(&usage(&file)?)
        };
        breaches.extend(found.into_iter().map(|breach| format!("{name}: {breach}")));
    }
    Ok(breaches)
}

/// Registers and memory of each kernel, as `cuobjdump` prints them.
fn usage(cubin: &Path) -> anyhow::Result<String> {
    let program = NVRTC.site().join("nvidia/cu13/bin/cuobjdump");
    let output = Command::new(&program)
        .arg("-res-usage")
        .arg(cubin)
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    if !output.status.success() {
        bail!("{} cannot be read: {}", cubin.display(), text[1].trim());
    }
    Ok(text.concat())
}

/// The PTX of sources with a mistake.
fn spoiled(sources: &Path) -> anyhow::Result<String> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    for file in staging::entries(sources)? {
        let Some(name) = file.file_name().filter(|_| file.is_file()) else { continue };
        let text = fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?;
        let text = text.replace("sqrtf(v)", "(v * rsqrtf(v))");
        fs::write(folder.path().join(name), text).context("cannot write a copy")?;
    }
    compile(folder.path(), folder.path(), &[])?;
    let ptx = folder.path().join(format!("{PTX}.ptx"));
    Ok(String::from_utf8_lossy(&fs::read(&ptx).context("there is no PTX")?).into_owned())
}
