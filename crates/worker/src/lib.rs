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
mod generation;
mod reporter;
mod samples;
mod session;
mod training;
mod watched;
mod writer;

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser as _};

use crate::args::{Args, LogFormat};

/// The program.
pub fn main() -> ExitCode {
    // Before any other thread exists and before libtorch computes anything.
    model::blas::deterministic();
    transport::keep_freed_blocks();
    if let Some(done) = manual::on_request(Args::command()) {
        return done;
    }
    let args = Args::parse();
    start_logging(args.log_format);
    match session::run(&args) {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    // Whoever started this worker may have gone, and its pipe with it.
    let _closed = writeln!(io::stderr(), "error: {error:#}");
    ExitCode::FAILURE
}

fn start_logging(format: LogFormat) {
    use tracing_subscriber::{EnvFilter, filter::LevelFilter, fmt};
    let filter =
        EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let builder = fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        // A pipe that is closed must not end a worker.
        .log_internal_errors(false)
        .with_target(false);
    match format {
        LogFormat::Text => builder.without_time().init(),
        LogFormat::Json => builder.json().init(),
    }
}
