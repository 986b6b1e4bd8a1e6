//! Checks a single training step: with NVIDIA's compute-sanitizer, the times of its kernels, the
//! bytes that it copies.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::{
    report::{Report, Verdict},
    scene::Scene,
};
use crate::bench::process::{self, Process};

/// How long the steps of one batch size may take, and how long a tool of the checker may take.
const BOUND: Duration = Duration::from_secs(60);
const CHECKER_BOUND: Duration = Duration::from_secs(45);

/// The checker, and the CUDA toolkit's folder, where it is if it is not on the PATH.
const CHECKER: &str = "compute-sanitizer";
const CHECKER_FOLDER: &str = "/usr/local/cuda/bin";
const TOOLS: [&str; 2] = ["memcheck", "racecheck"];

/// The exit status of the checker if it finds a fault.
const FAULT: &str = "9";

/// The most bytes that a step may copy between host and GPU.
const BYTES_MAX: u64 = 128;

/// How many kernels the table names: those that take longest.
const SHOWN: usize = 6;

/// Runs one step under each tool of the checker.
pub(super) fn sanitize(scene: &Scene, report: &mut Report) -> anyhow::Result<()> {
    let Some(checker) = checker() else {
        report.note(CHECKER, Verdict::LeftOut, "it was not found", "");
        return Ok(());
    };
    let [_, hidden, latent] = scene.scale.times;
    for tool in TOOLS {
        let mut command = process::command(&checker);
        command.env("LD_LIBRARY_PATH", scene.search());
        command.args(["--tool", tool, "--error-exitcode", FAULT]);
        command.arg(scene.program_path("gpu_times"));
        command.args([&scene.scale.batches[0].to_string(), "1", hidden, latent]);
        match output(scene, tool, &mut command, CHECKER_BOUND) {
            Ok(_) => report.note(tool, Verdict::Passed, "no fault", ""),
            Err(error) => report.note_error(tool, &error),
        }
    }
    Ok(())
}

fn checker() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from(CHECKER_FOLDER)]);
    folders.map(|folder| folder.join(CHECKER)).find(|program| program.is_file())
}

/// Measures steps of all batch sizes.
pub(super) fn run(scene: &Scene, report: &mut Report) -> anyhow::Result<()> {
    for batch in scene.scale.batches {
        let what = format!("batch {batch}");
        let mut command = scene.program("gpu_times");
        command.arg(batch.to_string()).args(scene.scale.times);
        let found = output(scene, &what, &mut command, BOUND)
            .and_then(|text| Ok(serde_json::from_str::<Value>(&text)?));
        match found.and_then(|found| note(&what, &found, report)) {
            Ok(()) => {}
            Err(error) => report.note_error(&what, &error),
        }
    }
    Ok(())
}

fn note(what: &str, found: &Value, report: &mut Report) -> anyhow::Result<()> {
    let number = |name: &str| found[name].as_f64().with_context(|| format!("it lacks {name}"));
    let (step, graph) = (number("step_us")?, number("graph_us")?);
    let text = format!("{step:.1} us a step, {graph:.1} us its graph alone");
    report.note(what, Verdict::Found, &text, "");
    let kernels = found["kernels"].as_array().context("it lacks kernels")?;
    let time = |kernel: &Value| Some((kernel[0].as_str()?.to_owned(), kernel[1].as_f64()?));
    let mut times: Vec<(String, f64)> = kernels.iter().filter_map(time).collect();
    ensure!(!times.is_empty(), "no kernel has a time");
    times.sort_by(|a, b| b.1.total_cmp(&a.1));
    let shown: Vec<String> =
        times.iter().take(SHOWN).map(|(name, time)| format!("{name} {time:.1}")).collect();
    report.note(&format!("{what}, kernels in us"), Verdict::Found, &shown.join(", "), "");
    let bytes = (number("to_gpu_bytes")? + number("from_gpu_bytes")?) as u64;
    let verdict = Verdict::of_figure(bytes <= BYTES_MAX);
    let wanted = format!("at most {BYTES_MAX}");
    report.note(&format!("{what}, bytes a step"), verdict, &bytes.to_string(), &wanted);
    report.keep(&format!("times, {what}"), found.clone());
    Ok(())
}

/// The output of a program.
fn output(
    scene: &Scene,
    name: &str,
    command: &mut std::process::Command,
    bound: Duration,
) -> anyhow::Result<String> {
    let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
    let mut program = [Process::start(file_name(name), command, folder.path())?];
    process::wait(&mut program, scene.bound(bound)?, |_| {})?;
    Ok(program[0].output())
}

/// The last part of a path, which can be the name of a file.
fn file_name(name: &str) -> &str {
    Path::new(name).file_name().and_then(|name| name.to_str()).unwrap_or("program")
}
