//! Writes a run's metrics, samples and flags into an event file for TensorBoard.

use std::{
    collections::BTreeMap,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use ::tensorboard::{EventFile, Setting};
use history::{EpochRow, MetricsRow, StepsRow, Time, Values};
use serde_json::Value;

/// The largest picture that is written, in bytes.
const PICTURE_BYTES_MAX: u64 = 4 << 20;

/// An event file of a run.
#[derive(Debug)]
pub(crate) struct Tensorboard {
    file: EventFile,
    run_dir: PathBuf,
}

impl Tensorboard {
    /// Begins a file in a folder, for the run in `run_dir`.
    pub(crate) fn create(folder: &Path, run_dir: &Path, now: Time) -> io::Result<Self> {
        let file = EventFile::create(folder, now.unix_seconds())?;
        Ok(Self { file, run_dir: run_dir.to_owned() })
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Writes the flags of the run.
    pub(crate) fn begin(
        &mut self,
        settings: &BTreeMap<String, Value>,
        title: &str,
        now: Time,
    ) -> io::Result<()> {
        let setting = |(name, value): (&String, &Value)| {
            let setting = match value {
                Value::Null => return None,
                Value::Bool(is_on) => Setting::Switch(*is_on),
                Value::Number(number) => Setting::Number(number.as_f64()?),
                Value::String(text) => Setting::Text(text.clone()),
                other => Setting::Text(other.to_string()),
            };
            Some((name.clone(), setting))
        };
        let settings = settings.iter().filter_map(setting).collect();
        self.file.begin_session(now.unix_seconds(), title, &settings, &["test/loss".to_owned()])
    }

    /// Writes that the run has ended.
    pub(crate) fn end(&mut self, is_success: bool) -> io::Result<()> {
        self.file.end_session(Time::now().unix_seconds(), is_success)
    }

    /// Marks the values of all steps after this one as void.
    pub(crate) fn rewind(&mut self, step: u64, time: Time) -> io::Result<()> {
        self.file.purge_from(time.unix_seconds(), step + 1)
    }

    /// Writes a row.
    pub(crate) fn row(&mut self, row: &MetricsRow) -> io::Result<()> {
        let time = row.time().unwrap_or_default().unix_seconds();
        let scalars = match row {
            MetricsRow::Steps(row) => of_steps(row),
            MetricsRow::Epoch(row) => named("test", &row.test),
        };
        if scalars.is_empty() {
            return Ok(());
        }
        let scalars = scalars.iter().map(|(tag, value)| (&tag[..], *value));
        self.file.scalars(time, row.step(), scalars)
    }

    /// Writes the picture of an epoch, if it exists. Returns whether it exists.
    pub(crate) fn samples(&mut self, row: &EpochRow) -> io::Result<bool> {
        let path = history::samples_path(&self.run_dir, row.epoch);
        let mut png = Vec::new();
        let read = disk::open_regular(&path)
            .and_then(|file| file.take(PICTURE_BYTES_MAX + 1).read_to_end(&mut png));
        let (Ok(_), Some(sides)) = (read, sides(&png)) else { return Ok(false) };
        if png.len() as u64 <= PICTURE_BYTES_MAX {
            let time = row.time.unwrap_or_default().unix_seconds();
            self.file.image(time, row.step, "samples", sides, png)?;
        }
        Ok(true)
    }
}

/// Width and height of a PNG.
fn sides(png: &[u8]) -> Option<[u32; 2]> {
    let side = |at: usize| Some(u32::from_be_bytes(png.get(at..at + 4)?.try_into().ok()?));
    let is_png = png.starts_with(b"\x89PNG\r\n\x1a\n") && png.get(12..16) == Some(b"IHDR");
    is_png.then(|| Some([side(16)?, side(20)?])).flatten()
}

fn named(prefix: &str, values: &Values) -> Vec<(String, f64)> {
    let named =
        values.iter().filter_map(|(name, value)| Some((format!("{prefix}/{name}"), value?)));
    named.collect()
}

fn of_steps(row: &StepsRow) -> Vec<(String, f64)> {
    let mut scalars = named("train", &row.values);
    scalars.extend(named("schedule", &row.factors));
    let waiting = row.ranks.iter().map(|rank| rank.waiting_seconds).reduce(f64::max);
    let others = [
        ("schedule/learning_rate", row.learning_rate),
        ("train/gradient_norm", row.gradient_norm),
        ("throughput/examples_per_second", row.examples_per_second),
        ("throughput/longest_waiting_seconds", waiting),
    ];
    let known = others.into_iter().filter_map(|(tag, value)| Some((tag.to_owned(), value?)));
    scalars.extend(known);
    scalars
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sides_of_a_picture_are_read() {
        let png = picture::Canvas::new(30, 20, picture::WHITE).png().unwrap();
        assert_eq!(sides(&png), Some([30, 20]));
        assert_eq!((sides(&png[..20]), sides(b"GIF89a")), (None, None));
    }
}
