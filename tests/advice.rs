//! Printed commands work when they are pasted into a shell, from any folder, word for word.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::Path,
    process::Command,
};

use rustix::process::Signal;

use crate::harness::{
    ENDLESS, Fleet, Place, Process, SMALL, coordinator, coordinator_at, programs, wait_until,
    worker,
};

/// Flags of a very short run.
const TINY: &str = "--workers 1 --train-images 600 --test-images 20 --hidden-dim 8 --latent-dim 2";

/// Pastes a line into a shell, in the folder of a place.
fn paste(place: &Place, line: &str) -> Process {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec {line}")]).current_dir(place.path(""));
    Process::start("what was pasted", &mut command)
}

/// The rest of the line after some words in a text.
fn after<'a>(text: &'a str, words: &str) -> &'a str {
    let line = text.lines().find(|line| line.contains(words));
    let line = line.unwrap_or_else(|| panic!("no {words:?} in {text}"));
    line.split_once(words).unwrap().1.trim()
}

/// Names of folders with characters that are special in a shell.
const NAMES: [&[u8]; 3] = [b"it's a \"run\"", b"$HOME `id` \\n", b"caf\xe9 100%"];

#[test]
fn a_run_that_was_stopped_goes_on_with_what_is_printed() {
    for name in NAMES {
        let place = Place::new();
        let run_dir = place.path("").join(OsStr::from_bytes(name));
        let mut command = Command::new(programs().join("vae-coordinator"));
        command.args(["--listen", "localhost:0", "--spawn", "--worker-threads", "1"]);
        command.args(TINY.split(' ')).args(["--epochs", "1000000"]);
        command.arg("--run-dir").arg(&run_dir).current_dir(place.path(""));
        let mut run = Process::start("coordinator", &mut command);
        let metrics = run_dir.join("metrics.jsonl");
        run.wait_until("a step is done", || {
            fs::read_to_string(&metrics).is_ok_and(|text| text.contains("\"steps\""))
        });
        run.signal(Signal::INT);
        let exit = run.wait().exited_with(130);
        let text = exit.text();
        let line = after(&text, "go on with: ");
        for flag in ["--spawn", "--listen localhost:0", "--worker-threads 1"] {
            assert!(line.contains(flag), "{line}");
        }
        assert!(!line.contains("--latent-dim"), "the run keeps what determines it: {line}");
        let again = paste(&place, line);
        let going_on = again.wait_for_line("Going on after step ");
        again.wait_for_line("joined from");
        again.signal(Signal::INT);
        let exit = again.wait().exited_with(130);
        assert!(exit.text().contains("go on with: "), "{going_on}: {exit}");
    }
}

/// Otherwise the epochs of the file would take precedence over those of the run.
#[test]
fn a_run_with_a_file_goes_on_with_what_is_printed() {
    let place = Place::new();
    let text = "epochs = 1\nspawn = true\ntrain-images = 600\ntest-images = 20\nhidden-dim = 8\n";
    fs::write(place.path("run.toml"), text).unwrap();
    let flags = "--config run.toml --latent-dim 2 --workers 1 --epochs 1000000";
    let coordinator = coordinator_at(&place, flags);
    wait_until("two epochs are done", || place.metrics("epoch").len() > 2);
    coordinator.signal(Signal::INT);
    let text = coordinator.wait().exited_with(130).text();
    let holds = coordinator_at(&place, flags).wait().failed_with(&["already holds this run"]);
    for text in [text, holds.text()] {
        let again = paste(&place, after(&text, "go on with: "));
        again.wait_for_line("Going on after step ");
        again.wait_for_line("joined from");
        again.signal(Signal::INT);
        again.wait().exited_with(130);
    }
}

#[test]
fn workers_are_started_with_what_is_printed() {
    let place = Place::new();
    let certs = |flags: &str| coordinator(&place, &format!("certs {flags}")).wait().succeeded();
    certs("init --dir ca");
    certs("issue --dir ca --host localhost");
    fs::rename(place.path("ca/localhost"), place.path("it's ours")).unwrap();
    let plain = "--listen 127.0.0.1:0";
    let anywhere = "--listen 0.0.0.0:0 --insecure";
    for (listen, secured) in [(plain, false), (anywhere, false), ("--listen 0.0.0.0:0", true)] {
        let run_dir = format!("run{}", listen.len() + usize::from(secured));
        let mut command = Command::new(programs().join("vae-coordinator"));
        command.args(listen.split(' ')).args(TINY.split(' ')).args(["--run-dir", &run_dir]);
        command.args(["--epochs", "1"]).current_dir(place.path(""));
        if secured {
            command.arg("--tls-dir").arg("it's ours");
        }
        let run = Process::start("coordinator", &mut command);
        let line = run.wait_for_line("--coordinator http");
        assert!(!line.contains("0.0.0.0"), "{line}");
        paste(&place, line.trim()).wait().succeeded();
        run.wait().succeeded();
    }
}

