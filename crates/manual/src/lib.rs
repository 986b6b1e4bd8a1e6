//! Man pages and shell completions of a program, made by the program itself from the flags it
//! parses: `PROGRAM --write-manual DIR`, for those who pack it (`cargo xtask dist` does).
//!
//! The flag is not among the program's own, so it is neither in its help nor in what is
//! written. Nothing here knows what the flags mean.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Command;
use clap_complete::Shell;

const FLAG: &str = "--write-manual";
/// The shells that people use here.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Fish, Shell::Zsh];
/// Folders below the one given.
pub const PAGES: &str = "man1";
/// See [`PAGES`].
pub const COMPLETIONS: &str = "completions";

/// Writes the manual where that is all that was asked for; the program then ends with what this
/// gives.
#[allow(clippy::print_stderr, reason = "an error is the last thing the program says")]
pub fn on_request(command: Command) -> Option<ExitCode> {
    let folder = requested(env::args_os().skip(1).collect())?;
    Some(match write(command, &folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: cannot write the manual to {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    })
}

fn requested(arguments: Vec<std::ffi::OsString>) -> Option<PathBuf> {
    match &arguments[..] {
        [flag, folder] if flag == FLAG => Some(folder.into()),
        _ => None,
    }
}

/// Writes a page for the command and each of its own commands, and completions for each shell.
fn write(mut command: Command, folder: &Path) -> io::Result<()> {
    let (pages, completions) = (folder.join(PAGES), folder.join(COMPLETIONS));
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&completions)?;
    // Before the completions, which add a help command to those of the program.
    clap_mangen::generate_to(command.clone().disable_help_subcommand(true), &pages)?;
    let name = command.get_name().to_owned();
    for shell in SHELLS {
        clap_complete::generate_to(shell, &mut command, &name, &completions)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

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
        write(Command::new("whole").subcommand(part), folder.path()).unwrap();
        for page in ["whole.1", "whole-part.1"] {
            let text = fs::read_to_string(folder.path().join(PAGES).join(page)).unwrap();
            assert!(text.contains(".TH whole"), "{text}");
        }
        assert_eq!(fs::read_dir(folder.path().join(PAGES)).unwrap().count(), 2);
        for file in ["whole.bash", "whole.fish", "_whole"] {
            let text = fs::read_to_string(folder.path().join(COMPLETIONS).join(file)).unwrap();
            assert!(text.contains("size"), "{file}");
        }
    }
}
