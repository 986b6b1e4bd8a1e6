//! The archive of `cargo xtask gpu-acceptance` is unpacked, and all its stages run on an emulated GPU. A
//! digest that differs is reported.

use std::{
    env,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use emulated_gpu::{FOLDER, IS_THERE};
use serde_json::Value;

use crate::harness::{Exit, Place, Process, programs};

/// An emulated GPU is slow, and so is PyTorch without a GPU.
const BOUND: Duration = Duration::from_mins(40);

/// A script in place of NVIDIA's checker: it only runs the program to check.
const CHECKER: &str =
    "#!/bin/sh\n[ \"$1 $3\" = '--tool --error-exitcode' ] && shift 4 && exec \"$@\"\n";

/// The unpacked archive.
struct Unpacked {
    place: Place,
    folder: PathBuf,
}

impl Unpacked {
    fn new() -> Self {
        let place = Place::new();
        let output = place.path("packed");
        let mut pack = Command::new(programs().join("xtask"));
        pack.args(["gpu-acceptance", "--programs"]).arg(programs()).arg("--output").arg(&output);
        Process::start("pack", &mut pack).wait_within(BOUND).succeeded();
        let archive = output.join("lockstep-gpu.tar.gz");
        let mut tar = Command::new("tar");
        tar.arg("-xzf").arg(archive).arg("-C").arg(place.path(""));
        Process::start("tar", &mut tar).wait_within(BOUND).succeeded();
        let folder = place.path("lockstep-gpu");
        fs::create_dir(place.path("tools")).unwrap();
        let checker = place.path("tools/compute-sanitizer");
        fs::write(&checker, CHECKER).unwrap();
        fs::set_permissions(&checker, Permissions::from_mode(0o755)).unwrap();
        Self { place, folder }
    }

    fn run(&self, flags: &[&str]) -> Exit {
        let mut command = Command::new(self.folder.join("bin/xtask"));
        command.args(["gpu-acceptance", "run", "--rehearsal", "--libraries", FOLDER]).args(flags);
        command.arg("--output").arg(self.place.path("found")).args(["--minutes", "38"]);
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = [self.place.path("tools")].into_iter().chain(env::split_paths(&path));
        command.env("PATH", env::join_paths(folders).unwrap());
        if let Some(torch) = torch() {
            command.env("PYTHONPATH", torch);
        }
        Process::start("gpu-acceptance", &mut command).wait_within(BOUND)
    }

    /// The rows of a stage in the file: the verdict, and the check.
    fn rows(&self, stage: &str) -> Vec<(String, String)> {
        let text = fs::read_to_string(self.place.path("found/gpu-acceptance.json")).unwrap();
        let found: Value = serde_json::from_str(&text).unwrap();
        let rows = found["rows"].as_array().unwrap().iter().filter(|row| row["stage"] == stage);
        let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
        rows.map(|row| (text(row, "verdict"), text(row, "what"))).collect()
    }

    fn count(&self, stage: &str, verdict: &str) -> usize {
        self.rows(stage).iter().filter(|(found, _)| found == verdict).count()
    }
}

/// The folder of PyTorch, if the benchmarks have fetched it.
fn torch() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    Some(root.join(".torch/site")).filter(|site| site.is_dir())
}

#[test]
fn all_stages_are_rehearsed_on_an_emulated_gpu() {
    if !IS_THERE {
        return;
    }
    let unpacked = Unpacked::new();
    let exit = unpacked.run(&[]).succeeded();
    assert_eq!(unpacked.count("digests", "passed"), 5, "{exit}");
    assert_eq!(unpacked.count("members", "passed"), 7, "{exit}");
    assert_eq!(unpacked.count("sanitizer", "passed"), 2, "{exit}");
    // Three batch sizes, with three rows each: the times, the kernels, and the bytes.
    assert_eq!(unpacked.rows("kernels").len(), 9, "{exit}");
    let ratios = unpacked.rows("speed").into_iter().filter(|(_, what)| what.contains("ratio"));
    let left_out = ratios.clone().filter(|(verdict, _)| verdict == "left out").count();
    assert_eq!(ratios.count(), 7, "{exit}");
    // Without PyTorch, only the ratio of two workers to one is measured.
    assert_eq!(left_out, if torch().is_some() { 0 } else { 6 }, "{exit}");
}

#[test]
fn another_digest_is_told_and_fails() {
    if !IS_THERE {
        return;
    }
    let unpacked = Unpacked::new();
    let path = unpacked.folder.join("expected.json");
    let expected = fs::read_to_string(&path).unwrap();
    let digest = crate::golden::RUNS[2].1;
    fs::write(&path, expected.replace(digest, &digest.replace('3', "4"))).unwrap();
    let exit = unpacked.run(&["--only", "digests"]).exited_with(1);
    assert_eq!(unpacked.count("digests", "passed"), 4, "{exit}");
    assert_eq!(unpacked.count("digests", "FAILED"), 1, "{exit}");
    assert!(exit.lines().any(|line| line.contains(digest) && line.contains("FAILED")), "{exit}");
}
