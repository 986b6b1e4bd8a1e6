//! The description of a program beside its flags: examples, exit statuses, environment variables and files. It is the
//! only source for the help and the man pages, and tests check it.

use std::fmt::Write as _;

use clap::{Arg, Command};

/// A name and its meaning.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// A command line, an exit code, a variable or a file; several names with the same meaning are listed together.
    pub name: &'static str,
    /// The meaning or purpose.
    pub meaning: &'static str,
}

/// The description of a program beside its flags.
#[derive(Clone, Copy, Debug)]
pub struct Reference {
    /// Command lines, without the program's name. Each appears on the page of the command that it calls.
    pub examples: &'static [Entry],
    /// Exit codes beside those that all programs have.
    pub exit_status: &'static [Entry],
    /// Variables that the program reads from its environment.
    pub variables: &'static [Entry],
    /// Files that the program reads and writes.
    pub files: &'static [Entry],
}

/// Exit codes of all programs.
pub(crate) const EXIT_STATUS: [Entry; 3] = [
    Entry { name: "0", meaning: "All that was asked for is done" },
    Entry { name: "1", meaning: "An error; one line on standard error names it" },
    Entry { name: "2", meaning: "The flags are wrong" },
];

/// The width of a help text in columns, the same as for the flags.
const COLUMNS: usize = 100;

/// The indentation of the meaning of an entry.
const INDENT: &str = "          ";

/// The examples that call a command itself, and none of its subcommands.
pub(crate) fn examples_of<'a>(
    path: &'a [&str],
    command: &'a Command,
    reference: &Reference,
) -> impl Iterator<Item = &'static Entry> {
    reference.examples.iter().filter(move |example| {
        let mut words = example.name.split_whitespace();
        let leads_here = path.iter().all(|part| words.next() == Some(part));
        let next = words.next().unwrap_or_default();
        leads_here && !command.get_subcommands().any(|below| below.get_name() == next)
    })
}

/// Adds the examples of each command to its help, and the variables to the help of the program.
pub(crate) fn in_help(command: Command, reference: &Reference) -> Command {
    let program = command.get_bin_name().unwrap_or(command.get_name()).to_owned();
    below(command, &program, &[], reference)
}

fn below(command: Command, program: &str, path: &[&str], reference: &Reference) -> Command {
    let mut text = String::new();
    let examples: Vec<_> = examples_of(path, &command, reference).collect();
    if !examples.is_empty() {
        text.push_str("Examples:\n");
    }
    for Entry { name, meaning } in examples {
        write(&mut text, format!("{program} {name}").trim_end(), meaning);
    }
    if path.is_empty() && !reference.variables.is_empty() {
        text.push_str(if text.is_empty() { "Environment:\n" } else { "\nEnvironment:\n" });
        reference.variables.iter().for_each(|entry| write(&mut text, entry.name, entry.meaning));
    }
    text.truncate(text.trim_end().len());
    let names = command.get_subcommands().map(|part| part.get_name().to_owned());
    let names: Vec<String> = names.collect();
    let mut command = if text.is_empty() { command } else { command.after_help(text) };
    for name in &names {
        let path = [path, &[&name[..]]].concat();
        command = command.mut_subcommand(name, |part| below(part, program, &path, reference));
    }
    command
}

/// Appends an entry of a help text.
fn write(text: &mut String, name: &str, meaning: &str) {
    let _infallible = writeln!(text, "  {name}");
    for line in lines(meaning, COLUMNS - INDENT.len()) {
        let _infallible = writeln!(text, "{INDENT}{line}");
    }
}

/// Breaks a text between words into lines of at most `columns` characters.
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

/// The faults of a reference: an example that the program does not accept, a command without an example, or a variable
/// that the help of a flag names and that is not explained.
#[must_use]
pub fn faults(command: &Command, reference: &Reference) -> Vec<String> {
    let mut faults = Vec::new();
    for example in reference.examples {
        let words = [command.get_name()].into_iter().chain(example.name.split_whitespace());
        if let Err(error) = command.clone().try_get_matches_from(words) {
            faults.push(format!("the example {:?} is not taken: {error}", example.name));
        }
    }
    look_at(command, &[], reference, &mut faults);
    faults
}

