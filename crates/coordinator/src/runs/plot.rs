//! Learning curves: the loss by step, and a mark for each test.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use picture::CLASSES;

use super::{
    chart::{Chart, Series},
    found::Run,
    shown,
};

pub(super) fn plot(runs: &[Run], output: &[PathBuf]) -> Result<String> {
    let usual = [PathBuf::from("curves.png"), PathBuf::from("curves.svg")];
    let output = if output.is_empty() { &usual[..] } else { output };
    if let Some(other) = output.iter().find(|file| form(file).is_none()) {
        bail!("--output {} must end in .png or .svg", other.display());
    }
    if runs.iter().all(|run| run.losses.points().is_empty() && run.tests.is_empty()) {
        bail!("there is nothing to draw: no run has reported a loss yet");
    }
    let chart = chart(runs);
    for file in output {
        let bytes = match form(file) {
            Some(Form::Svg) => chart.svg().into_bytes(),
            _ => chart.png()?,
        };
        fs::write(file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let files: Vec<String> = output.iter().map(|file| shown(file)).collect();
    Ok(format!("Learning curves in {}", files.join(" and ")))
}

enum Form {
    Png,
    Svg,
}

fn form(file: &Path) -> Option<Form> {
    let ending = file.extension().and_then(OsStr::to_str).map(str::to_lowercase)?;
    match &ending[..] {
        "png" => Some(Form::Png),
        "svg" => Some(Form::Svg),
        _ => None,
    }
}

fn chart(runs: &[Run]) -> Chart {
    let series = runs.iter().zip(CLASSES.iter().cycle()).map(|(run, colour)| Series {
        label: run.title(),
        colour: *colour,
        line: run.losses.points().iter().map(|(step, loss)| (*step as f64, *loss)).collect(),
        points: run.tests.iter().map(|(_, step, loss)| (*step as f64, *loss)).collect(),
    });
    Chart {
        title: format!("{}; squares: on the test set", runs[0].loss_label()),
        x_label: "step".to_owned(),
        series: series.collect(),
    }
}
