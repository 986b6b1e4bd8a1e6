//! Notes of tests that are left out, because a tool or a permission is missing. `cargo xtask test` lists them
//! at its end.

use std::{env, fs::File, io::Write as _};

/// The variable with the path of a file, to which a note is appended. `cargo xtask test` sets it.
pub const LIST: &str = "LOCKSTEP_LEFT_OUT";

/// Notes that a test is left out, and why.
///
/// # Panics
/// The list cannot be written.
#[expect(clippy::print_stdout, reason = "a test that is left out says so")]
pub fn note(test: &str, reason: &str) {
    let line = format!("{test}: {reason}\n");
    print!("{line}");
    if let Some(list) = env::var_os(LIST) {
        let list = File::options().append(true).create(true).open(list);
        let written = list.and_then(|mut list| list.write_all(line.as_bytes()));
        written.expect("the list of tests that are left out can be written");
    }
}

/// [`note`], if the test may be left out.
///
/// # Panics
/// The variable `required` is set, as in CI: then the test must not be left out.
pub fn note_unless(required: &str, test: &str, reason: &str) {
    assert!(env::var_os(required).is_none(), "{required} is set, but {reason}");
    note(test, reason);
}
