//! The control plane of a run, a shell around the crate `membership`. A program calls [`main`] with
//! a [`Program`], which describes its task.
//!
//! [`origin`] and [`launch`] turn flags into a run. [`service`] accepts the workers' streams. [`control`]
//! feeds the engine and carries out its decisions. [`record`], [`run_dir`] and [`journal`] keep the
//! records, [`live`] sends them elsewhere, and [`runs`] reads them later. [`console`] prints for a
//! person. No tensor and no training step passes through here.

mod args;
mod board;
mod certs;
mod console;
mod control;
mod dataset;
mod deaths;
mod files;
mod follow;
mod health;
mod hints;
mod journal;
mod launch;
mod listen;
mod live;
mod models;
mod needs;
mod notify;
mod origin;
mod preparation;
mod program;
mod record;
mod recorded;
mod reference;
mod relay;
mod run_dir;
mod runs;
mod serve;
mod service;
mod settings;
mod spawn;
mod status;
mod stop;
mod storage;
mod tensorboard;
mod terms;
mod undo;
mod watch;

use std::{
    ffi::OsString,
    fmt::Display,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{CommandFactory as _, FromArgMatches as _};
use manual::config_file;
use membership::Outcome;
use telemetry::{Log, Outlet};

use crate::{
    args::{Args, Command},
    console::Console,
    launch::Launch,
};

pub use crate::program::{Preparing, Program, WorkerProgram};
/// How a program shows its models on the board.
pub use ::board::{Exploration, Explorer, PageFile};

/// Runs the program with its arguments. The first argument is the program's own name, as in
/// [`std::env::args_os`].
pub fn main(
    program: &'static dyn Program,
    arguments: impl IntoIterator<Item = OsString>,
) -> ExitCode {
    limits::report_file_size_limit();
    stdout::finish(run(program, arguments.into_iter().collect()))
}

fn run(program: &'static dyn Program, arguments: Vec<OsString>) -> ExitCode {
    if let Err(error) = process::signals::install() {
        return fail(&format!("cannot handle signals: {error}"));
    }
    if let Some(done) = manual::on_request(flags(program), &reference::REFERENCE) {
        return done;
    }
    if let Some(done) = config_file::print_on_request(command(program), &arguments) {
        return done;
    }
    let matches = match config_file::parse(command(program), arguments) {
        Ok(matches) => matches,
        Err(said) => return manual::answer(said),
    };
    let args = Args::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let console = Console::new();
    let _written = Written;
    let _traces = Log {
        program: program.name(),
        format: args.log_format,
        level: args.log_level,
        detailed: true,
        writer: console.clone(),
    }
    .start();
    if let Some(command) = &args.command {
        return carry_out(command, program);
    }
    let tell = |line: &str| console.line(line);
    let launch = match Launch::prepare(program, args, &matches, &tell) {
        Ok(launch) => launch,
        Err(error) => return fail(&told(&error)),
    };
    if launch.is_complete() {
        let run_dir = launch.run_dir.display();
        console.line(&format!("The run in {run_dir} is complete: nothing is left to do"));
        return ExitCode::SUCCESS;
    }
    let (outcome, stopped) = match serve::run(&launch, &console) {
        Ok(ended) => ended,
        Err(error) => return fail(&told(&error)),
    };
    let run_dir = &stopped.run_dir;
    if let Outcome::Interrupted(step) = outcome {
        let when = match (stopped.is_cut_short, step.0) {
            (false, 0) => "Interrupted before the first step".to_owned(),
            (false, step) => format!("Interrupted after step {step}"),
            (true, 0) => "Interrupted before the first checkpoint was written".to_owned(),
            (true, step) => format!("Interrupted; the last checkpoint is that of step {step}"),
        };
        let next = hints::next(&launch, run_dir.as_deref());
        console.line(&format!("{when}; {next}"));
    }
    let unfinished = |what: &dyn Display| match hints::after(&outcome, &launch, run_dir.as_deref())
    {
        Some(next) => fail(&format!("{what}\n{next}")),
        None => fail(&what.to_string()),
    };
    match (&outcome, &stopped.unfinished) {
        (Outcome::Completed(_), None) => ExitCode::SUCCESS,
        (Outcome::Completed(_), Some(what)) => unfinished(what),
        (Outcome::Interrupted(_), None) => ExitCode::from(stopped.exit_code),
        (Outcome::Interrupted(_), Some(what)) => fail(what),
        (outcome, _) => unfinished(outcome),
    }
}

/// Carries out a subcommand; no run is started.
fn carry_out(command: &Command, program: &dyn Program) -> ExitCode {
    let said = match command {
        Command::Status(args) if args.watch => watch::watch(args).map(|()| String::new()),
        Command::Status(args) => status::show(args),
        Command::Runs(args) => runs::carry_out(args),
        Command::Board(args) => board::show_runs(args, program),
        Command::Certs(command) => certs::carry_out(command, program),
    };
    match said {
        Ok(text) => {
            if !text.is_empty() {
                stdout::say!("{text}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => fail(&told(&error)),
    }
}

/// The command with which arguments are parsed.
fn command(program: &dyn Program) -> clap::Command {
    manual::complete(flags(program), &reference::REFERENCE)
}

/// The flags of all coordinators, and those of the program's task.
fn flags(program: &dyn Program) -> clap::Command {
    let name = program.name();
    let called = program.subcommand().map_or(name.to_owned(), |word| format!("{name} {word}"));
    let command = Args::command().name(name).bin_name(called).next_help_heading("Model");
    // If the struct of the task's options has a doc comment, clap has made it the description of
    // the command; the program's own replaces it.
    let command = program.add_flags(command).about(program.about()).long_about(None);
    // A resumed run already has its options, and so does a task described by a file.
    let command = command.mut_args(|arg| match arg.is_required_set() {
        true => {
            arg.required(false).required_unless_present_any(["resume", "resume_or_begin", "task"])
        }
        false => arg,
    });
    command.subcommand(config_file::command()).subcommand_negates_reqs(true)
}

/// The last generation in a journal; 0 if the journal has none.
///
/// # Errors
/// When the file cannot be read.
pub fn last_generation(journal: &std::path::Path) -> anyhow::Result<u64> {
    let history = journal::History::read(journal)?;
    let _ways_to_live_workers = (history.listening(), history.past());
    Ok(history.generation.0)
}

/// Flushes all output when dropped.
struct Written;

impl Drop for Written {
    fn drop(&mut self) {
        Outlet::flush_all();
    }
}

fn fail(error: &str) -> ExitCode {
    Outlet::flush_all();
    let _closed = writeln!(io::stderr(), "error: {error}");
    ExitCode::FAILURE
}

/// An error with its causes, and advice if a limit of the system is among the causes.
fn told(error: &anyhow::Error) -> String {
    limits::told(error.as_ref())
}