fn look_at(command: &Command, path: &[&str], reference: &Reference, faults: &mut Vec<String>) {
    let only_leads_on =
        command.is_subcommand_required_set() || command.is_arg_required_else_help_set();
    if !only_leads_on && examples_of(path, command, reference).next().is_none() {
        faults.push(format!("the command {path:?} has no example"));
    }
    let listed = |name: &str| {
        let names = reference.variables.iter().flat_map(|entry| entry.name.split(", "));
        names.into_iter().any(|listed| listed == name)
    };
    for flag in command.get_arguments() {
        for name in variables_of(flag).into_iter().filter(|name| !listed(name)) {
            faults.push(format!("--{} speaks of {name}, which is not explained", flag.get_id()));
        }
    }
    for part in command.get_subcommands() {
        look_at(part, &[path, &[part.get_name()]].concat(), reference, faults);
    }
}

/// The environment variables of a flag, and those that its help names: words in capitals with an underscore.
fn variables_of(flag: &Arg) -> Vec<String> {
    let help = [flag.get_help(), flag.get_long_help()].into_iter().flatten();
    let help = help.map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let is_part =
        |letter: char| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_';
    let named = help.split(|letter| !is_part(letter)).filter(|word| word.contains('_'));
    let read = flag.get_env().map(|name| name.to_string_lossy().into_owned());
    named.map(ToOwned::to_owned).chain(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        let size = Arg::new("size").long("size").help("How large [default: SIZE_OF_ALL]");
        let part = Command::new("part").arg(Arg::new("count").long("count"));
        Command::new("whole").arg(size).subcommand(part)
    }

    const SIZE: Entry = Entry { name: "OTHER, SIZE_OF_ALL", meaning: "How large" };
    const WHOLE: Entry = Entry { name: "--size 3", meaning: "A whole of three" };
    const PART: Entry = Entry { name: "part --count 3", meaning: "Three parts" };

    const fn reference(examples: &'static [Entry], variables: &'static [Entry]) -> Reference {
        Reference { examples, variables, exit_status: &[], files: &[] }
    }

    #[test]
    fn what_is_wrong_is_found() {
        assert_eq!(faults(&command(), &reference(&[WHOLE, PART], &[SIZE])), [""; 0]);
        let found = faults(&command(), &reference(&[WHOLE, PART], &[]));
        assert_eq!(found, ["--size speaks of SIZE_OF_ALL, which is not explained"]);
        let found = faults(&command(), &reference(&[WHOLE], &[SIZE]));
        assert_eq!(found, ["the command [\"part\"] has no example"]);
        let wrong = Entry { name: "part --size 3", meaning: "" };
        let wrong = Box::leak(Box::new([WHOLE, PART, wrong]));
        let found = faults(&command(), &reference(wrong, &[SIZE]));
        assert!(
            found.len() == 1 && found[0].contains("\"part --size 3\" is not taken"),
            "{found:?}"
        );
    }

    #[test]
    fn examples_stand_in_the_help_of_their_command() {
        let mut command = in_help(command(), &reference(&[WHOLE, PART], &[SIZE]));
        let help = command.render_help().to_string();
        assert!(
            help.contains("Examples:\n  whole --size 3\n          A whole of three\n"),
            "{help}"
        );
        assert!(
            help.contains("\nEnvironment:\n  OTHER, SIZE_OF_ALL\n") && !help.contains("--count 3")
        );
        let help = command.find_subcommand_mut("part").unwrap().render_help().to_string();
        assert!(help.contains("Examples:\n  whole part --count 3\n"), "{help}");
        assert!(!help.contains("Environment:"), "{help}");
    }
}
