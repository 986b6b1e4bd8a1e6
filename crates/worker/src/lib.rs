//! `vae-worker`: computes gradients on its device and averages them with the other members.
//!
//! Two threads do the work. The communication thread, in [`session`], runs a tokio runtime:
//! the control stream and the all-reduce streams. The training thread, in [`training`], is
//! plain blocking code that owns all tensors. [`bridge`] is the one place where the two
//! meet. The leader's extra duties are in [`reporter`] and [`writer`].

mod args;
mod beginning;
mod bridge;
mod control;
mod dataset;
mod device;
mod discovery;
mod environment;
mod generation;
mod needs;
mod reporter;
mod samples;
mod session;
mod training;
mod watched;
mod writer;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{CommandFactory as _, FromArgMatches as _};
use telemetry::{Log, Outlet};

use crate::args::Args;

/// The program.
pub fn main() -> ExitCode {
    limits::report_file_size_limit();
    if let Err(wrong) = model::libtorch::check() {
        return fail(&wrong.into());
    }
    if let Err(error) = process::signals::install() {
        return fail(&anyhow::Error::new(error).context("cannot handle signals"));
    }
    // Before any other thread exists and before libtorch computes anything.
    model::blas::deterministic();
    transport::keep_freed_blocks();
    if let Some(done) = manual::on_request(Args::command(), &environment::VARIABLES) {
        return done;
    }
    let command = manual::complete(Args::command(), &environment::VARIABLES);
    let matches = command.try_get_matches();
    let args = match matches.and_then(|matches| Args::from_arg_matches(&matches)) {
        Ok(args) => args,
        Err(said) => return stdout::finish(manual::answer(said)),
    };
    let _traces = Log {
        program: "vae-worker",
        format: args.log_format,
        level: args.log_level,
        // The coordinator names the worker, where it has started it.
        detailed: false,
        writer: Outlet::Stderr,
    }
    .start();
    let code = match session::run(&args) {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&error),
    };
    Outlet::flush_all();
    code
}

fn fail(error: &anyhow::Error) -> ExitCode {
    Outlet::flush_all();
    // Whoever started this worker may have gone, and its pipe with it.
    let _closed = writeln!(io::stderr(), "error: {}", told(error));
    ExitCode::FAILURE
}

/// An error with its causes, and what to do where a limit of the system is one.
fn told(error: &anyhow::Error) -> String {
    limits::told(error.as_ref())
}
