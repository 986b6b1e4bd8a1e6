//! Python packages, mainly the wheels of PyTorch: downloaded or installed with pip, unpacked with
//! Python's `zipfile`.
//!
//! Only set-up, benchmarks, tests and the check of deploy/ use Python. This file does not know which
//! members of a wheel are wanted, nor where they are installed.

use anyhow::{Context, bail, ensure};
use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::interrupt;

/// The wheels' platform tags. All are listed, because pip does not expand a newer tag to the older
/// tags that it includes.
const PLATFORMS: [&str; 6] = [
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_25_x86_64",
    "manylinux_2_18_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
];

/// Extracts the members of the zip file `argv[1]` that match any of the patterns `argv[3..]` into the
/// folder `argv[2]`.
const UNPACK: &str = "\
import sys, zipfile, fnmatch
archive, folder, *patterns = sys.argv[1:]
with zipfile.ZipFile(archive) as wheel:
    for member in wheel.namelist():
        if any(fnmatch.fnmatchcase(member, pattern) for pattern in patterns):
            wheel.extract(member, folder)
";

/// How many lines of a failed child's complaint are kept to find the cause; all lines were shown.
const COMPLAINT_LINES: usize = 400;

/// How long pip waits for bytes before it complains and tries again.
const SILENCE_SECONDS: &str = "15";

/// Time between two lines about the progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dependencies {
    Follow,
    Leave,
}

/// Downloads wheels with pip into `folder`.
///
/// The version of CPython is fixed, so that any python3 fetches the same files. If the index cannot
/// be reached, the error names the alternative `instead`.
pub(crate) fn download(
    requirements: &[String],
    dependencies: Dependencies,
    folder: &Path,
    instead: &str,
) -> anyhow::Result<()> {
    let mut pip = pip(Path::new("python3"), "download", dependencies, folder)?;
    pip.args(["--python-version", "3.12", "--implementation", "cp"]);
    pip.args(PLATFORMS.iter().flat_map(|tag| ["--platform", tag]));
    pip.arg("--dest").arg(folder).args(requirements);
    let _progress = Progress::watch(folder);
    run(&mut pip, "cannot download the wheels of libtorch with pip", instead)
}

/// Installs packages with pip into `folder`, for the python3 of this machine with the folder in
/// PYTHONPATH; nothing else on the machine changes.
pub(crate) fn install(
    requirements: &[String],
    dependencies: Dependencies,
    folder: &Path,
    instead: &str,
) -> anyhow::Result<()> {
    install_for(Path::new("python3"), requirements, dependencies, folder, instead)
}

/// [`install`] for another Python of this machine.
pub(crate) fn install_for(
    python: &Path,
    requirements: &[String],
    dependencies: Dependencies,
    folder: &Path,
    instead: &str,
) -> anyhow::Result<()> {
    let mut pip = pip(python, "install", dependencies, folder)?;
    pip.args(["--no-compile", "--root-user-action=ignore"]);
    pip.arg("--target").arg(folder).args(requirements);
    let first = requirements.first().map_or("", |requirement| requirement);
    let _progress = Progress::watch(folder);
    run(&mut pip, &format!("cannot install {first} with pip"), instead)
}

