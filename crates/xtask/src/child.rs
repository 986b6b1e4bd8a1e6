//! Child processes, and their exit status as an exit status of xtask.

use anyhow::Context;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

/// The exit status of success.
pub(crate) const SUCCESS: u8 = 0;
/// The exit status of a command that was stopped with Ctrl-C, as in shells: 128 + SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// Runs a command on xtask's own input and output, and waits for its end.
///
/// Returns the exit status as in shells (see [`code`]); fails if the command cannot be started.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<u8> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    Ok(code(status))
}

/// The exit status as in shells: a process killed by signal n has 128 + n.
pub(crate) fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> u8 {
        run(Command::new("sh").args(["-c", script])).unwrap()
    }

    #[test]
    fn the_end_of_a_child_is_passed_on() {
        assert_eq!(shell("exit 0"), SUCCESS);
        assert_eq!(shell("exit 7"), 7);
        assert_eq!(shell("kill -INT $$"), INTERRUPTED);
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run(&mut Command::new("/nonexistent/program")).unwrap_err();
        assert!(format!("{error:#}").contains("/nonexistent/program"));
    }
}
