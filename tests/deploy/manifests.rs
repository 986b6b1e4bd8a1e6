//! Reads the commands in deploy/, in the README and in the manual: their programs and flags.
//!
//! Nothing here runs them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

const PROGRAMS: [&str; 2] = ["vae-coordinator", "vae-worker"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

pub(super) fn text(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The documents of a YAML file.
pub(super) fn documents(file: &str) -> Vec<Value> {
    let read = YamlLoader::load_from_str(&text(file));
    read.unwrap_or_else(|error| panic!("{file}: {error}")).iter().map(json).collect()
}

fn json(yaml: &Yaml) -> Value {
    match yaml {
        Yaml::Array(parts) => parts.iter().map(json).collect(),
        Yaml::Hash(fields) => {
            let name = |key: &Yaml| key.as_str().unwrap_or_default().to_owned();
            fields.iter().map(|(key, field)| (name(key), json(field))).collect()
        }
        Yaml::String(text) => text.as_str().into(),
        Yaml::Integer(number) => (*number).into(),
        Yaml::Boolean(truth) => (*truth).into(),
        // Not needed here.
        Yaml::Real(_) | Yaml::Alias(_) | Yaml::Null | Yaml::BadValue => Value::Null,
    }
}

/// The files in deploy/ that may start programs, the README, the manual and the VAE's page. The script
/// for Slurm is left out: its flags come from shell variables, and tests/slurm.rs runs it.
pub(super) fn files() -> Vec<String> {
    let mut found = vec!["README.md".to_owned(), "crates/vae/README.md".to_owned()];
    let mut pending = vec![root().join("deploy"), root().join("crates/lockstep/src/manual")];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.ends_with("slurm") {
                continue;
            }
            if path.is_dir() {
                pending.push(path);
            } else {
                found.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// The commands of a file, each as words: the program, then its arguments.
pub(super) fn invocations(file: &str) -> Vec<Vec<String>> {
    match file.rsplit_once('.').map(|(_, extension)| extension) {
        Some("yaml") => {
            let mut found = Vec::new();
            documents(file).iter().for_each(|document| walk(document, &mut found));
            found
        }
        Some("service") => of_shell(&text(file).replace("ExecStart=", "")),
        Some("md") => of_shell(&consoles(&text(file))),
        _ => of_shell(&text(file)),
    }
}

/// The commands of containers in this value and below it, in the format of Kubernetes or of Compose.
fn walk(value: &Value, found: &mut Vec<Vec<String>>) {
    match value {
        Value::Array(parts) => parts.iter().for_each(|part| walk(part, found)),
        Value::Object(fields) => {
            let words = |name: &str| fields.get(name).map(strings).unwrap_or_default();
            let test = words("test").into_iter().skip(1).collect();
            for command in [[words("command"), words("args")].concat(), test] {
                match command.first().map(String::as_str) {
                    Some("sh") => found.extend(of_shell(&command[command.len() - 1])),
                    Some(program) if PROGRAMS.contains(&program) => found.push(command),
                    _ => {}
                }
            }
            fields.values().for_each(|field| walk(field, found));
        }
        _ => {}
    }
}

fn strings(value: &Value) -> Vec<String> {
    let list = value.as_array().into_iter().flatten();
    list.filter_map(|word| word.as_str().map(str::to_owned)).collect()
}

/// The lines to type in the console blocks of a Markdown text.
fn consoles(text: &str) -> String {
    let blocks = text.split("```console\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.flat_map(str::lines).map(|line| format!("{}\n", line.trim_start_matches("$ "))).collect()
}

/// The programs that a shell script runs, with the arguments that are not shell variables.
fn of_shell(script: &str) -> Vec<Vec<String>> {
    let lines = script.replace("\\\n", " ");
    let lines = lines.lines().map(|line| line.split(" #").next().unwrap_or_default());
    let lines = lines.filter(|line| !line.trim_start().starts_with('#'));
    let commands = lines.flat_map(|line| line.split(['&', '|', ';', '>'])).filter_map(|command| {
        let words: Vec<&str> =
            command.split_whitespace().map(|word| word.trim_matches(['"', '\''])).collect();
        let is_program =
            |word: &&str| PROGRAMS.contains(&word.rsplit('/').next().unwrap_or_default());
        let at = words.iter().position(is_program)?;
        let program = words[at].rsplit('/').next().unwrap_or_default();
        let given = words[at + 1..].iter().filter(|word| !word.starts_with('$'));
        Some([program].into_iter().chain(given.copied()).map(str::to_owned).collect())
    });
    commands.collect()
}
