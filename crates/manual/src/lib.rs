//! Man pages and shell completions of a program. The program itself writes them from its flags:
//! `PROGRAM --write-manual DIR`; `cargo xtask dist` packs them. This flag is not among the program's own
//! flags, so it appears neither in the help nor in the pages.
//!
//! The crate also has what the flags of all programs have in common: values from a file
//! (`config_file.rs`), numbers as values, the [`Reference`] that help and pages show, and the output for
//! help and for errors in the arguments. Nothing here knows the meaning of the flags.

pub mod config_file;

mod numbers;
mod page;
mod reference;

use std::{
    env, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::OnceLock,
};

use clap::{
    Command,
    error::{ContextKind, ContextValue, ErrorKind},
};
use clap_complete::Shell;

pub use self::{
    numbers::{accept_negative_numbers, real, whole},
    reference::{Entry, Reference, faults},
};

/// The variable with the commit of a release, at its build.
pub const COMMIT: &str = "LOCKSTEP_COMMIT";

const FLAG: &str = "--write-manual";
/// The shells that get completions.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Fish, Shell::Zsh];
/// The subfolder of the man pages.
pub const PAGES: &str = "man1";
/// The subfolder of the completions.
pub const COMPLETIONS: &str = "completions";

/// Completes a program's command: its help gets the examples and variables of the reference, and its flags
/// accept negative numbers, see [`accept_negative_numbers`].
#[must_use]
pub fn complete(command: Command, reference: &Reference) -> Command {
    accept_negative_numbers(reference::in_help(command, reference))
}

/// The version that a program prints; in a release it includes the commit.
#[must_use]
pub fn version(package: &'static str) -> &'static str {
    static WHOLE: OnceLock<String> = OnceLock::new();
    match option_env!("LOCKSTEP_COMMIT") {
        Some(commit) => WHOLE.get_or_init(|| format!("{package} ({commit})")),
        None => package,
    }
}

/// Writes the manual, if the arguments ask for it. The program then ends with the returned exit code.
pub fn on_request(command: Command, reference: &Reference) -> Option<ExitCode> {
    let folder = requested(env::args_os().skip(1).collect())?;
    Some(match write(command, reference, &folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let folder = folder.display();
            let _closed =
                writeln!(io::stderr(), "error: cannot write the manual to {folder}: {error}");
            ExitCode::FAILURE
        }
    })
}

/// Prints the parser's answer: help and version on standard output, an error with the usage on standard
/// error. Returns the exit code for it.
#[must_use]
pub fn answer(mut said: clap::Error) -> ExitCode {
    tell_of_dashes(&mut said);
    let printed = said.print();
    if !said.use_stderr() {
        let _told_at_the_end = stdout::printed(printed);
    }
    ExitCode::from(u8::try_from(said.exit_code()).unwrap_or(u8::MAX))
}

/// Adds a tip how to give a value that begins with a dash, such as the name of a file: the parser took the value for
/// short flags.
fn tell_of_dashes(said: &mut clap::Error) {
    let Some(ContextValue::String(argument)) = said.get(ContextKind::InvalidArg) else { return };
    let is_short = argument.starts_with('-') && !argument.starts_with("--");
    if said.kind() == ErrorKind::UnknownArgument && is_short {
        let tip = "a value that begins with a dash follows its flag after `=`: --flag=-value";
        said.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
}

fn requested(arguments: Vec<std::ffi::OsString>) -> Option<PathBuf> {
    match &arguments[..] {
        [flag, folder] if flag == FLAG => Some(folder.into()),
        _ => None,
    }
}

/// Writes a page for the command and each of its own commands, and completions for each shell.
fn write(mut command: Command, reference: &Reference, folder: &Path) -> io::Result<()> {
    let faults = faults(&accept_negative_numbers(command.clone()), reference);
    if !faults.is_empty() {
        return Err(io::Error::other(faults.join("; ")));
    }
    let (pages, completions) = (folder.join(PAGES), folder.join(COMPLETIONS));
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&completions)?;
    // The pages come before the completions, because those add a help command to the program.
    page::write_all(command.clone(), reference, &pages)?;
    let name = command.get_name().to_owned();
    for shell in SHELLS {
        let file = clap_complete::generate_to(shell, &mut command, &name, &completions)?;
        let script = fs::read_to_string(&file)?;
        fs::write(
            &file,
            match shell {
                Shell::Bash => with_one_name(&script, &name),
                Shell::Fish => with_last_value(&script),
                _ => script,
            },
        )?;
    }
    Ok(())
}

/// The script for bash, with one name for each subcommand. If the program's name has a dash,
/// clap_complete 4.6 stores a subcommand under one name and looks it up under another, so that it never
/// offers completions for it.
fn with_one_name(script: &str, program: &str) -> String {
    let (noted, looked_up) = (program.replace('-', "__"), program.replace('-', "__subcmd__"));
    script.replace(&format!("{looked_up}__subcmd__"), &format!("{noted}__subcmd__"))
}

