//! Event files for TensorBoard: numbers by step, pictures, and the hyperparameters of a run.
//!
//! [`EventFile`] is a file that grows; TensorBoard can read it at the same time. `messages.rs` has the
//! messages, `records.rs` the format of the file. The crate knows nothing of training, and does not
//! depend on TensorFlow.

mod crc;
mod messages;
mod records;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use prost::Message as _;

use crate::messages::{
    Event, Experiment, HParam, HParamInfo, HParams, HParamsData, Image, Kind, Metadata, MetricInfo,
    MetricName, Plugin, SessionEnd, SessionLog, SessionStart, Summary, Value, What,
};

/// The version of the format, in the first record of a file.
const FILE_VERSION: &str = "brain.Event:2";

/// `SessionLog.START`: earlier records of this step or later steps are void.
const START: i32 = 1;

/// `STATUS_SUCCESS` and `STATUS_FAILURE` of the hparams plugin.
const SUCCESS: i32 = 1;
const FAILURE: i32 = 2;

/// TensorFlow's number for the colour space RGB.
const RGB: i32 = 3;

/// Data types of hyperparameters.
const TEXT: i32 = 1;
const SWITCH: i32 = 2;
const NUMBER: i32 = 3;

/// How many names are tried for a new file.
const NAME_ATTEMPTS: u32 = 1000;

/// A hyperparameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
    /// A switch, on or off.
    Switch(bool),
}

/// A file of events that grows.
#[derive(Debug)]
pub struct EventFile {
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// Begins a new file in a folder, which is made if it does not exist. TensorBoard reads the files
    /// of a folder in the order of their names, so a name contains the time in seconds.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(folder: &Path, unix_seconds: f64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let time = unix_seconds.max(0.0) as u64;
        let mut made = Err(io::ErrorKind::AlreadyExists.into());
        let mut path = PathBuf::new();
        for attempt in 0..NAME_ATTEMPTS {
            path = folder.join(format!("events.out.tfevents.{time:010}.lockstep.{attempt:03}"));
            made = File::options().append(true).create_new(true).open(&path);
            if !matches!(&made, Err(error) if error.kind() == io::ErrorKind::AlreadyExists) {
                break;
            }
        }
        let mut events = Self { file: made?, path };
        events.put(unix_seconds, 0, What::FileVersion(FILE_VERSION.into()))?;
        Ok(events)
    }

    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes numbers of a step, by name.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn scalars<'a>(
        &mut self,
        unix_seconds: f64,
        step: u64,
        scalars: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> io::Result<()> {
        let value = |(tag, number): (&str, f64)| Value {
            tag: tag.to_owned(),
            kind: Some(Kind::Scalar(number as f32)),
            metadata: None,
        };
        self.summary(unix_seconds, step, scalars.into_iter().map(value).collect())
    }

    /// Writes a picture of a step: a PNG of `width` times `height` pixels.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn image(
        &mut self,
        unix_seconds: f64,
        step: u64,
        tag: &str,
        [width, height]: [u32; 2],
        png: Vec<u8>,
    ) -> io::Result<()> {
        let side = |pixels: u32| i32::try_from(pixels).unwrap_or(i32::MAX);
        let (width, height) = (side(width), side(height));
        let image = Image { height, width, colorspace: RGB, encoded: png };
        let kind = Some(Kind::Image(image));
        self.summary(unix_seconds, step, vec![Value { tag: tag.to_owned(), kind, metadata: None }])
    }

    /// Marks all earlier values of this step and of later steps in the folder as void, for a run that
    /// is resumed.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn purge_from(&mut self, unix_seconds: f64, step: u64) -> io::Result<()> {
        self.put(unix_seconds, step, What::SessionLog(SessionLog { status: START }))
    }

    /// Writes the hyperparameters of a run, and the names of its metrics.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn begin_session(
        &mut self,
        unix_seconds: f64,
        group: &str,
        settings: &BTreeMap<String, Setting>,
        metrics: &[String],
    ) -> io::Result<()> {
        let info = |(name, setting): (&String, &Setting)| HParamInfo {
            name: name.clone(),
            kind: match setting {
                Setting::Text(_) => TEXT,
                Setting::Switch(_) => SWITCH,
                Setting::Number(_) => NUMBER,
            },
        };
        let metric = |tag: &String| MetricInfo {
            name: Some(MetricName { group: String::new(), tag: tag.clone() }),
        };
        let experiment = Experiment {
            time_created_secs: unix_seconds,
            hparam_infos: settings.iter().map(info).collect(),
            metric_infos: metrics.iter().map(metric).collect(),
        };
        let hparams = settings.iter().map(|(name, setting)| (name.clone(), setting.into()));
        let start = SessionStart {
            hparams: hparams.collect(),
            group_name: group.to_owned(),
            start_time_secs: unix_seconds,
        };
        let values = vec![
            hparams_value("_hparams_/experiment", HParamsData::Experiment(experiment)),
            hparams_value("_hparams_/session_start_info", HParamsData::Start(start)),
        ];
        self.summary(unix_seconds, 0, values)
    }

    /// Writes that the run has ended.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn end_session(&mut self, unix_seconds: f64, is_success: bool) -> io::Result<()> {
        let status = if is_success { SUCCESS } else { FAILURE };
        let end = SessionEnd { status, end_time_secs: unix_seconds };
        let value = hparams_value("_hparams_/session_end_info", HParamsData::End(end));
        self.summary(unix_seconds, 0, vec![value])
    }

    fn summary(&mut self, unix_seconds: f64, step: u64, value: Vec<Value>) -> io::Result<()> {
        self.put(unix_seconds, step, What::Summary(Summary { value }))
    }

    fn put(&mut self, wall_time: f64, step: u64, what: What) -> io::Result<()> {
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        let event = Event { wall_time, step, what: Some(what) };
        self.file.write_all(&records::record(&event.encode_to_vec()))
    }
}

