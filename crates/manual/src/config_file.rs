//! Reads flags from a file: `--config FILE`, in TOML, with a key for each flag. A value on the command
//! line, or in an environment variable, wins. `PROGRAM config print` prints such a file with the values
//! of a command line.
//!
//! This module knows only the flag `--config`, which the program itself declares.

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{
    Arg, ArgAction, ArgMatches, Command,
    error::{ContextKind, ContextValue, Error, ErrorKind},
    parser::ValueSource,
};
use toml::{Table, Value};

/// The flag's id.
const CONFIG: &str = "config";

/// The words before the flags to print.
const PRINT: [&str; 2] = [CONFIG, "print"];

/// The most bytes of a file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A key that is at least this similar to a flag (1 is equal) is taken for a misspelt flag.
const LIKE: f64 = 0.8;

/// Parses the arguments, of which the first is the program's name, together with the file that they name.
///
/// # Errors
/// The parser's error; or an error if the file cannot be read, a key is no flag, or a value is not valid
/// for its flag.
pub fn parse(command: Command, arguments: Vec<OsString>) -> Result<ArgMatches, Error> {
    let given = command.clone().ignore_errors(true).try_get_matches_from(&arguments);
    let given = given.unwrap_or_default();
    let file = given.try_get_one::<PathBuf>(CONFIG).ok().flatten().cloned();
    let Some(file) = file.filter(|_| given.subcommand().is_none()) else {
        return command.try_get_matches_from(arguments);
    };
    let mut said = command.clone();
    let table = read(&file).map_err(|why| refuse(&mut said, &why))?;
    let flags = flags(&command, &given, &table)
        .map_err(|why| refuse(&mut said, &format!("{}: {why}", file.display())))?;
    let words = flags.iter().flat_map(|(_, words)| words).map(OsString::from);
    let all = arguments[..1].iter().cloned().chain(words).chain(arguments[1..].iter().cloned());
    command.clone().try_get_matches_from(all).map_err(|error| {
        // Flags that conflict without the file are not to be told together with those of the file.
        match command.try_get_matches_from(arguments) {
            Err(without) if without.kind() == ErrorKind::ArgumentConflict => without,
            _ => with_place(error, &flags, &file),
        }
    })
}

/// The command that [`print_on_request`] carries out, for the program's help and manual.
#[must_use]
pub fn command() -> Command {
    let flags = Arg::new("flags").help("The program's own flags").value_name("FLAGS");
    let flags = flags.num_args(0..).trailing_var_arg(true).allow_hyphen_values(true);
    let print = Command::new(PRINT[1]).about("Print these flags and the defaults of all others");
    Command::new(PRINT[0])
        .about("Print a file for --config")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(print.arg(flags))
}

/// Prints the values of the arguments as a file, if the arguments begin with `config print`. The program
/// then ends with the returned exit code.
pub fn print_on_request(command: Command, arguments: &[OsString]) -> Option<ExitCode> {
    let asked = arguments.get(1..3)?.iter().zip(PRINT).all(|(word, expected)| word == expected);
    if !asked {
        return None;
    }
    let line = arguments[..1].iter().chain(&arguments[3..]).cloned().collect();
    Some(match parse(command.clone(), line) {
        Ok(matches) => {
            let _told_at_the_end = stdout::bytes(as_file(&command, &matches).as_bytes());
            stdout::finish(ExitCode::SUCCESS)
        }
        Err(said) => crate::answer(said),
    })
}

fn refuse(command: &mut Command, why: &str) -> Error {
    command.error(ErrorKind::Io, format!("--config {why}"))
}

fn read(file: &Path) -> Result<Table, String> {
    let shown = file.display();
    let unreadable = |error: std::io::Error| format!("{shown} cannot be read: {error}");
    let found = fs::metadata(file).map_err(unreadable)?;
    if !found.is_file() {
        return Err(format!("{shown} is not a regular file: give the path of a TOML file"));
    }
    if found.len() > FILE_BYTES_MAX {
        return Err(format!("{shown} has more than {FILE_BYTES_MAX} bytes: it is not such a file"));
    }
    let text = fs::read_to_string(file).map_err(unreadable)?;
    text.parse::<Table>().map_err(|error| {
        let before = error.span().map_or(0, |span| span.start).min(text.len());
        let line = text[..before].matches('\n').count();
        let content = text.lines().nth(line).unwrap_or_default().trim();
        format!("{shown} is not TOML: line {}: {}: {content}", line + 1, error.message())
    })
}

