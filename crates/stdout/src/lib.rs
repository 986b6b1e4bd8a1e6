//! Standard output of a program, with its errors.
//!
//! A closed pipe is no error: the reader has read enough. Every other error of standard output is
//! stored. The program goes on, because the files that it writes may be worth more than the lines that it
//! prints. At the end, [`finish`] turns the stored error into the exit code.

use std::{
    io::{self, ErrorKind, Write as _},
    process::ExitCode,
    sync::OnceLock,
};

/// The first error of standard output.
static LOST: OnceLock<String> = OnceLock::new();

/// Prints a formatted line; see [`line`].
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => {{
        let _told_at_the_end = $crate::line(&format!($($text)*));
    }};
}

/// A number and the name of a thing, in the singular or the plural: "1 worker", "2 workers".
#[must_use]
pub fn counted(count: u64, thing: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{ending}")
}

/// Prints a line. Only the first failure is returned; [`finish`] reports it again.
///
/// # Errors
/// The reason of the failure, unless it is a closed pipe or an earlier line has failed too.
pub fn line(text: &str) -> Result<(), &'static str> {
    bytes(format!("{text}\n").as_bytes())
}

/// Prints bytes unchanged.
///
/// # Errors
/// As [`line`].
pub fn bytes(bytes: &[u8]) -> Result<(), &'static str> {
    let mut output = io::stdout().lock();
    let result = output.write_all(bytes).and_then(|()| output.flush());
    drop(output);
    note(result)
}

/// Records the result of other code that printed to standard output, and flushes it.
///
/// # Errors
/// As [`line`].
pub fn printed(result: io::Result<()>) -> Result<(), &'static str> {
    note(result.and_then(|()| io::stdout().flush()))
}

fn note(result: io::Result<()>) -> Result<(), &'static str> {
    let Some(reason) = lost(result) else { return Ok(()) };
    let mut first = false;
    let known = LOST.get_or_init(|| {
        first = true;
        reason
    });
    if first { Err(known) } else { Ok(()) }
}

/// Why the output failed; none if it succeeded or the pipe is closed.
fn lost(result: io::Result<()>) -> Option<String> {
    let error = result.err()?;
    (error.kind() != ErrorKind::BrokenPipe).then(|| error.to_string())
}

/// The exit code of a program that would end with `code`. If some output has failed, an error is printed on
/// standard error, and success becomes failure.
#[must_use]
pub fn finish(code: ExitCode) -> ExitCode {
    let Some(reason) = LOST.get() else { return code };
    // If standard error fails too, there is no other way to report the error.
    let _ignored = writeln!(io::stderr(), "error: cannot write to standard output: {reason}");
    if code == ExitCode::SUCCESS { ExitCode::FAILURE } else { code }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_closed_pipe_is_no_loss() {
        assert_eq!(lost(Ok(())), None);
        assert_eq!(lost(Err(ErrorKind::BrokenPipe.into())), None);
        for kind in [ErrorKind::StorageFull, ErrorKind::PermissionDenied, ErrorKind::Other] {
            assert_eq!(lost(Err(kind.into())), Some(io::Error::from(kind).to_string()));
        }
    }
}
