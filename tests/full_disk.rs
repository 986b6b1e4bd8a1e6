//! The disk is full: the run ends and names the file, and the earlier checkpoints stay valid.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use crate::{
    harness::{ENDLESS, Fleet, Place, SMALL, coordinator_at, note_left_out},
    stop::resumes_to_the_same_bits,
};

/// A small file system in memory, which is unmounted at the end of the test.
struct SmallDisk<'a>(&'a Path);

/// Space for the first few checkpoints of the small run, with their pictures.
const SMALL_DISK: &str = "size=5m";
const LARGE_DISK: &str = "remount,size=100m";

impl<'a> SmallDisk<'a> {
    /// Mounts the file system; none if this is not permitted.
    fn mount(at: &'a Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let disk = Self(at);
        mount(&["-t", "tmpfs", "-o", SMALL_DISK, "tmpfs"], at).then_some(disk)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // A lazy unmount, because a process that is being killed may still have an open file.
        let _not_mounted = Command::new("umount").arg("--lazy").arg(self.0).output();
    }
}

fn mount(options: &[&str], at: &Path) -> bool {
    let mounted = Command::new("mount").args(options).arg(at).output();
    mounted.is_ok_and(|output| output.status.success())
}

#[test]
fn a_checkpoint_does_not_fit() {
    let place = Place::new();
    let Some(_disk) = SmallDisk::mount(&place.run_dir) else {
        return note_left_out("a full disk", "only root can mount a small tmpfs");
    };
    let flags = format!("{SMALL} {ENDLESS} --keep-checkpoints 1000");
    let fleet = Fleet::start(&place, 2, &flags);
    let (coordinator, workers) = fleet.wait();
    let files = place.file("");
    coordinator.failed_with(&[files.to_str().unwrap(), "o space left"]);
    workers.into_iter().for_each(|worker| drop(worker.failed_with(&["o space left"])));

    let kept = place.checkpoints();
    assert!(!kept.is_empty());
    for path in kept {
        checkpoint::verify(&path).unwrap();
    }
    assert!(mount(&["-o", LARGE_DISK], &place.run_dir));
    resumes_to_the_same_bits(&place, 2);
}

/// Writes to /dev/full fail as on a full disk.
#[test]
fn the_metrics_do_not_fit() {
    let place = Place::new();
    fs::create_dir(&place.run_dir).unwrap();
    symlink("/dev/full", place.file("metrics.jsonl")).unwrap();
    let fleet = Fleet::start(&place, 2, &format!("{SMALL} {ENDLESS}"));
    let (coordinator, workers) = fleet.wait();
    coordinator.failed_with(&["metrics.jsonl", "No space left"]);
    workers.into_iter().for_each(|worker| drop(worker.failed_with(&["metrics.jsonl"])));

    fs::remove_file(place.file("metrics.jsonl")).unwrap();
    resumes_to_the_same_bits(&place, 2);
}

#[test]
fn the_journal_does_not_fit() {
    let place = Place::new();
    fs::create_dir(&place.run_dir).unwrap();
    symlink("/dev/full", place.file("journal.jsonl")).unwrap();
    let flags = format!("{SMALL} --epochs 1 --workers 2 --spawn");
    let words = ["journal.jsonl", "No space left"];
    coordinator_at(&place, &flags).wait().failed_with(&words);
}