/// Major and minor version of python3.
pub(crate) fn version() -> anyhow::Result<String> {
    let script = "import sys; print('%d.%d' % sys.version_info[:2])";
    let output =
        Command::new("python3").args(["-c", script]).output().context("cannot start python3")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn pip(
    python: &Path,
    command: &str,
    dependencies: Dependencies,
    folder: &Path,
) -> anyhow::Result<Command> {
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", command, "--no-input", "--disable-pip-version-check"]);
    pip.arg("--only-binary=:all:");
    // If a proxy never answers, pip complains after the first timeout and gives up after the last
    // retry.
    pip.args(["--timeout", SILENCE_SECONDS, "--retries", "2"]);
    if dependencies == Dependencies::Leave {
        pip.arg("--no-deps");
    }
    // pip downloads into a temporary folder first. This one is on the disk with the checked space,
    // and is removed with ours if pip is killed.
    let temporary = temporary(folder);
    fs::create_dir_all(&temporary)
        .with_context(|| format!("cannot create {}", temporary.display()))?;
    pip.env("TMPDIR", temporary);
    Ok(pip)
}

/// The folder for pip's downloads, before pip moves them into `folder`.
fn temporary(folder: &Path) -> PathBuf {
    folder.with_file_name("temporary")
}

/// Prints the progress of a download from time to time. Without a terminal only, because pip draws no
/// bar then. Ends when it is dropped.
struct Progress {
    /// None if pip shows progress itself.
    running: Option<(mpsc::Sender<()>, thread::JoinHandle<()>)>,
}

impl Progress {
    fn watch(folder: &Path) -> Self {
        stdout::say!("  by pip, {}", way(|name| env::var(name).ok()));
        if io::stdout().is_terminal() {
            return Self { running: None };
        }
        let folders = [folder.to_owned(), temporary(folder)];
        Self::start(
            PROGRESS_INTERVAL,
            move || folders.iter().map(|f| bytes_in(f)).sum(),
            |line| {
                stdout::say!("{line}");
            },
        )
    }

    /// Prints every `interval` the bytes so far and the rate since the last line.
    fn start(
        interval: Duration,
        bytes: impl Fn() -> u64 + Send + 'static,
        say: impl Fn(&str) + Send + 'static,
    ) -> Self {
        let (sender, ended) = mpsc::channel::<()>();
        let report = move || {
            let (begun, mut before) = (Instant::now(), bytes());
            while ended.recv_timeout(interval) == Err(mpsc::RecvTimeoutError::Timeout) {
                let now = bytes();
                let rate = now.saturating_sub(before) as f64 / 1e6 / interval.as_secs_f64();
                let seconds = begun.elapsed().as_secs();
                say(&format!("  {:.1} MB after {seconds} s, {rate:.1} MB/s", now as f64 / 1e6));
                before = now;
            }
        };
        Self { running: Some((sender, thread::spawn(report))) }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.running.take() {
            drop(sender);
            let _panicked = thread.join();
        }
    }
}

/// The index and the proxy that pip uses, without user names and passwords.
fn way(variable: impl Fn(&str) -> Option<String>) -> String {
    let set = |names: &[&str]| {
        let values = names.iter().filter_map(|name| variable(name));
        let value = values.into_iter().find(|value| !value.is_empty())?;
        let place = value.split_once("://").map_or(&value[..], |(_, place)| place);
        Some(place.rsplit_once('@').map_or(place, |(_, place)| place).to_owned())
    };
    let index = set(&["PIP_INDEX_URL"]).unwrap_or("the index that it is set to".to_owned());
    let proxies = ["PIP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
    match set(&proxies) {
        Some(proxy) => format!("from {index}, by the proxy {proxy}"),
        None => format!("from {index}"),
    }
}

/// The bytes of all readable files in a folder and below it.
fn bytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_in(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

/// Unpacks the members of `wheel` that match a pattern into `folder`, under their own paths.
pub(crate) fn unpack(wheel: &Path, patterns: &[String], folder: &Path) -> anyhow::Result<()> {
    let mut python = Command::new("python3");
    python.args(["-c", UNPACK]).arg(wheel).arg(folder).args(patterns);
    let name = wheel.file_name().unwrap_or_default();
    run(&mut python, &format!("cannot unpack {}", name.display()), "")
}

/// The NVIDIA packages that the wheel of torch in `wheels` depends on; its metadata is unpacked
/// into `folder`.
pub(crate) fn nvidia_requirements(wheels: &Path, folder: &Path) -> anyhow::Result<Vec<String>> {
    let listed =
        fs::read_dir(wheels).with_context(|| format!("cannot list {}", wheels.display()))?;
    for wheel in listed {
        unpack(&wheel?.path(), &["torch-*.dist-info/METADATA".to_owned()], folder)?;
    }
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?
    {
        if let Ok(metadata) = fs::read_to_string(entry?.path().join("METADATA")) {
            let wanted = nvidia_in(&metadata);
            ensure!(!wanted.is_empty(), "the wheel of torch depends on no NVIDIA package");
            return Ok(wanted);
        }
    }
    bail!("the wheel of torch has no METADATA")
}

/// The requirements on NVIDIA's libraries in a wheel's metadata, without their conditions.
///
/// `cuda-toolkit` is a package that only depends on others. libtorch does not use Triton, the Python
/// bindings and the pure Python packages.
fn nvidia_in(metadata: &str) -> Vec<String> {
    let unconditional =
        requirements_in(metadata).map(|line| line.split(';').next().unwrap_or_default().trim());
    let wanted = |name: &&str| name.starts_with("nvidia-") || name.starts_with("cuda-toolkit");
    unconditional.filter(wanted).map(str::to_owned).collect()
}

/// The requirements in a wheel's metadata, with their conditions.
pub(crate) fn requirements_in(metadata: &str) -> impl Iterator<Item = &str> {
    metadata.lines().filter_map(|line| line.strip_prefix("Requires-Dist: "))
}

/// Runs a python command, shows its complaints as they come, and adds the likely cause to the error
/// if it fails.
fn run(command: &mut Command, purpose: &str, instead: &str) -> anyhow::Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{purpose}: cannot start python3"))?;
    let mut complaint = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            if !interrupt::seen() {
                eprintln!("{line}");
            }
            if complaint.len() < COMPLAINT_LINES {
                complaint.push(line);
            }
        }
    }
    let status = child.wait().with_context(|| format!("{purpose}: cannot wait for python3"))?;
    ensure!(!interrupt::seen(), "{purpose}: interrupted");
    ensure!(status.success(), "{purpose}: {}", cause(&complaint.join("\n"), instead));
    Ok(())
}

