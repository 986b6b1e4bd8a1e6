//! Which files are kept, which are deleted, and which must never be deleted.

use std::fs::{self, File};
use std::sync::Barrier;

use checkpoint::{file_name, read};

use crate::{RUN, folder, metadata, steps, write};

#[test]
fn the_newest_stay() {
    let (_root, directory) = folder();
    for step in [1, 20, 3, 100_000_000, 99_999_999] {
        write(&directory, step);
    }
    fs::write(directory.path().join("notes.txt"), "mine").unwrap();
    fs::write(directory.path().join("step-7.safetensors"), "spelled otherwise").unwrap();
    assert_eq!(steps(&directory), [1, 3, 20, 99_999_999, 100_000_000]);
    directory.retain(3, None, None, RUN).unwrap();
    assert_eq!(steps(&directory), [20, 99_999_999, 100_000_000]);
    directory.retain(0, None, None, RUN).unwrap();
    assert_eq!(steps(&directory), [100_000_000], "the only one is never deleted");
    directory.retain(5, None, None, RUN).unwrap();
    assert_eq!(steps(&directory), [100_000_000]);
    assert!(directory.path().join("notes.txt").exists());
    assert!(directory.path().join("step-7.safetensors").exists());
}

#[test]
fn the_newest_sound_one_stays_where_all_newer_ones_are_damaged() {
    let (_root, directory) = folder();
    for step in 1..=6 {
        write(&directory, step);
    }
    for step in [4, 5, 6] {
        let path = directory.path().join(file_name(step));
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    directory.retain(2, None, None, RUN).unwrap();
    assert_eq!(steps(&directory), [3, 5, 6]);
    assert_eq!(directory.newest().unwrap().checkpoint.unwrap().1.metadata.step, 3);
    // The caller knows that the newest is sound, so its bytes are not read again.
    directory.retain(2, None, Some(6), RUN).unwrap();
    assert_eq!(steps(&directory), [5, 6]);
}

/// Another program may use the same names for its checkpoints.
#[test]
fn what_the_run_has_not_written_is_neither_deleted_nor_replaced() {
    let (_root, directory) = folder();
    let theirs = [2, 4, 7].map(|step| directory.path().join(file_name(step)));
    let other = checkpoint::Metadata { run_id: "another".into(), ..metadata(2) };
    directory.write(&other, &[]).unwrap();
    fs::write(&theirs[1], "a safetensors file of another program").unwrap();
    std::os::unix::fs::symlink("nowhere", &theirs[2]).unwrap();
    let before = theirs.each_ref().map(|path| fs::read(path).ok());
    for step in [1, 3, 5, 6] {
        write(&directory, step);
        directory.retain(2, None, None, RUN).unwrap();
    }
    assert_eq!(steps(&directory), [2, 4, 5, 6, 7], "the run's own two newest stay as well");
    for step in [2, 4, 7] {
        let message = directory.write(&metadata(step), &[]).unwrap_err().to_string();
        assert!(message.contains(&file_name(step)) && message.contains("stays"), "{message}");
    }
    assert_eq!(theirs.each_ref().map(|path| fs::read(path).ok()), before);
    // An empty file may be replaced.
    fs::write(&theirs[1], "").unwrap();
    write(&directory, 4);
    assert_eq!(read(&theirs[1]).unwrap().metadata.run_id, RUN);
}

#[test]
fn temporary_files_go_once_their_writer_is_gone() {
    let (_root, directory) = folder();
    write(&directory, 1);
    let dead = directory.path().join(".lockstep-aaaaaaaaaaaa.tmp");
    let live = directory.path().join(".lockstep-bbbbbbbbbbbb.tmp");
    fs::write(&dead, "left by a killed process").unwrap();
    let writer = File::create(&live).unwrap();
    writer.try_lock().unwrap();
    directory.retain(1, None, None, RUN).unwrap();
    assert!(!dead.exists() && live.exists());
    drop(writer);
    directory.retain(1, None, None, RUN).unwrap();
    assert!(!live.exists());
}

#[test]
fn writers_and_sweepers_at_once_do_each_other_no_harm() {
    const WRITERS: u64 = 4;
    const ROUNDS: u64 = 20;
    let (_root, directory) = folder();
    let start = Barrier::new(WRITERS as usize + 1);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (directory, start) = (&directory, &start);
            scope.spawn(move || {
                start.wait();
                for round in 0..ROUNDS {
                    // Two writers a step: they race for the same name.
                    write(directory, round * WRITERS + writer / 2);
                }
            });
        }
        start.wait();
        for _ in 0..ROUNDS {
            directory.retain(usize::MAX, None, None, RUN).unwrap();
            directory.newest().unwrap();
        }
    });
    assert_eq!(steps(&directory).len() as u64, ROUNDS * WRITERS / 2);
    for (step, path) in directory.list().unwrap() {
        assert_eq!(read(&path).unwrap().metadata.step, step);
    }
    let names = fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(names as u64, ROUNDS * WRITERS / 2, "no temporary file is left");
}

#[test]
fn the_best_checkpoint_stays_and_is_found_by_its_link() {
    let (_root, directory) = folder();
    assert_eq!(directory.best(), None);
    for step in 1..=5 {
        write(&directory, step);
        if step == 2 {
            directory.mark_best(step).unwrap();
        }
        directory.retain(2, Some(2), None, RUN).unwrap();
    }
    assert_eq!(steps(&directory), [2, 4, 5]);
    let best = || read(&directory.best().unwrap()).unwrap().metadata.step;
    assert_eq!(best(), 2);
    directory.mark_best(5).unwrap();
    assert_eq!(best(), 5);
    let link = directory.path().join(checkpoint::BEST);
    fs::remove_file(&link).unwrap();
    fs::write(&link, "mine").unwrap();
    let error = directory.mark_best(4).unwrap_err().to_string();
    assert!(error.contains("best.safetensors"), "{error}");
    assert_eq!(fs::read(&link).unwrap(), b"mine");
}
