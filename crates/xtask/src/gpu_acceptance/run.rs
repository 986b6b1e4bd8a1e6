//! Runs the stages, one after the other. If a stage fails, this is reported, and the other stages
//! still run.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Context;
use clap::ValueEnum;

use super::{
    digests, kernels, members,
    report::{Report, Verdict},
    scene::{FULL, REHEARSAL, Scale, Scene},
    speed,
};
use crate::{child, interrupt};

/// The file with the results.
const FILE: &str = "gpu-acceptance.json";

/// The upper limit of `--minutes`: an emulated GPU takes long for an epoch of the default flags.
const MINUTES_MAX: f64 = 600.0;

#[derive(Debug, clap::Args)]
pub(super) struct Running {
    /// Folder for gpu-acceptance.json
    #[arg(long, default_value = ".", value_name = "DIR")]
    output: PathBuf,
    /// Run only this stage; may be given more than once
    #[arg(long, value_enum, value_name = "STAGE")]
    only: Vec<Stage>,
    /// Minutes that all stages together may take
    #[arg(long, default_value_t = 9.0, value_name = "MINUTES")]
    minutes: f64,
    /// Small sizes, for an emulated GPU
    #[arg(long, hide = true)]
    rehearsal: bool,
    /// In a rehearsal, also train the epoch of the default flags
    #[arg(long, hide = true, requires = "rehearsal")]
    whole_epoch: bool,
    /// Folder in which programs look for libraries first
    #[arg(long, value_name = "DIR", hide = true)]
    libraries: Option<PathBuf>,
}

/// The stages in their order: the most important results come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// Short runs give the known digests
    Digests,
    /// NVIDIA's compute-sanitizer finds no fault in a step
    Sanitizer,
    /// Runs whose members freeze, die and resume give the same digest
    Members,
    /// The time of each kernel, and the bytes that a step copies
    Kernels,
    /// Images a second beside PyTorch
    Speed,
}

impl Stage {
    fn run(self, scene: &Scene, report: &mut Report) -> anyhow::Result<()> {
        match self {
            Self::Digests => digests::run(scene, report),
            Self::Sanitizer => kernels::sanitize(scene, report),
            Self::Members => members::run(scene, report),
            Self::Kernels => kernels::run(scene, report),
            Self::Speed => speed::run(scene, report),
        }
    }
}

pub(super) fn run(options: &Running) -> anyhow::Result<u8> {
    let program = env::current_exe().context("this program's folder is not known")?;
    let folder = program.ancestors().nth(2).unwrap_or(Path::new(".")).to_owned();
    fs::create_dir_all(&options.output)
        .with_context(|| format!("cannot create {}", options.output.display()))?;
    let mut report = Report::new(options.output.join(FILE));
    let time = Duration::from_secs_f64(options.minutes.clamp(0.0, MINUTES_MAX) * 60.0);
    let scale = match options.rehearsal {
        true => Scale { whole_epoch: options.whole_epoch, ..REHEARSAL },
        false => FULL,
    };
    let scene = Scene::new(folder, options.libraries.as_deref(), scale, time)?;
    report.begin("machine");
    machine(&scene, &mut report);
    for stage in Stage::value_variants() {
        if !options.only.is_empty() && !options.only.contains(stage) {
            continue;
        }
        let name = stage.to_possible_value().map(|value| value.get_name().to_owned());
        report.begin(&name.unwrap_or_default());
        let begun = scene.bound(Duration::MAX).map(|_| ());
        if let Err(error) = begun.and_then(|()| stage.run(&scene, &mut report)) {
            report.note_error("the stage", &error);
        }
        report.write()?;
        if interrupt::seen() {
            break;
        }
    }
    stdout::say!("\n{}", report.table());
    Ok(if report.has_failed() { 1 } else { child::SUCCESS })
}

/// Reports the GPU and the version of PyTorch.
fn machine(scene: &Scene, report: &mut Report) {
    let query = "--query-gpu=name,driver_version,compute_mode,clocks.max.sm";
    let asked = Command::new("nvidia-smi").args([query, "--format=csv,noheader"]).output();
    let gpu = match asked {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().replace('\n', "; ")
        }
        _ => "unknown: nvidia-smi failed".to_owned(),
    };
    report.note("GPU", Verdict::Found, &gpu, "");
    match &scene.torch {
        Ok(torch) => report.note("PyTorch", Verdict::Found, &torch.version, ""),
        Err(reason) => report.note("PyTorch", Verdict::LeftOut, reason, ""),
    }
}
