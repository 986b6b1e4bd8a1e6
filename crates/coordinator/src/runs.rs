//! `runs`: reads the runs in folders, and makes a table, a comparison, learning curves, and metrics for
//! other programs. It asks no coordinator.

mod chart;
mod compare;
mod export;
mod found;
mod owned;
mod plot;
mod table;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};
use protocol::convert::printable;

use self::found::Run;

/// The default folder of runs, relative to the working directory.
const RUNS: &str = "runs";

/// The most runs in a comparison or a picture.
const COMPARED_MAX: usize = 16;

/// Which runs, and what to do with them.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct RunsArgs {
    #[command(subcommand)]
    command: Option<RunsCommand>,

    /// A folder of runs, or one run
    #[arg(default_value = RUNS, value_name = "DIR")]
    folder: PathBuf,
    /// Print the runs as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Debug, Subcommand)]
enum RunsCommand {
    /// Show in which flags runs differ, their losses side by side, and which have the same bits
    Compare(CompareArgs),
    /// Draw the learning curves of runs
    Plot(PlotArgs),
    /// Write the metrics of a run for another program
    Export(ExportArgs),
}

/// Which runs to compare.
#[derive(Clone, Debug, Args)]
struct CompareArgs {
    /// The runs: folders, or names of runs in the folder runs
    #[arg(required = true, num_args = 2.., value_name = "RUN")]
    runs: Vec<PathBuf>,
}

/// The runs to draw, and the files of the pictures.
#[derive(Clone, Debug, Args)]
struct PlotArgs {
    /// The runs: folders, or names of runs in the folder runs
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The picture, a .png or .svg; give it twice for both [default: curves.png and curves.svg]
    #[arg(long, value_name = "FILE")]
    output: Vec<PathBuf>,
}

/// Which run to export, and how.
#[derive(Clone, Debug, Args)]
struct ExportArgs {
    /// The run: a folder, or the name of a run in the folder runs
    #[arg(value_name = "RUN")]
    run: PathBuf,
    #[command(flatten)]
    form: ExportForm,
}

#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
struct ExportForm {
    /// Write a table of comma-separated values to this file; - is standard output
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write an event file for TensorBoard into this folder
    #[arg(long, value_name = "DIR")]
    tensorboard: Option<PathBuf>,
}

/// Carries out the command. Returns the text to print.
pub(crate) fn carry_out(args: &RunsArgs) -> Result<String> {
    match &args.command {
        None => table::show(&args.folder, args.json),
        Some(RunsCommand::Compare(args)) => Ok(compare::compare(&read(&args.runs)?)),
        Some(RunsCommand::Plot(args)) => plot::plot(&read(&args.runs)?, &args.output),
        Some(RunsCommand::Export(ExportArgs { run, form })) => {
            let run = Run::read_with_warning(&found::locate(run)?)?;
            match (&form.csv, &form.tensorboard) {
                (Some(file), _) => export::csv(&run, file),
                (_, Some(folder)) => export::tensorboard(&run, folder),
                (None, None) => Ok(String::new()),
            }
        }
    }
}

fn read(names: &[PathBuf]) -> Result<Vec<Run>> {
    let count = names.len();
    ensure!(count <= COMPARED_MAX, "{count} runs are too many: name at most {COMPARED_MAX}");
    names.iter().map(|name| Run::read_with_warning(&found::locate(name)?)).collect()
}

/// A path as text for people.
fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy())
}

#[cfg(test)]
mod tests;
