//! The archive: programs without debug information, the data set, the script for PyTorch, the expected
//! digests.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};
use serde_json::json;

use super::golden::{COMMON, DEFAULT, RUNS};
use crate::{
    bench, child, kernels, setup,
    staging::{self, Scratch},
    workspace::{self, Build},
};

/// The name of the folder in the archive, and of the files and folders in it.
const NAME: &str = "lockstep-gpu";
pub(super) const PROGRAMS: &str = "bin";
pub(super) const DATA: &str = "data";
pub(super) const PEERS: &str = "gpu_peers.py";
pub(super) const EXPECTED: &str = "expected.json";

const README: &str = "\
Lockstep on a GPU: digests, members that die, the time of each kernel, images a second beside PyTorch.
The machine needs an NVIDIA driver for CUDA 13, and python3 with torch 2.11; no network. To start it:

    lockstep-gpu/bin/xtask gpu-acceptance run

It takes less than ten minutes, prints a table, and writes gpu-acceptance.json into the current folder.
`--only digests` runs one stage; `--help` lists the other flags.
";

const PEERS_SCRIPT: &str = include_str!("gpu_peers.py");

/// The programs and packages to build: three programs, and an example that times kernels.
const SELECTION: [&str; 11] = [
    "--bins",
    "-p",
    "vae-coordinator",
    "-p",
    "vae-worker",
    "-p",
    "xtask",
    "-p",
    "vae",
    "--example",
    "gpu_times",
];
const BUILT: [&str; 4] = ["vae-coordinator", "vae-worker", "xtask", "gpu_times"];

const DATA_FILES: [&str; 4] = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
];

/// One epoch with the default flags: the default number of workers is four, so there are four shards.
const DEFAULT_FLAGS: &str = "--epochs 1 --shards 4";

/// A larger archive cannot be transferred to the GPU machines.
const BYTES_MAX: u64 = 40_000_000;

#[derive(Debug, clap::Args)]
pub(super) struct Packing {
    /// The folder for the archive; an existing folder is replaced
    #[arg(long, default_value = "target/gpu-acceptance", value_name = "DIR")]
    output: PathBuf,
    /// Take the programs from this folder and build nothing
    #[arg(long, value_name = "DIR", hide = true)]
    programs: Option<PathBuf>,
}

pub(super) fn run(options: &Packing) -> anyhow::Result<u8> {
    let programs = match &options.programs {
        Some(folder) => BUILT.map(|name| found_in(folder, name)).into(),
        None => match built()? {
            Build::Failed(code) => return Ok(code),
            Build::Done(programs) => programs,
        },
    };
    let output = workspace::root().join(&options.output);
    staging::put_in_place(&output, || false, |scratch| pack(&programs, scratch))?;
    let archive = output.join(format!("{NAME}.tar.gz"));
    stdout::say!("{}: {} bytes", archive.display(), fs::metadata(&archive)?.len());
    stdout::say!(
        "on the machine with the GPU: tar -xzf {NAME}.tar.gz && \
         {NAME}/{PROGRAMS}/xtask gpu-acceptance run"
    );
    Ok(child::SUCCESS)
}

/// Builds the programs, with the compiled kernels inside.
fn built() -> anyhow::Result<Build> {
    setup::run(&setup::Options::default())?;
    kernels::run(&kernels::Options::default())?;
    workspace::build_programs(workspace::RELEASE, &SELECTION, &[])
}

fn found_in(folder: &Path, name: &str) -> PathBuf {
    let example = folder.join("examples").join(name);
    if example.is_file() { example } else { folder.join(name) }
}

fn pack(programs: &[PathBuf], scratch: &Scratch) -> anyhow::Result<PathBuf> {
    lay_out(programs, scratch)?;
    let staged = scratch.folder("staged")?;
    let archive = staged.join(format!("{NAME}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.arg("-czf").arg(&archive).arg("-C").arg(&scratch.path).arg(NAME);
    ensure!(child::run(&mut tar)? == child::SUCCESS, "tar has failed");
    let bytes = fs::metadata(&archive).context("there is no archive")?.len();
    ensure!(
        bytes <= BYTES_MAX,
        "the archive has {bytes} bytes, but at most {BYTES_MAX} are allowed"
    );
    Ok(staged)
}

fn lay_out(programs: &[PathBuf], scratch: &Scratch) -> anyhow::Result<()> {
    let folder = scratch.folder(NAME)?;
    let bin = scratch.folder(&format!("{NAME}/{PROGRAMS}"))?;
    for name in BUILT {
        let program = workspace::named(programs, name)?;
        let mut strip = Command::new("strip");
        strip.arg("-o").arg(bin.join(name)).arg(program);
        ensure!(child::run(&mut strip)? == child::SUCCESS, "strip has failed on {name}");
    }
    let data = scratch.folder(&format!("{NAME}/{DATA}"))?;
    let source = bench::default_data_dir()?;
    for name in DATA_FILES {
        fs::copy(source.join(name), data.join(name)).with_context(|| {
            format!("{name} is not in {}: `cargo xtask train` fetches it", source.display())
        })?;
    }
    fs::write(folder.join("README"), README).context("cannot write the README")?;
    let expected = serde_json::to_string_pretty(&expected())?;
    fs::write(folder.join(EXPECTED), expected).context("cannot write the digests")?;
    fs::write(folder.join(PEERS), PEERS_SCRIPT).context("cannot write the peers' script")
}

/// The runs whose digests are known, the shortest first.
fn expected() -> serde_json::Value {
    let run = |flags: &str, digest: &str| json!({ "flags": flags, "digest": digest });
    let short = RUNS.iter().map(|(flags, digest)| run(&format!("{COMMON} {flags}"), digest));
    short.chain([run(DEFAULT_FLAGS, DEFAULT)]).collect()
}
