//! A mirror to a folder that exists or not: a checkpoint that was handed over is stored, or `flush` reports
//! that it is not.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use checkpoint::{Directory, Metadata, TensorView, file_name};
use store::Mirror;
use tempfile::TempDir;

/// A longer wait is a hang.
const DEADLINE: Duration = Duration::from_secs(60);

fn write(folder: &TempDir, step: u64) -> PathBuf {
    let directory = Directory::open(folder.path().join("here"));
    directory.create().unwrap();
    let metadata = Metadata { run_id: "run".into(), step, ..Metadata::default() };
    let tensor = TensorView { name: "a", shape: &[1], data: &[step as f32] };
    directory.write(&metadata, &[tensor]).unwrap()
}

fn mirror(there: &Path, keep: usize) -> Mirror {
    Mirror::start(format!("file://{}", there.display()), keep).unwrap()
}

fn steps(there: &Path) -> Vec<u64> {
    let list = Directory::open(there).list().unwrap();
    list.into_iter().map(|(step, _)| step).collect()
}

#[test]
fn what_was_handed_over_is_stored_and_old_ones_go() {
    let folder = tempfile::tempdir().unwrap();
    let there = folder.path().join("there");
    let mirror = mirror(&there, 2);
    mirror.flush(DEADLINE).unwrap();
    for step in 1..=4 {
        mirror.hand_over(write(&folder, step));
        mirror.flush(DEADLINE).unwrap();
    }
    assert_eq!(steps(&there), [3, 4]);
    checkpoint::verify(&there.join(file_name(4))).unwrap();
}

#[test]
fn of_many_at_once_the_newest_gets_there() {
    let folder = tempfile::tempdir().unwrap();
    let there = folder.path().join("there");
    let mirror = mirror(&there, 1);
    for step in 1..=50 {
        mirror.hand_over(write(&folder, step));
    }
    mirror.flush(DEADLINE).unwrap();
    assert_eq!(steps(&there), [50]);
}

#[test]
fn a_store_that_is_away_is_named_and_made_up_for_once_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let there = folder.path().join("there");
    fs::write(&there, "in the way").unwrap();
    let mirror = mirror(&there, 3);
    let first = write(&folder, 1);
    mirror.hand_over(first.clone());
    let unstored = mirror.flush(DEADLINE).unwrap_err();
    assert_eq!(unstored.path, first);
    let line = unstored.to_string();
    for word in ["cannot store file://", &file_name(1), first.to_str().unwrap()] {
        assert!(line.contains(word), "{line}");
    }
    assert_eq!(line.lines().count(), 1);

    fs::remove_file(&there).unwrap();
    mirror.flush(DEADLINE).unwrap();
    assert_eq!(steps(&there), [1], "the newest is tried once more");
    mirror.hand_over(write(&folder, 2));
    mirror.flush(DEADLINE).unwrap();
    assert_eq!(steps(&there), [1, 2]);
}

#[test]
fn a_pause_ends_when_a_newer_one_comes() {
    let folder = tempfile::tempdir().unwrap();
    let there = folder.path().join("there");
    fs::write(&there, "in the way").unwrap();
    let mirror = mirror(&there, 3);
    mirror.hand_over(write(&folder, 1));
    // Within zero seconds nothing is stored, whatever the thread does at the moment.
    assert!(mirror.flush(Duration::ZERO).is_err());
    fs::remove_file(&there).unwrap();
    mirror.hand_over(write(&folder, 2));
    mirror.flush(DEADLINE).unwrap();
    assert_eq!(steps(&there).last(), Some(&2));
}

#[test]
fn a_file_or_a_url_that_is_none_is_known_in_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let gone = folder.path().join(file_name(7));
    let there = mirror(&folder.path().join("there"), 1);
    there.hand_over(gone.clone());
    assert_eq!(there.flush(DEADLINE).unwrap_err().path, gone);

    let nonsense = Mirror::start("ftp://host/run".into(), 1).unwrap();
    nonsense.hand_over(write(&folder, 1));
    let line = nonsense.flush(DEADLINE).unwrap_err().to_string();
    assert!(line.contains("ftp://host/run"), "{line}");
}
