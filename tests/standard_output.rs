//! Standard output cannot be written: the work is done, the reason is on standard error, and the
//! exit code tells of the lost output. A pipe whose reader has ended is no error.

use std::{
    fs::File,
    io::Read as _,
    path::Path,
    process::{Command, Stdio},
};

use crate::harness::{Place, SMALL, programs, wait_until};

/// The exit code and standard error of a program whose standard output goes to `output`.
fn run(program: &Path, flags: &str, folder: &Path, output: impl Into<Stdio>) -> (i32, String) {
    let mut command = Command::new(program);
    command.args(flags.split_whitespace()).current_dir(folder).stdin(Stdio::null());
    let mut child = command.stdout(output).stderr(Stdio::piped()).spawn().unwrap();
    wait_until(flags, || child.try_wait().unwrap().is_some());
    let mut error = String::new();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    (child.wait().unwrap().code().unwrap(), error)
}

/// A file that cannot be written, like a file on a full disk.
fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

/// A pipe without a reader.
fn closed() -> Stdio {
    std::io::pipe().unwrap().1.into()
}

#[test]
fn help_and_short_answers_that_are_lost() {
    let place = Place::new();
    let folder = place.path("");
    let issue = "certs issue --dir ca --host 10.0.0.1";
    for (program, flags) in [
        ("vae-coordinator", "--help"),
        ("vae-coordinator", "--version"),
        ("vae-coordinator", "help status"),
        ("vae-coordinator", "certs init --dir ca"),
        ("vae-coordinator", issue),
        ("vae-worker", "--help"),
        ("vae-worker", "--version"),
        ("vae", "--help"),
        ("vae", "help sample"),
        ("xtask", "--help"),
        ("xtask", "tidy --help"),
    ] {
        let program = programs().join(program);
        let (code, error) = run(&program, flags, &folder, full());
        assert_eq!(code, 1, "{program:?} {flags}: {error}");
        let words = "error: cannot write to standard output: No space left on device";
        assert!(error.starts_with(words) && error.lines().count() == 1, "{flags}: {error}");
        if !flags.starts_with("certs") {
            assert_eq!(run(&program, flags, &folder, closed()), (0, String::new()), "{flags}");
        }
    }
    // The work itself was done.
    assert!(folder.join("ca/10.0.0.1/tls.crt").exists());
    let status = "certs issue --dir ca --host 10.0.0.2";
    let (code, error) = run(&programs().join("vae-coordinator"), status, &folder, closed());
    assert_eq!((code, error.as_str()), (0, ""));
}

#[test]
fn a_run_whose_lines_are_lost_is_trained_to_its_end() {
    let lost = "cannot write to standard output: No space left on device";
    for (output, code, told) in [(full().into(), 1, 2), (closed(), 0, 0)] {
        let place = Place::new();
        let run_dir = place.run_dir.display();
        let flags = format!(
            "{SMALL} --epochs 2 --workers 1 --spawn --listen 127.0.0.1:0 --run-dir {run_dir}"
        );
        let program = programs().join("vae-coordinator");
        let (found, error) = run(&program, &flags, &place.path(""), output);
        assert_eq!(found, code, "{error}");
        // The reason is printed when it happens, and again at the end.
        assert_eq!(error.matches(lost).count(), told, "{error}");
        assert!(place.file("summary.json").exists(), "{error}");
        checkpoint::verify(place.checkpoints().last().unwrap()).unwrap();
    }
}
