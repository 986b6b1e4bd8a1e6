//! A start that fails leaves nothing behind: no empty run, no link to it, nothing in a store. A
//! program that needs a checkpoint afterwards finds the newest run with a checkpoint.

use std::{fs, net::TcpListener, path::PathBuf, process::Command};

use rustix::process::Signal;

use crate::harness::{Fleet, Place, Process, coordinator, programs};

/// Flags of a run that takes a second.
const TINY: &str = "--listen 127.0.0.1:0 --workers 1 --epochs 1 --train-images 600 \
                    --test-images 20 --hidden-dim 8 --latent-dim 2";

/// The entries of `runs`, and the target of the link `latest`.
fn runs(place: &Place) -> (Vec<PathBuf>, Option<PathBuf>) {
    let folder = place.path("runs");
    let mut names: Vec<_> =
        fs::read_dir(&folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    (names, fs::read_link(folder.join("latest")).ok())
}

/// Flags with which a run cannot start, and words of the error.
fn failures(place: &Place, taken: &str) -> Vec<(String, &'static str)> {
    fs::create_dir_all(place.path("empty")).unwrap();
    fs::write(place.path("file"), "mine").unwrap();
    let store = place.path("store");
    fs::create_dir_all(&store).unwrap();
    fs::write(store.join("config.json"), "{}").unwrap();
    let last = |flags: &str| flags.to_owned();
    vec![
        (format!("--listen {taken}"), "is another coordinator running?"),
        (last("--listen 192.0.2.77:0 --insecure"), "this machine has no such address"),
        (last("--listen nobody.invalid:0"), "no host of this name is known here"),
        (last("--data-dir empty --offline"), "is missing"),
        (last("--data-dir file --offline"), "file/"),
        (last("--tls-dir nowhere"), "nowhere/ca.crt"),
        (last("--token-file nowhere"), "nowhere"),
        (format!("--checkpoint-url file://{}/none", place.path("file").display()), "file"),
        (format!("--checkpoint-url file://{}", store.display()), "config.json"),
        (last("--checkpoint-url nonsense"), "nonsense"),
        (last("--run-dir file/run"), "file/run"),
        (last("--spawn --worker-device cuda:999"), "process ended before the run began"),
        (last("--min-workers 2"), "--min-workers"),
        (last("--workers 3 --shards 2"), "--shards"),
    ]
}

#[test]
fn nothing_is_left_of_a_start_that_fails() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let without = |flags: &str, flag: &str| {
        let mut words: Vec<&str> = flags.split_whitespace().collect();
        if let Some(index) = words.iter().position(|word| *word == flag) {
            words.drain(index..index + 2);
        }
        words.join(" ")
    };
    let fail = |flags: &str, words: &str| {
        let mut rest = TINY.to_owned();
        for flag in flags.split_whitespace().filter(|word| word.starts_with("--")) {
            rest = without(&rest, flag);
        }
        coordinator(&place, &format!("{rest} {flags}")).wait().failed_with(&[words]);
    };
    for (flags, words) in failures(&place, &taken) {
        fail(&flags, words);
        assert!(!place.path("runs").exists(), "{flags}");
    }
    coordinator(&place, &format!("{TINY} --spawn")).wait().succeeded();
    let before = runs(&place);
    for (flags, words) in failures(&place, &taken) {
        fail(&flags, words);
        assert_eq!(runs(&place), before, "{flags}");
    }
    assert_eq!(fs::read(place.path("file")).unwrap(), b"mine");
    assert_eq!(fs::read_dir(place.path("store")).unwrap().count(), 1);
}

#[test]
fn a_run_that_never_began_is_not_kept() {
    let place = Place::new();
    let waiting = Fleet::of(coordinator(&place, TINY), None);
    waiting.coordinator.signal(Signal::INT);
    let exit = waiting.coordinator.wait().exited_with(130);
    assert!(!place.path("runs").exists(), "{exit}");
    let text = exit.text();
    let line = text.lines().find_map(|line| line.split_once("begin again with: ")).unwrap().1;
    let mut again = Command::new("sh");
    again.args(["-c", &format!("exec {line} --spawn")]).current_dir(place.path(""));
    Process::start("what was pasted", &mut again).wait().succeeded();
    assert_eq!(runs(&place).0.len(), 2, "a run, and the link to it");
}

#[test]
fn the_newest_run_that_has_a_checkpoint_is_found() {
    let place = Place::new();
    coordinator(&place, &format!("{TINY} --spawn")).wait().succeeded();
    let trained = fs::canonicalize(place.path("runs/latest")).unwrap();
    // A run that was killed before its first checkpoint.
    let empty = place.path("runs/99991231-235959-ffffff");
    fs::create_dir_all(empty.join("checkpoints")).unwrap();
    fs::copy(trained.join("config.json"), empty.join("config.json")).unwrap();
    let point = |name: &str| {
        let link = place.path("runs/latest");
        let _there_or_not = fs::remove_file(&link);
        std::os::unix::fs::symlink(name, link).unwrap();
    };
    let name = trained.file_name().unwrap().to_str().unwrap();
    for latest in ["99991231-235959-ffffff", "gone"] {
        point(latest);
        let mut vae = Command::new(programs().join("vae"));
        vae.args(["sample", "--count", "1", "--output", "sample.png"]);
        let exit = Process::start("vae", vae.current_dir(place.path(""))).wait().succeeded();
        let said = format!("runs/latest has no checkpoint: taking runs/{name}, the newest");
        assert!(exit.text().contains(&said), "{exit}");
        let exit = coordinator(&place, "--resume --epochs 1 --spawn").wait().succeeded();
        let said = format!("runs/latest has no checkpoint: going on with runs/{name}, the newest");
        assert!(exit.text().contains(&said) && exit.text().contains("is complete"), "{exit}");
    }
    // A run that is named with --run-dir is not replaced by another run.
    let named = format!("--resume --spawn --listen 127.0.0.1:0 --run-dir {}", empty.display());
    let exit = coordinator(&place, &named).wait().succeeded();
    assert!(exit.text().contains("no checkpoint yet"), "{exit}");
}