#[test]
fn certificates_are_made_with_what_is_printed() {
    let place = Place::new();
    let dir = "the 'CA'";
    let certs = |arguments: &[&str]| {
        let mut command = Command::new(programs().join("vae-coordinator"));
        command.arg("certs").args(arguments).current_dir(place.path(""));
        Process::start("certs", &mut command).wait()
    };
    let missing = certs(&["issue", "--dir", dir, "--host", "localhost"]);
    let text = missing.failed_with(&["make a CA there with: "]).text();
    let init = paste(&place, after(&text, "make a CA there with: ")).wait().succeeded();
    let issue = init.text().lines().nth(1).unwrap().trim().to_owned();
    paste(&place, &issue).wait().succeeded();
    let again = certs(&["init", "--dir", dir]).failed_with(&["is there already"]);
    paste(&place, after(&again.text(), "for this host with: ")).wait().succeeded();

    let issued = certs(&["issue", "--dir", dir, "--host", "localhost"]).succeeded();
    let text = issued.text();
    let commands: Vec<&str> = text.lines().filter(|line| line.contains("--tls-dir '")).collect();
    let [coordinator, worker] = commands[..] else { panic!("{issued}") };
    assert!(coordinator.contains("--listen localhost:50051"), "{coordinator}");
    // On a free port.
    let coordinator = coordinator.replace("localhost:50051", "localhost:0");
    let run = paste(&place, &format!("{coordinator} {TINY} --epochs 1"));
    let url = run.wait_for_line("Listening on ").rsplit(' ').next().unwrap().to_owned();
    paste(&place, &worker.replace("https://localhost:50051", &url)).wait().succeeded();
    run.wait().succeeded();
}

#[test]
fn too_few_workers_go_on_with_what_is_printed() {
    let place = Place::new();
    let flags =
        format!("{SMALL} {ENDLESS} --min-workers 2 --join-timeout-seconds 30 --collective grpc");
    let mut fleet = Fleet::start(&place, 2, &flags);
    fleet.wait_for_progress(&place);
    fleet.workers[1].signal(Signal::KILL);
    let (exit, _) = fleet.wait();
    let text = exit.failed_with(&["only 1 of 2 workers were ready"]).text();
    assert!(text.contains("and start the workers when it says how"), "{text}");
    assert!(after(&text, "go on with: ").contains(" --min-workers 2"), "{text}");
    let line = after(&text, "or with fewer: ");
    assert!(line.contains("--min-workers 1"), "{line}");
    let again = Fleet::of(paste(&place, line), None);
    again.coordinator.wait_for_line("Going on after step ");
    let one = worker(&again.url, "--threads 1");
    let two = worker(&again.url, "--threads 1");
    again.coordinator.wait_for_line("(2/2)");
    again.coordinator.signal(Signal::INT);
    again.coordinator.wait().exited_with(130);
    for worker in [one, two] {
        worker.wait().succeeded();
    }
}

/// With the same learning rate the run would diverge again.
#[test]
fn a_run_that_has_diverged_is_not_gone_on_with() {
    let place = Place::new();
    let flags = format!("{TINY} --spawn --epochs 3 --learning-rate 1e30");
    let exit = coordinator_at(&place, &flags).wait();
    let exit = exit.failed_with(&["not finite", "begin a new run with a lower --learning-rate"]);
    assert!(!exit.text().contains("--resume"), "{exit}");
    assert!(!place.run_dir.join("summary.json").exists());
}

#[test]
fn what_to_build_is_said_as_cargo_takes_it() {
    let place = Place::new();
    let copy = |folder: &str| {
        let program = place.path(folder).join("vae-coordinator");
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        fs::copy(programs().join("vae-coordinator"), &program).unwrap();
        program
    };
    let refused = |program: &Path, words: &[&str]| {
        let mut command = Command::new(program);
        command.args(["--spawn", "--listen", "127.0.0.1:0"]).current_dir(place.path(""));
        Process::start("coordinator", &mut command).wait().failed_with(words);
        assert!(!place.path("runs").exists(), "nothing is left of a start that failed");
    };
    for (folder, words) in [
        ("target/release", "build it with: cargo build --bin vae-worker --release"),
        ("target/debug", "build it with: cargo build --bin vae-worker"),
        ("my target/fast", "build it with: cargo build --bin vae-worker --profile fast"),
        ("my target/fast", "--target-dir '"),
    ] {
        let program = copy(folder);
        fs::create_dir_all(place.path(folder).join(".fingerprint")).unwrap();
        refused(&program, &["--spawn needs ", "vae-worker", "which is not there", words]);
    }
    let installed = copy("bin");
    refused(&installed, &["which is not there", "put the one of the same release there"]);
    // A file that is not executable does not count as the program.
    let worker = installed.with_file_name("vae-worker");
    fs::write(&worker, "").unwrap();
    fs::set_permissions(&worker, fs::Permissions::from_mode(0o644)).unwrap();
    refused(&installed, &["which is not there"]);
}

#[test]
fn a_folder_that_holds_the_run_is_gone_on_with_what_is_printed() {
    let place = Place::new();
    drop(Fleet::without_workers(&place, TINY));
    let exit = coordinator_at(&place, &format!("{TINY} --spawn --epochs 1")).wait();
    let text = exit.failed_with(&["already holds this run", "--run-dir"]).text();
    paste(&place, after(&text, "go on with: ")).wait().succeeded();
    assert_eq!(place.summary()["workers"], 1);
}
