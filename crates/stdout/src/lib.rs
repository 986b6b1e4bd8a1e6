//! Standard output of a program, and whether it arrived.
//!
//! A closed pipe is no error: whoever read it has read enough. Every other error of standard
//! output is remembered. The program goes on, because the files that it writes may be worth more
//! than the lines that it prints, and [`finish`] makes it end with an error. Nothing here knows
//! what is printed.

use std::{
    io::{self, ErrorKind, Write as _},
    process::ExitCode,
    sync::OnceLock,
};

/// The first error.
static LOST: OnceLock<String> = OnceLock::new();

/// Prints a formatted line; see [`line`].
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => {{
        let _told_at_the_end = $crate::line(&format!($($text)*));
    }};
}

/// A number of things by their name in the singular: "1 worker", "2 workers".
#[must_use]
pub fn counted(count: u64, thing: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{ending}")
}

/// Prints a line. The result says why it could not, the first time only: [`finish`] says so again.
///
/// # Errors
/// The reason, unless it is a closed pipe or an earlier line was lost too.
pub fn line(text: &str) -> Result<(), &'static str> {
    bytes(format!("{text}\n").as_bytes())
}

/// Prints bytes as they are.
///
/// # Errors
/// As [`line`].
pub fn bytes(bytes: &[u8]) -> Result<(), &'static str> {
    let mut output = io::stdout().lock();
    let result = output.write_all(bytes).and_then(|()| output.flush());
    drop(output);
    note(result)
}

/// Takes in how something else printed to standard output, which is flushed.
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

/// Why something was not printed; nothing where nobody reads it any more.
fn lost(result: io::Result<()>) -> Option<String> {
    let error = result.err()?;
    (error.kind() != ErrorKind::BrokenPipe).then(|| error.to_string())
}

/// The exit code of a program that would end with `code`: an error, told on standard error, where
/// something could not be printed.
#[must_use]
pub fn finish(code: ExitCode) -> ExitCode {
    let Some(reason) = LOST.get() else { return code };
    // A program without standard error has no other way to speak.
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
