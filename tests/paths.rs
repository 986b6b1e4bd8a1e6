//! Paths that are not UTF-8: the run is in exactly the folder that was named.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::{ffi::OsStrExt as _, fs::symlink},
    path::PathBuf,
    process::Command,
};

use crate::harness::{Place, Process, SMALL, assert_same_tensors, programs, reference};

/// A name that is not UTF-8 and contains a blank.
fn name(stem: &str) -> OsString {
    let mut name = OsString::from(stem);
    name.push(OsStr::from_bytes(b" \xff\xfe"));
    name
}

fn names(place: &Place) -> Vec<OsString> {
    let entries = fs::read_dir(place.path("")).unwrap();
    let mut names: Vec<OsString> = entries.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

/// The data set in a folder of that name.
fn mnist(place: &Place) -> PathBuf {
    let source = data::default_dir("mnist");
    data::fetch::ensure(&source, &images::named::mnist(), false, &|_| ()).unwrap();
    let folder = place.path("").join(name("mnist"));
    symlink(source, &folder).unwrap();
    folder
}

#[test]
fn a_run_in_a_folder_whose_name_is_no_text() {
    let mut place = Place::new();
    place.run_dir = place.path("").join(name("run"));
    let data_dir = mnist(&place);
    let start = |flags: &str| {
        let mut command = Command::new(programs().join("vae-coordinator"));
        command.args(["--listen", "127.0.0.1:0", "--spawn", "--run-dir"]).arg(&place.run_dir);
        command.arg("--data-dir").arg(&data_dir).current_dir(place.path(""));
        Process::start("coordinator", command.args(flags.split_whitespace()))
    };
    start(&format!("{SMALL} --workers 2 --epochs 1")).wait().succeeded();
    assert_same_tensors(&place.newest(), &reference(1));
    assert!(place.file("samples/epoch-001.png").exists());

    let exit = start("--resume --epochs 2").wait().succeeded();
    assert!(exit.text().contains("Going on after step"), "{exit}");
    assert_same_tensors(&place.newest(), &reference(2));
    assert_eq!(names(&place), [name("mnist"), name("run")], "and nowhere else");
}

#[test]
fn certificates_in_a_folder_whose_name_is_no_text() {
    let place = Place::new();
    let ca = place.path("").join(name("ca"));
    let certs = |arguments: &[&str]| {
        let mut command = Command::new(programs().join("vae-coordinator"));
        command.arg("certs").args(arguments).arg("--dir").arg(&ca);
        Process::start("certs", &mut command).wait().succeeded();
    };
    certs(&["init"]);
    certs(&["issue", "--host", "a.example"]);
    let mut command = Command::new(programs().join("vae-coordinator"));
    let flags = format!("{SMALL} --workers 1 --epochs 1 --spawn --listen 127.0.0.1:0");
    command.args(flags.split_whitespace()).arg("--run-dir").arg(&place.run_dir);
    command.arg("--tls-dir").arg(ca.join("a.example"));
    Process::start("coordinator", &mut command).wait().succeeded();
    assert_eq!(names(&place), [name("ca"), "run".into()]);
}
