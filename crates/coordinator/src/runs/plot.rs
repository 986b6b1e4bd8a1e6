//! Learning curves: the loss by step, and a mark for each test.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use picture::CLASSES;

use super::{
    chart::{Chart, Series, WRITTEN},
    found::Run,
    owned, shown,
};

pub(super) fn plot(runs: &[Run], output: &[PathBuf]) -> Result<String> {
    let usual = [PathBuf::from("curves.png"), PathBuf::from("curves.svg")];
    let is_named = !output.is_empty();
    let output = if is_named { output } else { &usual[..] };
    check(output, is_named, runs)?;
    if runs.iter().all(|run| run.losses.points().is_empty() && run.tests.is_empty()) {
        bail!("there is nothing to draw: no run has reported a loss yet");
    }
    let chart = chart(runs);
    for file in output {
        let bytes = match form(file) {
            Some(Form::Svg) => chart.svg().into_bytes(),
            _ => chart.png()?,
        };
        disk::write_whole(file, &bytes)?;
    }
    let files: Vec<String> = output.iter().map(|file| shown(file)).collect();
    Ok(format!("Learning curves in {}", files.join(" and ")))
}

/// Refuses files that cannot be written, or that would be missed, before anything is written.
pub(super) fn check(output: &[PathBuf], is_named: bool, runs: &[Run]) -> Result<()> {
    if let Some(other) = output.iter().find(|file| form(file).is_none()) {
        bail!("--output {} must end in .png or .svg", other.display());
    }
    for file in output {
        if !is_named {
            disk::refuse_unnamed(file, &[picture::MARK, WRITTEN.as_bytes()], "Lockstep")?;
        }
        owned::refuse(file, runs)?;
        disk::try_write(file)?;
    }
    Ok(())
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
