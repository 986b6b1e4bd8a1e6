//! The unpacked archive and the machine: programs, data, PyTorch, and the time that is left.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::pack::{DATA, EXPECTED, PEERS, PROGRAMS};
use crate::bench::process::{self, Process};

/// How long Python may take to load PyTorch.
const LOAD_BOUND: Duration = Duration::from_secs(90);

/// Prints PyTorch's folder, its version, and the device on which it computes here.
const ASK_TORCH: &str = "import torch\n\
                         print(torch.__path__[0])\n\
                         print(torch.__version__)\n\
                         print('cuda' if torch.cuda.is_available() else 'cpu')";

/// The sizes and bounds of all stages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    /// Whether this is a rehearsal, on an emulated GPU.
    pub(super) is_rehearsal: bool,
    /// The factor by which bounds are longer.
    pub(super) bound_factor: u32,
    /// Whether the epoch of the default flags is trained.
    pub(super) whole_epoch: bool,
    /// Flags and epochs of the runs whose members are killed or frozen.
    pub(super) members: &'static str,
    pub(super) members_epochs: u32,
    /// Flags of the runs whose speed is measured, without batch size and epochs.
    pub(super) speed: &'static str,
    pub(super) batches: [u32; 3],
    pub(super) rounds: u32,
    /// How long each measurement should take.
    pub(super) seconds: f64,
    /// Arguments of `gpu_times` after the batch size.
    pub(super) times: [&'static str; 3],
}

pub(super) const FULL: Scale = Scale {
    is_rehearsal: false,
    bound_factor: 1,
    whole_epoch: true,
    members: "--shards 4",
    members_epochs: 24,
    speed: "",
    batches: [64, 256, 4096],
    rounds: 3,
    seconds: 2.0,
    times: ["400", "400", "20"],
};

pub(super) const REHEARSAL: Scale = Scale {
    is_rehearsal: true,
    // Other tests run on the machine at the same time.
    bound_factor: 10,
    whole_epoch: false,
    members: "--seed 7 --shards 4 --test-images 64 --train-images 640 --batch-size 16 --hidden-dim 48 \
              --latent-dim 5",
    members_epochs: 8,
    speed: "--test-images 64 --train-images 640 --hidden-dim 24 --latent-dim 3",
    batches: [8, 16, 32],
    rounds: 1,
    seconds: 0.05,
    times: ["3", "24", "3"],
};

/// The flags of a run, and its known digest.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) flags: String,
    pub(super) digest: String,
}

/// The PyTorch of this machine's Python.
#[derive(Clone, Debug)]
pub(super) struct Torch {
    libraries: Vec<PathBuf>,
    pub(super) version: String,
    pub(super) device: String,
}

#[derive(Debug)]
pub(super) struct Scene {
    folder: PathBuf,
    pub(super) scale: Scale,
    pub(super) expected: Vec<Expected>,
    /// PyTorch, or the reason why there is none.
    pub(super) torch: Result<Torch, String>,
    /// The folders in which programs look for libraries.
    search: OsString,
    deadline: Instant,
}

impl Scene {
    /// Reads the archive unpacked to `folder`, and finds PyTorch. Programs look for libraries in
    /// `first` before all other folders.
    pub(super) fn new(
        folder: PathBuf,
        first: Option<&Path>,
        scale: Scale,
        time: Duration,
    ) -> anyhow::Result<Self> {
        let deadline = Instant::now() + time;
        let expected = expected(&folder.join(EXPECTED))?;
        let torch = torch(LOAD_BOUND * scale.bound_factor).map_err(|error| format!("{error:#}"));
        let own = torch.as_ref().map(|torch| torch.libraries.clone()).unwrap_or_default();
        let inherited = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let places = first.map(Path::to_owned).into_iter().chain(own);
        let search = env::join_paths(places.chain(env::split_paths(&inherited)))
            .context("a folder of libraries has a colon in its name")?;
        Ok(Self { folder, scale, expected, torch, search, deadline })
    }

    /// A program of the archive.
    pub(super) fn program(&self, name: &str) -> Command {
        let mut command = process::command(&self.program_path(name));
        command.env("LD_LIBRARY_PATH", &self.search);
        command
    }

    pub(super) fn program_path(&self, name: &str) -> PathBuf {
        self.folder.join(PROGRAMS).join(name)
    }

    pub(super) fn search(&self) -> &OsString {
        &self.search
    }

    pub(super) fn data(&self) -> PathBuf {
        self.folder.join(DATA)
    }

    pub(super) fn peers(&self) -> PathBuf {
        self.folder.join(PEERS)
    }

    /// The bound, scaled by [`Scale::bound_factor`], or the time that is left if this is less. An error
    /// if no time is left.
    pub(super) fn bound(&self, bound: Duration) -> anyhow::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "no time is left");
        Ok(bound.saturating_mul(self.scale.bound_factor).min(left))
    }
}

fn expected(path: &Path) -> anyhow::Result<Vec<Expected>> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("{} cannot be read: unpack the archive", path.display()))?;
    let all: Vec<Value> = serde_json::from_str(&text)?;
    let run = |run: &Value| {
        let text = |name: &str| Some(run[name].as_str()?.to_owned());
        Some(Expected { flags: text("flags")?, digest: text("digest")? })
    };
    let all: Option<Vec<Expected>> = all.iter().map(run).collect();
    all.with_context(|| format!("{} lacks a run or its digest", path.display()))
}

fn torch(bound: Duration) -> anyhow::Result<Torch> {
    let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
    let mut command = process::command(Path::new("python3"));
    command.args(["-c", ASK_TORCH]);
    let mut python = [Process::start("python3", &mut command, folder.path())?];
    process::wait(&mut python, bound, |_| {})?;
    let output = python[0].output();
    let lines: Vec<&str> = output.lines().collect();
    let [.., path, version, device] = lines[..] else { anyhow::bail!("Python printed nothing") };
    // The folders of libtorch, of NCCL, and of the CUDA runtime.
    let folders = ["lib", "../nvidia/nccl/lib", "../nvidia/cu13/lib"];
    let folders = folders.map(|folder| Path::new(path).join(folder));
    let libraries = folders.into_iter().filter(|folder| folder.is_dir()).collect();
    Ok(Torch { libraries, version: version.to_owned(), device: device.to_owned() })
}
