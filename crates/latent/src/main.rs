//! `vae`: what people do with a trained model.
//!
//! One file a command, in `commands/`. They work on a [`trained::Trained`] model, which
//! `trained.rs` finds and reads, and write whole files through `output.rs`. The mathematics is
//! in `pca.rs`, `mixture.rs`, `logistic.rs` and `bound.rs`, the file formats in `latents/` and
//! `onnx.rs`, the pictures in the crate `picture`. Nothing here trains or reaches out to a
//! network.

mod args;
mod bound;
mod commands;
mod drawing;
mod environment;
mod features;
mod logistic;
mod mixture;
mod onnx;
mod output;
mod pca;
mod pick;
mod protobuf;
mod scatter;
mod table;
mod trained;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, error::ErrorKind};

use crate::args::Args;

fn main() -> ExitCode {
    // As process 1 of a container it would not hear signals; elsewhere the default is better, since
    // a shell ends a loop only if Ctrl-C has killed the program in it.
    if std::process::id() == 1
        && let Err(error) = process::signals::install()
    {
        output::complain(&format!("error: cannot handle signals: {error}"));
        return ExitCode::FAILURE;
    }
    // Before any other thread exists and before libtorch computes anything.
    model::blas::deterministic();
    if let Some(done) = manual::on_request(Args::command(), &environment::VARIABLES) {
        return done;
    }
    let command = manual::complete(Args::command(), &environment::VARIABLES);
    let matches = command.try_get_matches();
    let result = match matches.and_then(|matches| Args::from_arg_matches(&matches)) {
        Ok(args) => args.command.run(),
        Err(error) => usage(&error),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// What clap has to say: help as it is, a mistake in one line.
fn usage(error: &clap::Error) -> anyhow::Result<()> {
    let help = [
        ErrorKind::DisplayHelp,
        ErrorKind::DisplayVersion,
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
    ];
    if help.contains(&error.kind()) {
        error.exit();
    }
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let line = lines.collect::<Vec<_>>().join(" ");
    anyhow::bail!("{}", line.trim_start_matches("error: "))
}
