//! Measures PyTorch: runs `ddp.py`, `compiled.py` and `gloo.py`, one process per rank, as torchrun
//! would start them.

use super::process::{self, Process};
use super::procfs;
use super::subject::{Precision, System, Training};
use crate::workspace;
use anyhow::{Context, ensure};
use serde_json::Value;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Seconds of a measurement.
pub(super) const SECONDS: f64 = 3.0;
/// How long a whole run may take, with compilation.
pub(super) const RUN_BOUND: Duration = Duration::from_mins(10);

/// With these, malloc keeps the memory of large tensors for the next step instead of returning it
/// to the kernel. The first value is the largest that glibc accepts.
const MALLOC: [(&str, &str); 3] = [
    ("MALLOC_MMAP_THRESHOLD_", "33554432"),
    ("MALLOC_TRIM_THRESHOLD_", "4294967296"),
    ("MALLOC_TOP_PAD_", "67108864"),
];

/// The paths of PyTorch, of the data, and of the files that tune PyTorch.
#[derive(Debug)]
pub(super) struct PyTorch {
    /// The folder for PYTHONPATH.
    pub(super) site: PathBuf,
    pub(super) data_dir: PathBuf,
    /// The library that unlocks MKL's AVX-512 code, or the reason why there is none.
    pub(super) unlocking: Result<PathBuf, String>,
    /// The folder in which torch.compile keeps compiled code from one round to the next.
    pub(super) compiled: PathBuf,
}

/// The figures of a training run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    pub(super) images_per_second: f64,
    pub(super) seconds: f64,
    pub(super) worker_peak_bytes: u64,
}

/// Compiles the library that unlocks MKL's AVX-512 code, into `folder`.
pub(super) fn compile_unlocking(folder: &Path) -> anyhow::Result<PathBuf> {
    let library = folder.join("libintel_cpu.so");
    let source = source("intel_cpu.c");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    // CC may carry a wrapper and flags.
    let mut words = compiler.split_whitespace();
    let output = Command::new(words.next().unwrap_or("cc"))
        .args(words)
        .args(["-shared", "-fPIC", "-O2", "-o"])
        .args([&library, &source])
        .output()
        .with_context(|| format!("cannot start the C compiler {compiler}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cannot compile {}: {}", source.display(), complaint.trim());
    Ok(library)
}

impl PyTorch {
    pub(super) fn train(&self, training: Training) -> anyhow::Result<Shown> {
        let script = match training.system {
            System::Compiled | System::CompiledDdp => "compiled.py",
            _ => "ddp.py",
        };
        let mut arguments = vec![
            "--data-dir".to_owned(),
            self.data_dir.display().to_string(),
            format!("--batch-size={}", training.batch_size),
            format!("--threads={}", training.threads),
            format!("--seconds={SECONDS}"),
        ];
        if training.precision == Precision::Bf16 {
            arguments.push("--precision=bf16".to_owned());
        }
        if training.system == System::Compiled {
            arguments.push("--alone".to_owned());
        }
        let compiled = self.compiled.display().to_string();
        let mut environment = vec![
            ("OMP_NUM_THREADS", training.threads.to_string()),
            ("TORCHINDUCTOR_CACHE_DIR", compiled),
        ];
        if training.system != System::PyTorch {
            let library = self.unlocking.as_ref().map_err(|why| anyhow::anyhow!("{why}"))?;
            environment.push(("LD_PRELOAD", library.display().to_string()));
            environment.extend(MALLOC.map(|(name, value)| (name, value.to_owned())));
        }
        let (output, worker_peak_bytes) =
            self.run(script, &arguments, &environment, training.workers)?;
        let (images_per_second, seconds) =
            speed_in(&output).with_context(|| format!("{script} printed no speed"))?;
        Ok(Shown { images_per_second, seconds, worker_peak_bytes })
    }

    /// Runs `gloo.py`; returns lines of JSON, one for each length in floats.
    pub(super) fn all_reduce(&self, members: u32, lengths: &[u64]) -> anyhow::Result<String> {
        let mut arguments = vec!["--lengths".to_owned()];
        arguments.extend(lengths.iter().map(ToString::to_string));
        Ok(self.run("gloo.py", &arguments, &[("OMP_NUM_THREADS", "1".to_owned())], members)?.0)
    }

    /// Runs a script on all ranks; returns rank 0's output, and the largest peak of memory.
    fn run(
        &self,
        script: &str,
        arguments: &[String],
        environment: &[(&str, String)],
        world: u32,
    ) -> anyhow::Result<(String, u64)> {
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        let port = free_port()?.to_string();
        let mut ranks = Vec::new();
        for rank in 0..world {
            // -s: without the user's own packages. -B: no compiled files beside the scripts.
            let mut command = process::command(Path::new("python3"));
            command.args(["-s", "-B"]).arg(source(script)).args(arguments);
            command.env("PYTHONPATH", &self.site).env("GLOO_SOCKET_IFNAME", "lo");
            command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", &port);
            command.env("RANK", rank.to_string()).env("WORLD_SIZE", world.to_string());
            command.envs(environment.iter().map(|(name, value)| (name, value)));
            let name = format!("rank-{rank}");
            ranks.push(Process::start(&name, &mut command, folder.path())?);
        }
        let mut peak = 0;
        process::wait(&mut ranks, RUN_BOUND, |ranks| {
            let peaks = ranks.iter().filter_map(|rank| procfs::memory(rank.id()));
            peak = peaks.map(|memory| memory.peak).fold(peak, u64::max);
        })?;
        Ok((ranks.first().map(Process::output).unwrap_or_default(), peak))
    }
}

/// A file beside this one.
pub(super) fn source(name: &str) -> PathBuf {
    workspace::root().join("crates/xtask/src/bench").join(name)
}

/// A port on which no process listens now.
fn free_port() -> anyhow::Result<u16> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot find a free port")?;
    Ok(listener.local_addr()?.port())
}

/// Images a second, and the measured seconds.
pub(crate) fn speed_in(output: &str) -> Option<(f64, f64)> {
    let found: Value =
        output.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok())?;
    Some((found["images_per_second"].as_f64()?, found["seconds"].as_f64()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_speed_is_in_the_last_line_of_json() {
        let output = "a warning\n{\"images_per_second\": 12.5, \"seconds\": 4.0, \"loss\": 99.0}\n";
        assert_eq!(speed_in(output), Some((12.5, 4.0)));
        assert_eq!(speed_in("Traceback\n"), None);
    }

    #[test]
    fn the_library_that_unlocks_mkl_compiles() {
        let folder = tempfile::tempdir().unwrap();
        assert!(compile_unlocking(folder.path()).unwrap().is_file());
    }
}