/// The script for fish, changed to offer the values of a flag also if the program has subcommands. To find
/// the subcommand, the script of clap_complete 4.6 parses the line, which fails as long as the last flag
/// has no value.
fn with_last_value(script: &str) -> String {
    let give_up = "    or return\n";
    let parse = script.lines().find(|line| line.ends_with("-- $cmd 2>/dev/null"));
    let Some(line) = parse else { return script.to_owned() };
    let again = line.trim_start().replace("$cmd", "$cmd ''");
    script.replace(&format!("{line}\n{give_up}"), &format!("{line}\n    or {again}\n{give_up}"))
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    const NOTHING: Reference =
        Reference { examples: &[], exit_status: &[], variables: &[], files: &[] };

    #[test]
    fn only_the_flag_with_a_folder_asks_for_it() {
        let asked = |line: &str| requested(line.split_whitespace().map(Into::into).collect());
        assert_eq!(asked("--write-manual folder"), Some("folder".into()));
        for line in ["", "--write-manual", "--count 3", "run --write-manual folder"] {
            assert_eq!(asked(line), None);
        }
    }

    #[test]
    fn every_command_has_a_page_and_every_shell_its_completions() {
        let folder = tempfile::tempdir().unwrap();
        let part = Command::new("part").about("A part").arg(Arg::new("size").long("size"));
        const fn entry(name: &'static str, meaning: &'static str) -> Entry {
            Entry { name, meaning }
        }
        const REFERENCE: Reference = Reference {
            examples: &[entry("", "All of it"), entry("part --size 3", "A part of it")],
            exit_status: &[entry("3", "It has no parts")],
            variables: &[entry("WHOLE_SIZE", "How large it is")],
            files: &[entry("parts/", "The parts")],
        };
        write(Command::new("whole").subcommand(part), &REFERENCE, folder.path()).unwrap();
        let page = |name: &str| fs::read_to_string(folder.path().join(PAGES).join(name)).unwrap();
        let sections = [
            (".SH \"EXIT STATUS\"", "3", "It has no parts", false),
            (".SH ENVIRONMENT", "WHOLE_SIZE", "How large it is", false),
            (".SH FILES", "parts/", "The parts", false),
            (".SH EXAMPLES", "whole", "All of it", false),
            (".SH EXAMPLES", "whole part \\-\\-size 3", "A part of it", true),
        ];
        for (title, name, meaning, is_of_part) in sections {
            let entry = format!("\\fB{name}\\fR\n{meaning}\n");
            for (file, expected) in [("whole.1", !is_of_part), ("whole-part.1", is_of_part)] {
                let text = page(file);
                let found = text.contains(title) && text.contains(&entry);
                assert_eq!(found, expected, "{file}: {title} {entry}: {text}");
            }
        }
        assert!(page("whole-part.1").contains("All that was asked for is done"));
        assert_eq!(fs::read_dir(folder.path().join(PAGES)).unwrap().count(), 2);
        for file in ["whole.bash", "whole.fish", "_whole"] {
            let text = fs::read_to_string(folder.path().join(COMPLETIONS).join(file)).unwrap();
            assert!(text.contains("size"), "{file}");
        }
    }

    #[test]
    fn a_value_that_begins_with_a_dash_is_explained() {
        let command = || Command::new("whole").arg(Arg::new("output").long("output"));
        let said = |line: &str| {
            let mut said = command().try_get_matches_from(line.split(' ')).unwrap_err();
            tell_of_dashes(&mut said);
            said.to_string()
        };
        let tip = "tip: a value that begins with a dash";
        assert!(said("whole --output -x.png").contains(tip), "{}", said("whole --output -x.png"));
        assert!(!said("whole --outptu x.png").contains(tip));
        assert!(command().try_get_matches_from(["whole", "--output=-x.png"]).is_ok());
    }

    #[test]
    fn the_help_names_the_variables() {
        let meaning = Box::leak("word ".repeat(40).into_boxed_str());
        let variables = Box::leak(Box::new([Entry { name: "SIZE", meaning }]));
        let reference = Reference { variables, ..NOTHING };
        let help = complete(Command::new("whole"), &reference).render_help().to_string();
        let (_, section) = help.split_once("Environment:\n  SIZE\n").expect(&help);
        assert_eq!(section.matches("word").count(), 40);
        assert!(section.lines().all(|line| line.len() <= 100), "{section}");
    }

    /// The words that bash offers after a line.
    #[test]
    fn bash_offers_the_flags_of_each_command() {
        let folder = tempfile::tempdir().unwrap();
        let size = Arg::new("size").long("size").value_parser(["large", "small"]);
        let part = Command::new("a-part").arg(size).subcommand(Command::new("deep-er"));
        let whole = Command::new("the-whole").arg(Arg::new("name").long("name")).subcommand(part);
        let example = |name| Entry { name, meaning: "Do it" };
        let examples = Box::leak(Box::new(["", "a-part", "a-part deep-er"].map(example)));
        write(whole, &Reference { examples, ..NOTHING }, folder.path()).unwrap();
        let script = folder.path().join(COMPLETIONS).join("the-whole.bash");
        let offered = |line: &str| {
            let ask = format!(
                "source '{}'; COMP_WORDS=({line} ''); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
                 $(complete -p the-whole | sed 's/.*-F \\([^ ]*\\).*/\\1/') \"${{COMP_WORDS[0]}}\" '' \
                 \"${{COMP_WORDS[COMP_CWORD - 1]}}\"; echo \"${{COMPREPLY[@]}}\"",
                script.display()
            );
            let output = std::process::Command::new("bash").args(["-c", &ask]).output().unwrap();
            let text = |bytes| String::from_utf8(bytes).unwrap();
            assert_eq!(text(output.stderr), "", "{line}");
            text(output.stdout)
        };
        for (line, expected) in [
            ("the-whole", "--name"),
            ("the-whole", "a-part"),
            ("the-whole a-part", "--size"),
            ("./bin/the-whole a-part", "deep-er"),
            ("the-whole a-part --size", "large small"),
            ("the-whole a-part deep-er", "--help"),
        ] {
            assert!(offered(line).contains(expected), "{line}: {}", offered(line));
        }
        assert!(!offered("the-whole a-part").contains("--name"));
    }
}
