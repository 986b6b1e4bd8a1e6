//! Reads logs with faults, and logs that grow.

use std::{fs, io::Write as _};

use super::*;

fn log(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(METRICS), text).unwrap();
    folder
}

fn row(generation: u64, step: u64) -> String {
    format!("{{\"kind\":\"steps\",\"generation\":{generation},\"step\":{step},\"steps\":10}}\n")
}

/// The steps of rows, and for each [`Item::Rewound`] its step as a negative number.
fn told(metrics: &mut Metrics) -> Vec<i64> {
    let mut told = Vec::new();
    while let Some(item) = metrics.next_item().unwrap() {
        told.push(match item {
            Item::Row(row) => row.step().cast_signed(),
            Item::Rewound { step } => -step.cast_signed(),
            Item::Restarted => i64::MIN,
        });
    }
    told
}

#[test]
fn what_is_no_row_is_passed_over() {
    let folder = log(&format!("nonsense\n{}\n\0\0\n[1]\n{}", row(1, 10), row(1, 20)));
    let mut metrics = Metrics::open(folder.path());
    assert_eq!(told(&mut metrics), [10, 20]);
    assert_eq!(metrics.bad_lines(), 3);
}

#[test]
fn a_line_that_is_not_complete_is_waited_for() {
    let text = row(1, 10) + &row(1, 20);
    let (before, after) = text.split_at(text.len() - 5);
    let folder = log(before);
    let mut metrics = Metrics::open(folder.path());
    assert_eq!(told(&mut metrics), [10]);
    let mut file = fs::OpenOptions::new().append(true).open(folder.path().join(METRICS)).unwrap();
    file.write_all(after.as_bytes()).unwrap();
    assert_eq!(told(&mut metrics), [20]);
    // A line that was cut off is removed, and another line is written in its place.
    file.write_all(b"{\"kind\":\"steps\",\"step\":999").unwrap();
    assert_eq!(told(&mut metrics), [0; 0]);
    let mut file = crate::append_lines(&folder.path().join(METRICS)).unwrap();
    file.write_all(row(1, 30).as_bytes()).unwrap();
    assert_eq!(told(&mut metrics), [30]);
    // The file was made shorter than the part that was read.
    file.set_len(text.len() as u64).unwrap();
    assert_eq!(told(&mut metrics), [i64::MIN, 10, 20]);
}

#[test]
fn steps_that_are_trained_again_are_told_of() {
    let folder = log(&[row(1, 10), row(1, 20), row(1, 30), row(2, 20), row(2, 30)].concat());
    let mut metrics = Metrics::open(folder.path());
    assert_eq!(told(&mut metrics), [10, 20, 30, -10, 20, 30]);
    // A reader that begins at any position gets the same remaining items.
    let mut metrics = Metrics::open(folder.path());
    let mut rest = vec![10, 20, 30, -10, 20, 30];
    while !rest.is_empty() {
        let position: Position = metrics.position().to_string().parse().unwrap();
        let mut other = Metrics::open_at(folder.path(), position);
        // Between a rewind and its row, the position is still before the rewind.
        let is_between = metrics.held.is_some();
        let expected = if is_between { [&[-10], &rest[..]].concat() } else { rest.clone() };
        assert_eq!(told(&mut other), expected);
        metrics.next_item().unwrap();
        rest.remove(0);
    }
}

#[test]
fn a_run_without_rows_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(told(&mut Metrics::open(&folder.path().join("none"))), [0; 0]);
    let mut metrics = Metrics::open(folder.path());
    assert_eq!(told(&mut metrics), [0; 0]);
    fs::write(folder.path().join(METRICS), row(1, 10)).unwrap();
    assert_eq!(told(&mut metrics), [10]);
    assert_eq!(Events::open(folder.path()).next_item().unwrap(), None);
    for text in ["", "1", "1-2-3", "1-2-3-4-5", "a-b-c-d", "1-2-3--4"] {
        assert_eq!(text.parse::<Position>(), Err(InvalidPosition), "{text}");
    }
}

#[test]
fn a_pipe_or_a_folder_in_place_of_a_file_is_an_error_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(METRICS);
    for make in ["mkfifo", "mkdir"] {
        assert!(std::process::Command::new(make).arg(&path).status().unwrap().success());
        let error = Metrics::open(folder.path()).next_item().unwrap_err();
        let HistoryError::Read { path: named, source } = error else { panic!("{error}") };
        assert_eq!(named, path);
        assert_eq!(source.to_string(), "it is not a regular file: move it away");
        crate::append_lines(&path).unwrap_err();
        fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).unwrap();
    }
    // A device holds no rows.
    std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
    assert_eq!(Metrics::open(folder.path()).next_item().unwrap(), None);
}