/// The keys of the table, each with its arguments, without those that the command line decides: their
/// flags, or flags that exclude them, are given there.
fn flags(
    command: &Command,
    given: &ArgMatches,
    table: &Table,
) -> Result<Vec<(String, Vec<String>)>, String> {
    let is_given = |flag: &&Arg| {
        let source = given.value_source(flag.get_id().as_str());
        matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
    };
    let given: Vec<&Arg> = command.get_arguments().filter(is_given).collect();
    let excludes = |one: &Arg, other: &Arg| command.get_arg_conflicts_with(one).contains(&other);
    let mut flags = Vec::new();
    for (key, value) in table {
        let flag = flag_of(command, key)?;
        let words = arguments(flag, key, value)?;
        let decides = |one: &&Arg| *one == flag || excludes(one, flag) || excludes(flag, one);
        if !given.iter().any(decides) {
            flags.push((with_dashes(key), words));
        }
    }
    Ok(flags)
}

fn with_dashes(key: &str) -> String {
    key.replace('_', "-")
}

/// The flag of a key.
fn flag_of<'a>(command: &'a Command, key: &str) -> Result<&'a Arg, String> {
    let name = with_dashes(key);
    let is_called = |flag: &&Arg| {
        let aliases = flag.get_all_aliases().unwrap_or_default();
        flag.get_long() == Some(&name) || aliases.contains(&&name[..])
    };
    if let Some(flag) = in_files(command).find(is_called) {
        return Ok(flag);
    }
    let near = in_files(command)
        .filter_map(Arg::get_long)
        .map(|long| (strsim::jaro_winkler(long, &name), long))
        .filter(|(likeness, _)| *likeness >= LIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    let near = near.map_or(String::new(), |(_, long)| format!("; did you mean {long}?"));
    Err(format!("there is no flag for the key {key}{near}"))
}

/// The flags that may be in a file.
fn in_files(command: &Command) -> impl Iterator<Item = &Arg> {
    let is_action = |flag: &Arg| {
        let action = flag.get_action();
        matches!(action, ArgAction::Set | ArgAction::Append | ArgAction::SetTrue)
    };
    command.get_arguments().filter(move |flag| is_action(flag) && flag.get_id() != CONFIG)
}

/// Converts a value in the file into arguments.
fn arguments(flag: &Arg, key: &str, value: &Value) -> Result<Vec<String>, String> {
    let name = format!("--{}", flag.get_long().unwrap_or_default());
    let is_switch = matches!(flag.get_action(), ArgAction::SetTrue);
    match value {
        Value::Boolean(true) if is_switch => return Ok(vec![name]),
        Value::Boolean(false) if is_switch => return Ok(Vec::new()),
        _ if is_switch => return Err(format!("{key} is true or false")),
        _ => {}
    }
    let values = match value {
        Value::Array(values) if takes_several(flag) => &values[..],
        value => std::slice::from_ref(value),
    };
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => Ok(value.to_string()),
        Value::Array(_) => Err(format!("{key} takes one value, not a list")),
        _ => Err(format!("{key} is a text or a number, not a {}", value.type_str())),
    };
    let values = values.iter().map(text).collect::<Result<Vec<_>, _>>()?;
    Ok(match flag.get_value_delimiter() {
        Some(delimiter) => vec![format!("{name}={}", values.join(&delimiter.to_string()))],
        None => values.iter().map(|value| format!("{name}={value}")).collect(),
    })
}

fn takes_several(flag: &Arg) -> bool {
    flag.get_value_delimiter().is_some() || matches!(flag.get_action(), ArgAction::Append)
}