/// The meaning of a complaint of pip or python, and a remedy.
fn cause(complaint: &str, instead: &str) -> String {
    let says = |signs: &[&str]| signs.iter().any(|sign| complaint.contains(sign));
    // The order matters: without a network, pip ends by saying that there is no matching
    // distribution.
    let meaning = if says(&["No space left on device", "Errno 28", "Disk quota exceeded"]) {
        "the disk is full: make room and repeat the command"
    } else if says(&["CERTIFICATE_VERIFY_FAILED", "SSLError"]) {
        "the certificate of the package index is not trusted: behind a proxy that decrypts TLS, set \
         PIP_CERT to the proxy's certificate"
    } else if says(&[
        "NewConnectionError",
        "ConnectionError",
        "ProxyError",
        "Timeout",
        "timed out",
        "Broken pipe",
    ]) || says(&[
        "name resolution",
        "Network is unreachable",
        "Connection refused",
        "Connection broken",
    ]) {
        return format!(
            "the package index did not answer: check the network (a proxy is set with \
             HTTPS_PROXY, a mirror with PIP_INDEX_URL) and repeat the command; without a network \
             {instead}"
        );
    } else if says(&["No matching distribution", "Could not find a version"]) {
        "the package index does not have the version: check PIP_INDEX_URL and pip's configuration"
    } else {
        "the reason is above"
    };
    meaning.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_come_is_told_again_and_again() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("below")).unwrap();
        fs::write(folder.path().join("below/wheel"), vec![0; 2_500_000]).unwrap();
        let (sender, lines) = mpsc::channel();
        let watched = folder.path().to_owned();
        let progress = Progress::start(
            Duration::from_millis(1),
            move || bytes_in(&watched),
            move |line| drop(sender.send(line.to_owned())),
        );
        for _ in 0..2 {
            let line = lines.recv_timeout(Duration::from_secs(60)).unwrap();
            assert!(line.starts_with("  2.5 MB after ") && line.ends_with(" MB/s"), "{line}");
        }
        drop(progress);
        // The sender is dropped, so the channel ends.
        lines.iter().for_each(drop);
    }

    #[test]
    fn the_way_is_told_without_passwords() {
        let set = |pairs: &'static [(&str, &str)]| {
            way(move |name| {
                let (_, value) = pairs.iter().find(|(variable, _)| *variable == name)?;
                Some((*value).to_owned())
            })
        };
        assert_eq!(set(&[]), "from the index that it is set to");
        let index = &[("PIP_INDEX_URL", "https://me:secret@mirror.example/simple")];
        assert_eq!(set(index), "from mirror.example/simple");
        let proxies = &[("HTTPS_PROXY", "http://me:secret@10.0.0.1:3128"), ("PIP_INDEX_URL", "")];
        assert_eq!(set(proxies), "from the index that it is set to, by the proxy 10.0.0.1:3128");
    }

    #[test]
    fn the_cause_of_a_failed_download_is_named() {
        let offline = "WARNING: Retrying (Retry(total=0)) after connection broken by \
                       'NewConnectionError('<...>: Failed to establish a new connection')'\n\
                       ERROR: No matching distribution found for torch==2.11.0";
        for (complaint, expected) in [
            (offline, "check the network"),
            (offline, "without a network go without"),
            (
                "ERROR: No matching distribution found for torch==2.11.0",
                "does not have the version",
            ),
            ("OSError: [Errno 28] No space left on device", "disk is full"),
            ("SSLError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] ...')", "PIP_CERT"),
            ("Segmentation fault", "above"),
        ] {
            assert!(cause(complaint, "go without").contains(expected), "{complaint}");
        }
    }

    #[test]
    fn nvidias_libraries_are_picked_from_the_dependencies_of_torch() {
        let metadata = "Name: torch\n\
             Requires-Dist: sympy>=1.13.3\n\
             Requires-Dist: cuda-toolkit[cublas,nvtx]==13.0.2; platform_system == \"Linux\"\n\
             Requires-Dist: cuda-bindings<14,>=13.0.3; platform_system == \"Linux\"\n\
             Requires-Dist: nvidia-nccl-cu13==2.28.9; platform_system == \"Linux\"\n\
             Requires-Dist: triton==3.6.0; platform_system == \"Linux\"\n";
        assert_eq!(
            nvidia_in(metadata),
            ["cuda-toolkit[cublas,nvtx]==13.0.2", "nvidia-nccl-cu13==2.28.9"]
        );
    }

    #[test]
    fn a_file_that_is_no_wheel_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("torch.whl");
        fs::write(&wheel, "no zip file").unwrap();
        let error = unpack(&wheel, &["*".to_owned()], folder.path()).unwrap_err();
        assert!(error.to_string().contains("torch.whl"), "{error}");
    }
}
