//! The program of a task. The first argument chooses the command.

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt,
    marker::PhantomData,
    process::ExitCode,
};

use anyhow::Result;
use clap::{ArgMatches, Args, Command, FromArgMatches as _};
use coordinator::{Preparing, Program, WorkerProgram};
use serde_json::Value;
use trainer::{Task, describe};

const TRAIN: &str = "train";
const WORKER: &str = "worker";
const DESCRIBE: &str = "describe";

/// Runs the program of a task with the arguments of this process.
///
/// - `train` coordinates a run; with `--spawn` it also starts the workers, as processes of the same
///   program. It has the flags of every coordinator and the task's options.
/// - `worker` computes for a run.
/// - `describe` prints the task with its options, as JSON, for a coordinator on a machine without
///   this program and without libtorch (`--task FILE`).
pub fn main<T: Task>() -> ExitCode
where
    T::Options: Args,
{
    let mut arguments: Vec<OsString> = env::args_os().collect();
    let word = arguments.get(1).cloned().unwrap_or_default();
    if arguments.len() > 1 {
        arguments.remove(1);
    }
    match word.to_str() {
        Some(TRAIN) => coordinator::main(Box::leak(Box::new(Trained::<T>(PhantomData))), arguments),
        Some(WORKER) => {
            let version = format!("{}, revision {}", env!("CARGO_PKG_VERSION"), T::REVISION);
            let program = worker::Program {
                name: T::NAME,
                version: Box::leak(version.into()),
                library: Some(autograd::LIBTORCH),
                other_program: None,
            };
            worker::run::<T>(&program, arguments)
        }
        Some(DESCRIBE) => stdout::finish(print_description::<T>(&arguments)),
        _ => stdout::finish(usage::<T>(&word)),
    }
}

fn usage<T: Task>(word: &OsStr) -> ExitCode {
    let name = T::NAME;
    let usage = format!(
        "Usage: {name} {TRAIN}|{WORKER}|{DESCRIBE} [FLAGS]\n\n  \
         {TRAIN}     coordinates a run; --spawn starts its workers too\n  \
         {WORKER}    computes for a run\n  \
         {DESCRIBE}  prints the task as JSON, for a coordinator on another machine\n\n\
         Each command lists its flags with --help."
    );
    if matches!(word.to_str(), Some("help" | "--help" | "-h")) {
        stdout::say!("{usage}");
        return ExitCode::SUCCESS;
    }
    fail(&format!("{:?} is no command of {name}\n\n{usage}", word.to_string_lossy()))
}

fn print_description<T: Task>(arguments: &[OsString]) -> ExitCode
where
    T::Options: Args,
{
    let command = Command::new(DESCRIBE).about("Print the task with these options, as JSON");
    let command = T::Options::augment_args(command);
    let matches = match command.try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(said) => said.exit(),
    };
    let options = T::Options::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match describe::<T>(&options).map(|task| serde_json::to_string_pretty(&task)) {
        Ok(Ok(json)) => {
            stdout::say!("{json}");
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => fail(&error.to_string()),
        Err(error) => fail(&error.to_string()),
    }
}

#[allow(clippy::print_stderr, reason = "the program ends with this message")]
fn fail(error: &str) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

/// The task, for the coordinator.
struct Trained<T>(PhantomData<fn() -> T>);

impl<T: Task> fmt::Debug for Trained<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trained").field(&T::NAME).finish()
    }
}

impl<T: Task> Program for Trained<T>
where
    T::Options: Args,
{
    fn name(&self) -> &'static str {
        T::NAME
    }

    fn task(&self) -> &'static str {
        T::NAME
    }

    fn revision(&self) -> u32 {
        T::REVISION
    }

    fn about(&self) -> &'static str {
        "Coordinate a run of this task: shard the data, start generations of workers, and keep the \
         run directory"
    }

    fn subcommand(&self) -> Option<&'static str> {
        Some(TRAIN)
    }

    fn worker(&self) -> WorkerProgram {
        WorkerProgram::Itself(WORKER)
    }

    fn add_flags(&self, command: Command) -> Command {
        T::Options::augment_args(command)
    }

    fn options(&self, matches: &ArgMatches) -> Result<Value> {
        Ok(serde_json::to_value(T::Options::from_arg_matches(matches)?)?)
    }

    fn describe(&self, options: Value, _preparing: &Preparing<'_>) -> Result<config::Task> {
        Ok(describe::<T>(&serde_json::from_value(options)?)?)
    }
}
