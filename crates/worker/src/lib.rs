//! A worker: computes gradients on its device and averages them with the other members.
//!
//! Two threads do the work. The communication thread, in [`session`], runs a tokio runtime:
//! the control stream and the all-reduce streams. The training thread, in [`training`], is
//! plain blocking code that owns all tensors. [`bridge`] is the one place where the two
//! meet. The leader's extra duties are in [`reporter`] and [`writer`].

mod args;
mod bridge;
mod control;
mod convert;
mod dataset;
mod device;
mod discovery;
mod erased;
mod generation;
mod kubeflow;
mod needs;
mod phase_reporting;
mod program;
mod reference;
mod reporter;
mod restore;
mod session;
mod setup;
mod training;
mod writer;

use std::{
    env,
    ffi::OsString,
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};
use clap::{CommandFactory as _, FromArgMatches as _};
use manual::config_file;
use model::{Isa, Library};
use telemetry::{Log, Outlet};
use trainer::Task;

use crate::{
    args::Args,
    erased::{AnyTask, Erased},
};

/// A worker's program.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its name, as in `vae-worker`.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The library that its models compute with, if there is one.
    pub library: Option<Library>,
    /// Names the program that has the model of a run's task, if this program lacks the model. The worker becomes that
    /// program, which is in the same folder.
    pub other_program: Option<fn(&config::Task) -> Option<&'static str>>,
}

impl Program {
    /// The command as clap knows it.
    fn command(&self) -> clap::Command {
        let command = Args::command().name(self.name).version(manual::version(self.version));
        command.subcommand(config_file::command())
    }

    /// Whether the run's task decides which program takes part.
    const fn asks_first(&self) -> bool {
        self.other_program.is_some()
    }

    /// Becomes the program that has the model of this task. Returns if that is this program.
    ///
    /// # Errors
    /// The program is not there, or cannot be started.
    fn become_other(&self, task: Option<&config::Task>) -> Result<()> {
        let Some(name) = task.zip(self.other_program).and_then(|(task, other)| other(task)) else {
            return Ok(());
        };
        let path = env::current_exe().context("cannot find this program")?.with_file_name(name);
        tracing::debug!("going on as {}", path.display());
        Outlet::flush_all();
        let error = Command::new(&path).args(env::args_os().skip(1)).exec();
        Err(error).with_context(|| {
            format!(
                "the run's model needs {}, which cannot be started: build it, or install it beside {}",
                path.display(),
                self.name
            )
        })
    }
}

/// Runs a program that is a worker of the task `T`, on the arguments of this process.
pub fn main<T: Task>(program: &Program) -> ExitCode {
    run::<T>(program, env::args_os().collect())
}

/// Runs a worker of the task `T` on these arguments, the name of the program first.
pub fn run<T: Task>(program: &Program, arguments: Vec<OsString>) -> ExitCode {
    run_task(&Erased::<T>::new(), program, arguments)
}

fn run_task(task: &dyn AnyTask, program: &Program, arguments: Vec<OsString>) -> ExitCode {
    limits::report_file_size_limit();
    if let Some(Err(wrong)) = program.library.map(|library| (library.check)()) {
        return fail(&anyhow::Error::msg(wrong));
    }
    if let Err(error) = process::signals::install() {
        return fail(&anyhow::Error::new(error).context("cannot handle signals"));
    }
    // Before any other thread exists.
    if let Some(library) = program.library {
        (library.settle)();
    }
    transport::keep_freed_blocks();
    if let Some(done) = manual::on_request(program.command(), &reference::REFERENCE) {
        return done;
    }
    let command = manual::complete(program.command(), &reference::REFERENCE);
    if let Some(done) = config_file::print_on_request(command.clone(), &arguments) {
        return done;
    }
    let matches = config_file::parse(command, arguments);
    let args = match matches.and_then(|matches| Args::from_arg_matches(&matches)) {
        Ok(args) => args,
        Err(said) => return stdout::finish(manual::answer(said)),
    };
    let _traces = Log {
        program: program.name,
        format: args.log_format,
        level: args.log_level,
        // If the coordinator has started the worker, it adds the worker's name itself.
        detailed: false,
        writer: Outlet::Stderr,
    }
    .start();
    let chosen = args.isa.as_deref().map_or(Ok(()), choose_isa);
    let code = match chosen.and_then(|()| session::run(task, program, &args)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&error),
    };
    Outlet::flush_all();
    code
}

fn choose_isa(name: &str) -> Result<()> {
    let names = Isa::available().into_iter().map(Isa::name);
    anyhow::ensure!(
        Isa::choose(name),
        "--isa {name}: this CPU has only {}",
        names.collect::<Vec<_>>().join(", ")
    );
    Ok(())
}

fn fail(error: &anyhow::Error) -> ExitCode {
    Outlet::flush_all();
    // The process that started this worker may have ended, and its pipe with it.
    let _closed = writeln!(io::stderr(), "error: {}", limits::told(error.as_ref()));
    ExitCode::FAILURE
}
