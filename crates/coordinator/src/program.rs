//! How a program describes its task to the coordinator. The coordinator does not interpret a task's
//! options: it stores, compares and forwards them.

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
    /// The program's name, as in `vae-coordinator`.
    fn name(&self) -> &'static str;

    /// The name of the task that the program trains.
    fn task(&self) -> &'static str;

    /// The revision of the task: two revisions compute different bits.
    fn revision(&self) -> u32;

    /// The description of the program, for its help.
    fn about(&self) -> &'static str;

    /// The subcommand before the flags, if there is one.
    fn subcommand(&self) -> Option<&'static str> {
        None
    }

    /// The program that starts a worker on this machine.
    fn worker(&self) -> WorkerProgram;

    /// Adds the flags of the task's options. A flag has the name of its option, with dashes.
    fn add_flags(&self, command: Command) -> Command;

    /// The options that the flags describe: an object.
    ///
    /// # Errors
    /// When the options do not fit together.
    fn options(&self, matches: &ArgMatches) -> Result<Value>;

    /// The task with these options.
    ///
    /// # Errors
    /// When an option is out of its bounds, or a data set cannot be read.
    fn describe(&self, options: Value, preparing: &Preparing<'_>) -> Result<Task>;

    /// The explorer of the task's models, for a page of the board; none if the task has no such page.
    /// The files of the data set are in `data_dir`; if that is none, in their default folder.
    fn explorer(&self, data_dir: Option<PathBuf>) -> Option<Arc<dyn Explorer>> {
        let _ = data_dir;
        None
    }

    /// Converts a configuration that an earlier version has written into the current form.
    fn upgrade(&self, configuration: &mut Value) {
        let _ = configuration;
    }
}

/// What a program may use to describe its task.
pub struct Preparing<'a> {
    /// The folder for data sets; each subfolder has the name of a data set.
    pub cache: &'a Path,
    /// Prints a line about work that takes long.
    pub tell: &'a dyn Fn(&str),
}

impl fmt::Debug for Preparing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Preparing").field("cache", &self.cache).finish_non_exhaustive()
    }
}

/// The program that starts a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerProgram {
    /// A program with this name in the folder of the coordinator's program.
    Beside(&'static str),
    /// The coordinator's own program, with this subcommand before the flags.
    Itself(&'static str),
}

impl WorkerProgram {
    /// The command that starts a worker, without flags.
    pub(crate) fn line(self) -> CommandLine {
        match self {
            Self::Beside(name) => CommandLine::program_beside(name),
            Self::Itself(word) => CommandLine::this_program().arg(word),
        }
    }

    /// The subcommand before a worker's flags, if there is one.
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
            // clap does the same for a type of flags that has a doc comment.
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
