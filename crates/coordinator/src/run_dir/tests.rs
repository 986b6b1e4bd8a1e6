//! Run directories in folders that already hold files.

use std::os::unix::fs::symlink;

use super::*;

const LINK: &str = "latest";

/// A run directory in a folder that a test has prepared.
fn run_in(runs: &Path, name: &str) -> RunDir {
    let path = runs.join(name);
    fs::create_dir(&path).unwrap();
    let open = |name: &str| files::append(&path.join(name)).unwrap();
    RunDir {
        metrics: MetricsWriter::open(&path, Limits::METRICS).unwrap(),
        events: EventWriter::open(&path, Limits::EVENTS).unwrap(),
        journal: Journal::open(path.join(JOURNAL)).unwrap(),
        recorded: Recorded::read(&path).unwrap(),
        has_begun: false,
        has_checkpoint: false,
        _locks: (None, open(LOCK)),
        path,
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn the_link_moves_from_run_to_run() {
    let runs = tempfile::tempdir().unwrap();
    for name in ["one", "two"] {
        run_in(runs.path(), name).point_latest();
        assert_eq!(fs::read_link(runs.path().join(LINK)).unwrap(), Path::new(name));
    }
    // The link's target is gone; the link may still be replaced.
    fs::remove_dir_all(runs.path().join("two")).unwrap();
    run_in(runs.path(), "three").point_latest();
    assert_eq!(fs::read_link(runs.path().join(LINK)).unwrap(), Path::new("three"));
    assert_eq!(names(runs.path()), [LINK, "one", "three"]);
}

#[test]
fn what_is_no_link_of_ours_stays() {
    let runs = tempfile::tempdir().unwrap();
    let link = runs.path().join(LINK);
    fs::write(&link, "mine").unwrap();
    run_in(runs.path(), "one").point_latest();
    assert_eq!(fs::read(&link).unwrap(), b"mine");
    fs::remove_file(&link).unwrap();

    fs::create_dir(&link).unwrap();
    run_in(runs.path(), "two").point_latest();
    assert!(link.is_dir() && !link.is_symlink());
    fs::remove_dir(&link).unwrap();

    for target in ["/somewhere/else", "../above", "below/run"] {
        symlink(target, &link).unwrap();
        run_in(runs.path(), &target.replace('/', "-")).point_latest();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new(target));
        fs::remove_file(&link).unwrap();
    }
    assert!(names(runs.path()).iter().all(|name| !name.starts_with(".lockstep")));
}

#[test]
fn a_name_that_is_taken_for_the_new_link_is_passed_over() {
    let runs = tempfile::tempdir().unwrap();
    let taken = runs.path().join(format!(".lockstep-latest-{}-0", std::process::id()));
    fs::write(&taken, "mine").unwrap();
    run_in(runs.path(), "one").point_latest();
    assert_eq!(fs::read(&taken).unwrap(), b"mine");
    assert_eq!(fs::read_link(runs.path().join(LINK)).unwrap(), Path::new("one"));
}

#[test]
fn a_folder_with_files_of_others_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    RunDir::try_new(folder.path()).unwrap();
    fs::write(folder.path().join("notes.txt"), "mine").unwrap();
    fs::create_dir(folder.path().join(SAMPLES)).unwrap();
    fs::write(folder.path().join(EVENTS), "").unwrap();
    RunDir::try_new(folder.path()).unwrap();
    for name in [METRICS, EVENTS, SUMMARY, JOURNAL, "samples/a.png"] {
        let path = folder.path().join(name);
        fs::write(&path, "mine, without an end of line").unwrap();
        let message = RunDir::try_new(folder.path()).unwrap_err().to_string();
        assert!(message.contains(name.split('/').next().unwrap()), "{message}");
        assert_eq!(fs::read(&path).unwrap(), b"mine, without an end of line");
        fs::remove_file(&path).unwrap();
    }
    RunDir::try_new(&folder.path().join("new/run")).unwrap();
    assert!(!folder.path().join("new").exists());
}

#[test]
fn a_link_is_written_through() {
    let folder = tempfile::tempdir().unwrap();
    let (run, elsewhere) = (folder.path().join("run"), folder.path().join("elsewhere"));
    fs::create_dir(&run).unwrap();
    symlink(&elsewhere, run.join(SUMMARY)).unwrap();
    write_json(&run, SUMMARY, &7).unwrap();
    assert!(run.join(SUMMARY).is_symlink());
    assert_eq!(fs::read(elsewhere).unwrap(), b"7\n");
}

#[test]
fn the_folder_stays_locked_if_the_file_is_deleted() {
    let run = tempfile::tempdir().unwrap();
    let held = lock(run.path()).unwrap();
    fs::remove_file(run.path().join(LOCK)).unwrap();
    assert!(RunDir::is_open(run.path()));
    let error = lock(run.path()).unwrap_err().to_string();
    assert!(error.contains("another coordinator is running in"), "{error}");
    drop(held);
    assert!(!RunDir::is_open(run.path()));
    lock(run.path()).unwrap();
}