/// Adds the name of the file to an error about a value that is not valid for its flag.
fn with_place(mut error: Error, flags: &[(String, Vec<String>)], file: &Path) -> Error {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return error };
    let name = flag.trim_start_matches('-').split([' ', '=']).next().unwrap_or_default();
    if flags.iter().any(|(key, _)| key == name) {
        let tip = format!("{name} is a key in {}", file.display());
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// All flags with their values; a flag without a value is a comment.
fn as_file(command: &Command, matches: &ArgMatches) -> String {
    let mut text = String::new();
    for flag in in_files(command) {
        let Some(key) = flag.get_long() else { continue };
        let values = matches.get_raw(flag.get_id().as_str()).into_iter().flatten();
        let values: Vec<_> = values.map(|value| in_toml(&value.to_string_lossy())).collect();
        let line = match &values[..] {
            [] => format!("# {key} ="),
            values if takes_several(flag) => format!("{key} = [{}]", values.join(", ")),
            [value, ..] => format!("{key} = {value}"),
        };
        let _written = writeln!(text, "{line}");
    }
    text
}

fn in_toml(value: &str) -> String {
    let is_plain = value.parse::<i64>().is_ok()
        || value.parse::<bool>().is_ok()
        || value.parse::<f64>().is_ok_and(f64::is_finite);
    // Numbers of TOML begin with a digit, and end with one.
    let is_edged = value.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '-')
        && value.ends_with(|c: char| c.is_ascii_alphanumeric());
    if is_plain && is_edged {
        value.to_owned()
    } else {
        Value::String(value.to_owned()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        Command::new("program")
            .arg(Arg::new(CONFIG).long("config").value_parser(clap::value_parser!(PathBuf)))
            .arg(
                Arg::new("batch_size")
                    .long("batch-size")
                    .default_value("64")
                    .value_parser(clap::value_parser!(u32)),
            )
            .arg(Arg::new("rate").long("rate").visible_alias("learning-rate"))
            .arg(Arg::new("spawn").long("spawn").action(ArgAction::SetTrue))
            .arg(Arg::new("alone").long("alone").conflicts_with("spawn").action(ArgAction::SetTrue))
            .subcommand(Command::new("list"))
            .args_conflicts_with_subcommands(true)
            .arg(Arg::new("device").long("device").value_delimiter(','))
    }

    fn with(text: &str, line: &str) -> Result<ArgMatches, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run.toml");
        fs::write(&file, text).unwrap();
        let words = format!("program --config {} {line}", file.display());
        let words = words.split_whitespace().map(Into::into).collect();
        parse(command(), words).map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_counts_more_than_the_file() {
        let text = "batch_size = 32\nlearning-rate = 1e-3\nspawn = true\ndevice = [\"a\", \"b\"]\n";
        let found = with(text, "--batch-size 16").unwrap();
        assert_eq!(found.get_one::<u32>("batch_size"), Some(&16));
        assert_eq!(found.get_one::<String>("rate").unwrap(), "0.001");
        assert!(found.get_flag("spawn"));
        assert_eq!(found.get_many::<String>("device").unwrap().count(), 2);
        let found = with(text, "").unwrap();
        assert_eq!(found.get_one::<u32>("batch_size"), Some(&32));
        assert!(!with("spawn = false", "").unwrap().get_flag("spawn"));
        // So does a flag that excludes one of the file.
        for (text, line) in [("spawn = true", "--alone"), ("alone = true", "--spawn")] {
            let found = with(text, line).unwrap();
            assert_ne!(found.get_flag("spawn"), found.get_flag("alone"), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_place() {
        for (text, words) in [
            ("batch-sise = 3", &["run.toml", "batch-sise", "did you mean batch-size?"][..]),
            ("zzz = 3", &["no flag for the key zzz"]),
            ("config = \"other.toml\"", &["no flag for the key config"]),
            ("\nrate = = 3", &["run.toml is not TOML: line 2", "rate = = 3"]),
            ("rate = 1\nrate = 2", &["line 2: duplicate key: rate = 2"]),
            ("spawn = 1", &["spawn is true or false"]),
            ("rate = { a = 1 }", &["rate is a text or a number"]),
            ("batch-size = [1, 2]", &["batch-size takes one value, not a list"]),
            ("batch-size = \"many\"", &["many", "batch-size is a key in", "run.toml"]),
        ] {
            let error = with(text, "").unwrap_err();
            assert!(words.iter().all(|words| error.contains(words)), "{text}: {error}");
        }
        let line = ["program", "--config", "/nowhere/run.toml"].map(Into::into).to_vec();
        let error = parse(command(), line).unwrap_err().to_string();
        assert!(error.contains("--config /nowhere/run.toml cannot be read"), "{error}");
        let line = ["program", "--config", "/"].map(Into::into).to_vec();
        let error = parse(command(), line).unwrap_err().to_string();
        assert!(error.contains("--config / is not a regular file"), "{error}");
        // What is wrong with the command line alone is said as without a file.
        let error = with("batch-size = 3", "--batch-size many").unwrap_err();
        assert!(!error.contains("is a key in"), "{error}");
        let error = with("batch-size = 3", "list").unwrap_err();
        assert!(error.contains("--config") && !error.contains("--batch-size"), "{error}");
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        let matches =
            with("rate = \"0.25\"\ndevice = [\"cuda:0\", \"cpu\"]\nspawn = true", "").unwrap();
        let text = as_file(&command(), &matches);
        assert_eq!(
            text,
            "batch-size = 64\nrate = 0.25\nspawn = true\nalone = false\ndevice = [\"cuda:0\", \"cpu\"]\n"
        );
        assert_eq!(as_file(&command(), &with(&text, "").unwrap()), text);
        let bare = as_file(&command(), &with("", "").unwrap());
        assert!(bare.contains("# rate =\n"), "{bare}");
    }
}