fn hparams_value(tag: &str, data: HParamsData) -> Value {
    let content = HParams { version: 0, data: Some(data) }.encode_to_vec();
    let plugin = Some(Plugin { name: "hparams".to_owned(), content });
    Value { tag: tag.to_owned(), kind: None, metadata: Some(Metadata { plugin }) }
}

impl From<&Setting> for HParam {
    fn from(setting: &Setting) -> Self {
        use messages::HParamKind as Kind;
        let kind = match setting {
            Setting::Number(number) => Kind::Number(*number),
            Setting::Text(text) => Kind::Text(text.clone()),
            Setting::Switch(is_on) => Kind::Switch(*is_on),
        };
        Self { kind: Some(kind) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_files_of_one_second_have_two_names_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let create = || EventFile::create(folder.path(), 1.79e9).unwrap().path().to_owned();
        let (one, two) = (create(), create());
        assert!(one < two, "{} {}", one.display(), two.display());
    }

    #[test]
    fn what_was_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = EventFile::create(folder.path(), 1.79e9).unwrap();
        file.scalars(1.79e9, 7, [("loss", 1.5), ("test/loss", 2.5)]).unwrap();
        file.purge_from(1.79e9, 3).unwrap();
        let bytes = fs::read(file.path()).unwrap();
        let bodies = records::read(&bytes);
        let events: Vec<Event> = bodies.iter().map(|body| Event::decode(*body).unwrap()).collect();
        assert_eq!(events[0].what, Some(What::FileVersion(FILE_VERSION.into())));
        let Some(What::Summary(summary)) = &events[1].what else { panic!("{events:?}") };
        assert_eq!((events[1].step, summary.value.len()), (7, 2));
        assert_eq!(summary.value[1].kind, Some(Kind::Scalar(2.5)));
        assert_eq!(events[2].what, Some(What::SessionLog(SessionLog { status: START })));
    }
}
