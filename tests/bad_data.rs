//! The data set is missing or wrong, and without a network it cannot be fetched.

use std::{fs, path::Path};

use crate::harness::{Fleet, Place, SMALL, coordinator_at};

fn offline(place: &Place, words: &[&str]) {
    let data_dir = place.path("mnist");
    let flags = format!("--workers 1 --spawn --offline --data-dir {}", data_dir.display());
    coordinator_at(place, &flags).wait().failed_with(words);
    assert!(!place.run_dir.exists(), "a run that cannot begin leaves nothing behind");
}

/// A folder with links to the files of the data set, and a copy of the first file, which a test can
/// damage.
fn mnist_to_spoil(folder: &Path) -> std::path::PathBuf {
    fs::create_dir(folder).unwrap();
    let source = data::default_dir("mnist");
    data::fetch::ensure(&source, &images::named::mnist(), false, &|_| ()).unwrap();
    for file in &images::named::mnist().files[1..] {
        std::os::unix::fs::symlink(source.join(&file.name), folder.join(&file.name)).unwrap();
    }
    let first = &images::named::mnist().files[0].name;
    fs::copy(source.join(first), folder.join(first)).unwrap();
    folder.join(first)
}

#[test]
fn it_is_missing() {
    let place = Place::new();
    offline(&place, &[&images::named::mnist().files[0].name, "missing", "fetch it while online"]);
}

#[test]
fn it_is_truncated() {
    let place = Place::new();
    let path = mnist_to_spoil(&place.path("mnist"));
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(1000).unwrap();
    offline(&place, &[path.to_str().unwrap(), "truncated", "1000 found", "--data-dir"]);
}

#[test]
fn one_byte_is_wrong() {
    let place = Place::new();
    let path = mnist_to_spoil(&place.path("mnist"));
    let mut bytes = fs::read(&path).unwrap();
    bytes[12_345] ^= 1;
    fs::write(&path, bytes).unwrap();
    offline(&place, &[path.to_str().unwrap(), "sha256", "--data-dir"]);
}

/// Fashion-MNIST has the same file names and sizes. Neither program replaces such a file, even
/// online.
#[test]
fn it_is_another_data_set() {
    let place = Place::new();
    let folder = place.path("mnist");
    let path = mnist_to_spoil(&folder);
    let mut theirs = fs::read(&path).unwrap();
    theirs[16..].reverse();
    fs::write(&path, &theirs).unwrap();
    let flags = format!("--workers 1 --spawn --data-dir {}", folder.display());
    let words =
        [path.to_str().unwrap(), &images::named::mnist().files[0].sha256, "found", "--data-dir"];
    coordinator_at(&place, &flags).wait().failed_with(&words);
    assert!(!place.run_dir.exists(), "a run that cannot begin leaves nothing behind");

    let mut fleet = Fleet::without_workers(&place, &format!("{SMALL} --workers 1 --epochs 1"));
    fleet.add(&format!("--data-dir {}", folder.display()));
    fleet.workers.remove(0).wait().failed_with(&words);
    assert!(fs::read(&path).unwrap() == theirs, "it is as it was");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), images::named::mnist().files.len());
}
