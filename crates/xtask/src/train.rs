//! `cargo xtask train`: a whole training run on this machine, from a fresh checkout on.

use crate::workspace::{self, Build};
use crate::{child, setup};
use anyhow::{Context, bail};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;
use std::{env, fs, io};

/// What the coordinator is given where the user's flags do not say otherwise.
const DEFAULTS: [&[&str]; 3] = [&["--workers", "4"], &["--spawn"], &["--epochs", "5"]];

/// The coordinator links the newest run here.
const LATEST_RUN: &str = "runs/latest";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Flags for vae-coordinator; they win over the defaults
    ///
    /// For instance `cargo xtask train -- --epochs 20 --workers 2`. All of them:
    /// `cargo xtask train -- --help`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    flags: Vec<String>,
}

/// Sets up, builds and trains. Returns the exit status of what failed, or of the coordinator.
pub(crate) fn run(options: &Options) -> anyhow::Result<u8> {
    setup::run(&setup::Options::default())?;
    let coordinator = match workspace::build_programs(&["-p", "coordinator", "-p", "worker"])? {
        Build::Failed(code) => return Ok(code),
        Build::Done(programs) => {
            let named =
                |program: &PathBuf| program.file_name() == Some(OsStr::new("vae-coordinator"));
            programs.into_iter().find(named).context("the build has made no vae-coordinator")?
        }
    };
    let run_dir = Path::new(value_of(&options.flags, "--run-dir").unwrap_or(LATEST_RUN));
    let before = left_in(run_dir)?;
    let code = child::run(Command::new(coordinator).args(with_defaults(&options.flags)))?;
    if code == child::SUCCESS {
        for file in left_in(run_dir)?.iter().filter(|file| !before.contains(file)) {
            println!("{:<11}{}", file.label, relative_to_here(&file.path).display());
        }
    }
    Ok(code)
}

/// The user's flags after those defaults that they do not set.
fn with_defaults(flags: &[String]) -> Vec<String> {
    let unset = DEFAULTS.iter().filter(|default| !is_set(flags, default[0]));
    unset
        .flat_map(|default| default.iter().map(ToString::to_string))
        .chain(flags.iter().cloned())
        .collect()
}

fn is_set(flags: &[String], name: &str) -> bool {
    flags.iter().any(|flag| flag == name || assigned(flag, name).is_some())
}

/// The value of `--name value` or `--name=value`; the last one, as in the coordinator.
fn value_of<'a>(flags: &'a [String], name: &str) -> Option<&'a str> {
    let value_at = |index: usize| match flags[index] == name {
        true => flags.get(index + 1).map(String::as_str),
        false => assigned(&flags[index], name),
    };
    (0..flags.len()).rev().find_map(value_at)
}

fn assigned<'a>(flag: &'a str, name: &str) -> Option<&'a str> {
    flag.strip_prefix(name)?.strip_prefix('=')
}

/// A file that a run leaves for its user.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Left {
    label: &'static str,
    modified: SystemTime,
    path: PathBuf,
}

/// The newest checkpoint and the newest picture in a run directory, as far as there are any.
///
/// Links are resolved: the newest run's checkpoint is another file than the one of the run before.
fn left_in(run_dir: &Path) -> anyhow::Result<Vec<Left>> {
    let mut found = Vec::new();
    for (label, folder, extension) in
        [("checkpoint", "checkpoints", "safetensors"), ("samples", "samples", "png")]
    {
        found.extend(newest(label, &run_dir.join(folder), extension)?);
    }
    Ok(found)
}

fn newest(label: &'static str, folder: &Path, extension: &str) -> anyhow::Result<Option<Left>> {
    let listed = match fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => bail!("cannot list {}: {error}", folder.display()),
    };
    let mut files = Vec::new();
    for entry in listed {
        let path = entry?.path();
        // What is gone by now, or is being written under another name, is not asked for.
        if path.extension() == Some(OsStr::new(extension))
            && let Ok(path) = path.canonicalize()
            && let Ok(modified) = fs::metadata(&path).and_then(|file| file.modified())
        {
            files.push(Left { label, modified, path });
        }
    }
    Ok(files.into_iter().max())
}

/// The path as seen from where the user stands, if it is below.
fn relative_to_here(path: &Path) -> &Path {
    let here = env::current_dir().and_then(|here| here.canonicalize()).unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn flags(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_default_is_left_out_where_the_user_has_said_otherwise() {
        for (given, expected) in [
            ("", "--workers 4 --spawn --epochs 5"),
            ("--epochs 1", "--workers 4 --spawn --epochs 1"),
            ("--workers=2 --seed 3", "--spawn --epochs 5 --workers=2 --seed 3"),
            ("--spawn --workers 1 --epochs=9", "--spawn --workers 1 --epochs=9"),
            ("--epochs-per-day 2", "--workers 4 --spawn --epochs 5 --epochs-per-day 2"),
        ] {
            assert_eq!(with_defaults(&flags(given)), flags(expected), "{given}");
        }
    }

    #[test]
    fn the_run_directory_is_the_last_one_given() {
        for (given, expected) in [
            ("", None),
            ("--run-dir a", Some("a")),
            ("--run-dir=a --run-dir b", Some("b")),
            ("--run-dir b --run-dir=a", Some("a")),
            ("--run-directory a", None),
            ("--run-dir", None),
        ] {
            assert_eq!(value_of(&flags(given), "--run-dir"), expected, "{given}");
        }
    }

    #[test]
    fn the_newest_checkpoint_and_picture_of_a_run_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = folder.path().canonicalize().unwrap();
        let write = |path: &str, seconds: u64| {
            let path = run_dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let file = fs::File::create(path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        };
        assert_eq!(left_in(&run_dir).unwrap(), []);
        write("checkpoints/step-2.safetensors", 5);
        write("checkpoints/step-1.safetensors", 1);
        write("checkpoints/step-3.safetensors.part", 9);
        write("samples/epoch-1.png", 2);
        let before = left_in(&run_dir).unwrap();
        let paths: Vec<&Path> = before.iter().map(|file| file.path.as_path()).collect();
        let expected = ["checkpoints/step-2.safetensors", "samples/epoch-1.png"];
        assert_eq!(paths, expected.map(|path| run_dir.join(path)));
        // Written anew by the next run, it counts as that run's.
        write("checkpoints/step-2.safetensors", 6);
        let after = left_in(&run_dir).unwrap();
        assert!(!before.contains(&after[0]) && before.contains(&after[1]));
    }
}
