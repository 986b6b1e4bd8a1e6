//! The valid rows of a run: if steps were trained again, only the rows of the newest generation.

use std::path::Path;

use crate::{
    HistoryError,
    reader::{Item, Metrics},
    row::MetricsRow,
};

/// Reads the valid rows of a run, in the order of the file. The files are read twice, and not held in
/// memory.
///
/// # Errors
/// When a file cannot be read.
pub fn newest_rows(run_dir: &Path) -> Result<NewestRows, HistoryError> {
    let mut metrics = Metrics::open(run_dir);
    let mut begins: Vec<Begin> = Vec::new();
    let mut rows = 0;
    while let Some(item) = metrics.next_item()? {
        match item {
            Item::Row(row) => rows += u64::from(matches!(row, MetricsRow::Steps(_))),
            Item::Rewound { step } => begins.push(Begin { at: rows, step }),
            Item::Restarted => (rows, begins) = (0, Vec::new()),
        }
    }
    // A row is valid if no later generation has begun before its step.
    let mut step = u64::MAX;
    for begin in begins.iter_mut().rev() {
        step = step.min(begin.step);
        begin.step = step;
    }
    Ok(NewestRows { metrics: Metrics::open(run_dir), begins, rows: 0, left: rows })
}

/// A place in the file from which steps are trained again.
#[derive(Debug)]
struct Begin {
    /// The number of rows about steps before this place.
    at: u64,
    /// The last step of those rows that stays valid.
    step: u64,
}

/// The valid rows of a run, from [`newest_rows`].
#[derive(Debug)]
pub struct NewestRows {
    metrics: Metrics,
    begins: Vec<Begin>,
    rows: u64,
    /// The number of rows about steps that the first reading found.
    left: u64,
}

impl NewestRows {
    /// Lines that were no rows, so far.
    #[must_use]
    pub fn bad_lines(&self) -> u64 {
        self.metrics.bad_lines()
    }

    fn counts(&mut self, row: &MetricsRow) -> bool {
        let MetricsRow::Steps(row) = row else { return true };
        let next = self.begins.partition_point(|begin| begin.at <= self.rows);
        self.rows += 1;
        self.begins.get(next).is_none_or(|begin| row.step <= begin.step)
    }
}

impl Iterator for NewestRows {
    type Item = Result<MetricsRow, HistoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.metrics.next_item() {
                Ok(Some(Item::Row(row))) => {
                    if matches!(row, MetricsRow::Steps(_)) && self.rows == self.left {
                        return None;
                    }
                    if self.counts(&row) {
                        return Some(Ok(row));
                    }
                }
                Ok(Some(Item::Rewound { .. })) => {}
                // Files were closed and thinned since the first reading, so the iteration ends.
                Ok(Some(Item::Restarted) | None) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn newest(rows: &[(u64, u64, Option<u64>)]) -> Vec<(u64, u64)> {
        let folder = tempfile::tempdir().unwrap();
        let line = |(generation, step, steps): &(u64, u64, Option<u64>)| {
            format!(
                "{{\"kind\":\"steps\",\"generation\":{generation},\"step\":{step},\"steps\":{}}}\n",
                serde_json::to_string(steps).unwrap()
            )
        };
        let text: String = rows.iter().map(line).collect();
        std::fs::write(folder.path().join(crate::METRICS), text).unwrap();
        let row = |row: Result<MetricsRow, HistoryError>| match row.unwrap() {
            MetricsRow::Steps(row) => (row.generation, row.step),
            MetricsRow::Epoch(row) => panic!("{row:?}"),
        };
        newest_rows(folder.path()).unwrap().map(row).collect()
    }

    #[test]
    fn steps_that_were_trained_again_are_those_of_the_newest_generation() {
        let ten = |generation, step| (generation, step, Some(10));
        assert_eq!(newest(&[ten(1, 10), ten(1, 20)]), [(1, 10), (1, 20)]);
        // The second generation continues where the first one ended.
        assert_eq!(newest(&[ten(1, 10), ten(2, 20)]), [(1, 10), (2, 20)]);
        // The second generation continues from a checkpoint; its first row is of steps 21 to 25.
        let resumed = newest(&[ten(1, 10), ten(1, 20), ten(1, 30), (2, 25, Some(5)), ten(2, 35)]);
        assert_eq!(resumed, [(1, 10), (1, 20), (2, 25), (2, 35)]);
        // Two resumes, the second one from an older checkpoint than the first.
        let rows = [ten(1, 10), ten(1, 20), ten(1, 30), ten(2, 30), ten(3, 20), ten(3, 30)];
        assert_eq!(newest(&rows), [(1, 10), (3, 20), (3, 30)]);
        // The second generation begins again from the first step.
        assert_eq!(newest(&[ten(1, 10), ten(1, 20), ten(2, 10)]), [(2, 10)]);
        // Rows of older versions do not have the number of their steps.
        let old = [(1, 10, None), (1, 20, None), (1, 30, None), (2, 20, None), (2, 30, None)];
        assert_eq!(newest(&old), [(1, 10), (2, 20), (2, 30)]);
    }

    #[test]
    fn lines_that_are_no_rows_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let row = "{\"kind\":\"steps\",\"generation\":1,\"step\":1}";
        let text = [&b"\xff\x00\n{\"kind\":1}\n"[..], row.as_bytes(), b"\n\n"].concat();
        std::fs::write(folder.path().join(crate::METRICS), text).unwrap();
        let mut rows = newest_rows(folder.path()).unwrap();
        assert_eq!((rows.by_ref().count(), rows.bad_lines()), (1, 2));
    }
}
