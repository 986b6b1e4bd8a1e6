//! `vae`: inspects and uses a trained model.
//!
//! Each command has a file in `commands/`. The commands work on a [`trained::Trained`] model, which
//! `trained.rs` finds and reads, and write whole files through `output.rs`; `progress.rs` shows how far
//! they are. The mathematics is in `pca.rs`, `tsne.rs`, `mixture.rs`, `logistic.rs` and `bound.rs`, the
//! file formats in `table/` and `onnx.rs`, users' own pictures in `drawing.rs`, drawing in the crate
//! `picture`. Nothing here trains or uses a network.

mod args;
mod bound;
mod commands;
mod drawing;
mod features;
mod image_ref;
mod input;
mod logistic;
mod mixture;
mod onnx;
mod output;
mod pca;
mod progress;
mod protobuf;
mod reference;
mod scatter;
mod table;
mod threads;
mod trained;
mod tsne;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use crate::args::Args;

fn main() -> ExitCode {
    stdout::finish(run())
}

fn run() -> ExitCode {
    limits::report_file_size_limit();
    if let Err(wrong) = autograd::libtorch::check() {
        output::complain(&format!("error: {wrong}"));
        return ExitCode::FAILURE;
    }
    // As process 1 of a container, the program would ignore signals without handlers. Elsewhere the default is better:
    // a shell ends a loop only if Ctrl-C has killed the program in it.
    if std::process::id() == 1
        && let Err(error) = process::signals::install()
    {
        output::complain(&format!("error: cannot handle signals: {error}"));
        return ExitCode::FAILURE;
    }
    // Must run before any other thread exists and before libtorch computes anything.
    autograd::blas::deterministic();
    threads::one_for_libtorch();
    if let Some(done) = manual::on_request(Args::command(), &reference::REFERENCE) {
        return done;
    }
    let command = manual::complete(Args::command(), &reference::REFERENCE);
    let matches = command.try_get_matches();
    let args = match matches.and_then(|matches| {
        output::note_default(&matches);
        commands::sample::check(&matches)?;
        Args::from_arg_matches(&matches)
    }) {
        Ok(args) => args,
        Err(said) => return manual::answer(said),
    };
    match args.command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = limits::told(error.as_ref());
            output::complain(&format!("error: {text}"));
            ExitCode::FAILURE
        }
    }
}
