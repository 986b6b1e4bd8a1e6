//! What a program has to tell its coordinator of the task that it trains. The coordinator reads
//! nothing in a task's options: it stores, compares and forwards them.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use advice::CommandLine;
use anyhow::Result;
use board::Explorer;
use clap::{ArgMatches, Command};
use config::Task;
use serde_json::Value;

/// A program that coordinates runs of a task.
pub trait Program: fmt::Debug + Sync {
    /// Its name, as in `vae-coordinator`.
    fn name(&self) -> &'static str;

    /// The name of the task that it trains.
    fn task(&self) -> &'static str;

    /// The revision of the task: another one computes something else.
    fn revision(&self) -> u32;

    /// What it does, for its help.
    fn about(&self) -> &'static str;

    /// The word that comes before the flags, if one does: that of a subcommand.
    fn subcommand(&self) -> Option<&'static str> {
        None
    }

    /// What starts a worker on this machine.
    fn worker(&self) -> WorkerProgram;

    /// Adds the flags of the task's options. Each is called as its option, with dashes.
    fn add_flags(&self, command: Command) -> Command;

    /// The options that the flags describe: an object.
    ///
    /// # Errors
    /// They do not fit together.
    fn options(&self, matches: &ArgMatches) -> Result<Value>;

    /// The task with these options.
    ///
    /// # Errors
    /// An option out of its bounds, or a data set that cannot be read.
    fn describe(&self, options: Value, preparing: &Preparing<'_>) -> Result<Task>;

    /// What the board shows of models of the task: a page of its own; none if there is none. The files of
    /// the data set are in `data_dir`, or where they usually are.
    fn explorer(&self, data_dir: Option<PathBuf>) -> Option<Arc<dyn Explorer>> {
        let _ = data_dir;
        None
    }

    /// Makes a configuration that an earlier version has written one of today.
    fn upgrade(&self, configuration: &mut Value) {
        let _ = configuration;
    }
}

/// What may be used to describe a task.
pub struct Preparing<'a> {
    /// The folder for data sets; its subfolders are named by them.
    pub cache: &'a Path,
    /// Tells a person what takes long.
    pub tell: &'a dyn Fn(&str),
}

impl fmt::Debug for Preparing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Preparing").field("cache", &self.cache).finish_non_exhaustive()
    }
}

/// What starts a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerProgram {
    /// A program of this name in the folder of the coordinator's.
    Beside(&'static str),
    /// The coordinator's own program, with this word before the flags.
    Itself(&'static str),
}

impl WorkerProgram {
    /// What a person types to start one, without its flags.
    pub(crate) fn line(self) -> CommandLine {
        match self {
            Self::Beside(name) => CommandLine::program_beside(name),
            Self::Itself(word) => CommandLine::this_program().arg(word),
        }
    }

    /// The word that comes before a worker's flags, if one does.
    #[must_use]
    pub fn subcommand(self) -> Option<&'static str> {
        match self {
            Self::Beside(_) => None,
            Self::Itself(word) => Some(word),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// A program whose task has no options.
    #[derive(Debug)]
    pub(crate) struct Plain;

    impl Program for Plain {
        fn name(&self) -> &'static str {
            "plain"
        }

        fn task(&self) -> &'static str {
            "plain"
        }

        fn revision(&self) -> u32 {
            1
        }

        fn about(&self) -> &'static str {
            "Trains nothing"
        }

        fn worker(&self) -> WorkerProgram {
            WorkerProgram::Itself("worker")
        }

        fn add_flags(&self, command: Command) -> Command {
            // As flags do that are derived from a type with a doc comment.
            command.about("The options of nothing")
        }

        fn options(&self, _matches: &ArgMatches) -> Result<Value> {
            Ok(json!({}))
        }

        fn describe(&self, _options: Value, _preparing: &Preparing<'_>) -> Result<Task> {
            anyhow::bail!("there is nothing to train")
        }
    }

    #[test]
    fn the_description_in_the_help_is_the_programs() {
        let about = crate::flags(&Plain).get_about().map(ToString::to_string);
        assert_eq!(about.as_deref(), Some(Plain.about()));
    }
}
