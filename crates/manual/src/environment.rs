//! The variables that a program reads from its environment, in its help and in its man page.

use std::{fmt::Write as _, io};

use clap::Command;
use clap_mangen::roff::{Roff, bold, roman};

/// A variable that a program reads.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// Its name; of several with one meaning all names.
    pub name: &'static str,
    /// What it is for.
    pub meaning: &'static str,
}

/// Columns of a help text, as everywhere in it.
const COLUMNS: usize = 100;

/// What precedes the meaning of a variable.
const INDENT: &str = "          ";

/// Adds the variables to the help of a program.
pub(crate) fn in_help(command: Command, variables: &[Variable]) -> Command {
    if variables.is_empty() {
        return command;
    }
    let mut text = String::from("Environment:\n");
    for Variable { name, meaning } in variables {
        let _infallible = writeln!(text, "  {name}");
        for line in lines(meaning, COLUMNS - INDENT.len()) {
            let _infallible = writeln!(text, "{INDENT}{line}");
        }
    }
    text.truncate(text.trim_end().len());
    command.after_help(text)
}

/// Writes the section on the variables of a man page.
pub(crate) fn write_section(variables: &[Variable], page: &mut dyn io::Write) -> io::Result<()> {
    if variables.is_empty() {
        return Ok(());
    }
    let mut roff = Roff::new();
    roff.control("SH", ["ENVIRONMENT"]);
    for Variable { name, meaning } in variables {
        roff.control("TP", []).text([bold(*name)]).text([roman(*meaning)]);
    }
    roff.to_writer(page)
}

/// A text in lines of so many characters, broken between words.
fn lines(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
