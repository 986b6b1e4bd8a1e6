//! Logs that fill many files.

use super::*;
use crate::{
    Event, Events, Item, METRICS, Metrics, MetricsWriter, Time, newest_rows,
    row::{EpochRow, StepsRow},
};

const SMALL: Limits = Limits { file_bytes: 4096, files: 4 };

/// Steps of a row, and rows of an epoch.
const STEPS: u64 = 10;
const ROWS: u64 = 200;

fn steps(index: u64) -> StepsRow {
    StepsRow {
        time: Some(Time::from_unix_ms(1_772_366_400_000)),
        generation: 1,
        epoch: index / ROWS + 1,
        step: (index + 1) * STEPS,
        steps: Some(STEPS),
        examples: 64,
        seconds: Some(0.5),
        values: [("loss", Some(index as f64))].into_iter().collect(),
        ..StepsRow::default()
    }
}

fn write(writer: &mut MetricsWriter, rows: std::ops::Range<u64>) {
    for index in rows {
        let now = std::time::Instant::now();
        writer.steps(steps(index), now).unwrap();
        if (index + 1) % ROWS == 0 {
            let epoch = EpochRow {
                epoch: index / ROWS + 1,
                step: (index + 1) * STEPS,
                ..EpochRow::default()
            };
            writer.epoch(epoch, now).unwrap();
        }
        // Waits for the thinning, because in a real run training is slower than thinning.
        if let Some(thread) = writer.inner().thinning.take() {
            thread.join().unwrap();
        }
    }
}

fn bytes(folder: &Path) -> u64 {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

/// All rows about steps, and the number of rows about epochs.
fn read(folder: &Path) -> (Vec<StepsRow>, u64) {
    let (mut steps, mut epochs) = (Vec::new(), 0);
    for row in newest_rows(folder).unwrap() {
        match row.unwrap() {
            MetricsRow::Steps(row) => steps.push(row),
            MetricsRow::Epoch(row) => {
                epochs += 1;
                assert_eq!(row.epoch, epochs);
            }
        }
    }
    (steps, epochs)
}

#[test]
fn the_volume_is_bounded_and_every_step_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = MetricsWriter::open(folder.path(), SMALL).unwrap();
    let rows = 4000;
    write(&mut writer, 0..rows);
    drop(writer);
    let (steps, epochs) = read(folder.path());
    assert_eq!(epochs, rows / ROWS);
    let epoch_bytes = epochs * 400;
    let bound = SMALL.file_bytes * (SMALL.files as u64 + 2) + epoch_bytes;
    assert!(bytes(folder.path()) < bound, "{} bytes", bytes(folder.path()));
    // The rows are in order, without a gap, and their sums are complete.
    let mut step = 0;
    for row in &steps {
        assert_eq!(row.begin(), step);
        step = row.step;
    }
    assert_eq!(step, rows * STEPS);
    assert_eq!(steps.iter().map(|row| row.examples).sum::<u64>(), rows * 64);
    assert!(steps.len() < 600, "{} rows", steps.len());
    // The newest rows are unchanged, and the oldest ones have the range of their losses.
    assert_eq!(steps.last().unwrap().steps, Some(STEPS));
    assert_eq!(steps[0].loss_range.unwrap().0, 0.0);
}

#[test]
fn a_writer_goes_on_where_the_last_one_died() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = MetricsWriter::open(folder.path(), SMALL).unwrap();
    write(&mut writer, 0..200);
    drop(writer);
    // The writer died after it had merged two files but not deleted the second, and after it had
    // closed a file but not begun the next.
    let (closed, _) = log_files::list(folder.path(), METRICS).unwrap();
    let left_over = closed_path(folder.path(), METRICS, closed[0].last, closed[0].last);
    fs::copy(&closed[0].path, &left_over).unwrap();
    let number = closed.last().unwrap().last + 1;
    let torn = closed_path(folder.path(), METRICS, number, number);
    fs::rename(folder.path().join(METRICS), torn).unwrap();
    let before = read(folder.path());
    let mut writer = MetricsWriter::open(folder.path(), SMALL).unwrap();
    assert_eq!(left_over.exists(), closed[0].first == closed[0].last);
    assert_eq!(read(folder.path()), before);
    write(&mut writer, 200..220);
    let (steps, _) = read(folder.path());
    assert_eq!(steps.last().unwrap().step, 220 * STEPS);
    assert_eq!(steps.iter().map(|row| row.examples).sum::<u64>(), 220 * 64);
}

#[test]
fn a_reader_follows_over_many_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = MetricsWriter::open(folder.path(), SMALL).unwrap();
    let mut metrics = Metrics::open(folder.path());
    assert_eq!(metrics.next_item().unwrap(), None);
    let mut step = 0;
    for index in 0..500 {
        write(&mut writer, index..index + 1);
        // A second reader begins at the position of the first, as another process would.
        let mut other =
            Metrics::open_at(folder.path(), metrics.position().to_string().parse().unwrap());
        for metrics in [&mut metrics, &mut other] {
            let row = metrics.next_item().unwrap();
            let Some(Item::Row(MetricsRow::Steps(row))) = row else { panic!("{row:?}") };
            assert_eq!(row.begin(), step);
            while metrics.next_item().unwrap().is_some() {}
        }
        assert_eq!(other.position(), metrics.position());
        step += STEPS;
    }
    // Readers with positions in files that have been thinned since, or that do not exist.
    let old = Metrics::open_at(folder.path(), "1-100-1-10".parse().unwrap());
    for mut reader in [old, Metrics::open_at(folder.path(), "77777-5-1-1".parse().unwrap())] {
        assert_eq!(reader.next_item().unwrap(), Some(Item::Restarted));
        let mut examples = 0;
        while let Some(item) = reader.next_item().unwrap() {
            if let Item::Row(MetricsRow::Steps(row)) = item {
                examples += row.examples;
            }
        }
        assert_eq!(examples, 500 * 64);
    }
}

#[test]
fn of_many_events_the_newest_stay() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = EventWriter::open(folder.path(), SMALL).unwrap();
    for slot in 0..1000 {
        let event = Event::Restarting { slot, status: "was killed".into() };
        writer.append(&EventRow { time: Some(Time::now()), event }).unwrap();
        if let Some(thread) = writer.0.thinning.take() {
            thread.join().unwrap();
        }
    }
    assert!(bytes(folder.path()) <= SMALL.file_bytes * (SMALL.files as u64 + 2));
    let mut events = Events::open(folder.path());
    let mut last = None;
    while let Some(Item::Row(row)) = events.next_item().unwrap() {
        let Event::Restarting { slot, .. } = row.event else { panic!("{row:?}") };
        assert!(last.is_none_or(|last: u32| last + 1 == slot), "{slot}");
        last = Some(slot);
    }
    assert_eq!(last, Some(999));
}

#[test]
fn what_is_no_file_of_ours_is_not_renamed() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = folder.path().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, folder.path().join(METRICS)).unwrap();
    let mut writer = MetricsWriter::open(folder.path(), SMALL).unwrap();
    write(&mut writer, 0..100);
    assert!(folder.path().join(METRICS).is_symlink());
    assert_eq!(read(folder.path()).0.len(), 100);
}
