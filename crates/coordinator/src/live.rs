//! Sends the events and metrics of a run elsewhere while it trains: to TensorBoard, and to a command.
//! A failure here is logged once, and training goes on.

use std::{
    collections::VecDeque,
    io,
    path::Path,
    time::{Duration, Instant},
};

use history::{EpochRow, EventRow, MetricsRow, StepsRow, Time, newest_rows};

use crate::{launch::Launch, notify::Notifier, settings, tensorboard::Tensorboard};

/// The folder of the event files in a run directory.
const FOLDER: &str = "tensorboard";

/// The most epochs whose pictures are waited for, and how long each is waited for.
const PICTURES_MAX: usize = 16;
const PICTURE_TIMEOUT: Duration = Duration::from_secs(60);

/// Time between two searches for pictures.
const PICTURE_INTERVAL: Duration = Duration::from_millis(500);

/// Most characters of a run's name and of a note.
const NAME_MAX: usize = 64;
const NOTE_MAX: usize = 1000;

/// The flags for the run's name and note, and for TensorBoard and a command.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Metrics")]
pub(crate) struct LiveArgs {
    /// Name of the run in tables and pictures [default: the name of its folder]
    #[arg(long, value_name = "NAME", value_parser = |text: &str| line(text, NAME_MAX))]
    pub(crate) name: Option<String>,
    /// A note on the run, for yourself
    #[arg(long, value_name = "TEXT", value_parser = |text: &str| line(text, NOTE_MAX))]
    pub(crate) note: Option<String>,
    /// Write event files for TensorBoard too, into the folder tensorboard of the run directory
    #[arg(long)]
    pub(crate) tensorboard: bool,
    /// Run this command with sh for every event of the run. The command reads the event from
    /// standard input, a JSON object in a line. Training does not wait for the command; after 10 s
    /// the command is killed
    #[arg(long, value_name = "COMMAND")]
    pub(crate) notify: Option<String>,
}

/// Checks that a text is one line of at most `max` characters.
fn line(text: &str, max: usize) -> Result<String, String> {
    let is_line = !text.trim().is_empty() && !text.chars().any(char::is_control);
    match is_line && text.chars().count() <= max {
        true => Ok(text.to_owned()),
        false => Err(format!("choose a line of 1 to {max} characters")),
    }
}

/// The receivers of a run's events and metrics.
#[derive(Debug)]
pub(crate) struct Live {
    tensorboard: Option<Tensorboard>,
    /// Generation and step of the last row about steps.
    last: (u64, u64),
    pictures: VecDeque<(EpochRow, Instant)>,
    looked: Instant,
    notifier: Option<Notifier>,
}

impl Live {
    /// `last` is the generation and step of the last row about steps in the metrics.
    pub(crate) fn start(launch: &Launch, run_dir: &Path, last: (u64, u64)) -> Self {
        let info = &launch.info;
        let name = info.name.clone();
        let start = |command: &String| {
            let directory = run_dir.display().to_string();
            Notifier::start(command, info.run_id.clone(), directory, name.clone())
        };
        let notifier = launch.notify.as_ref().map(start).transpose();
        let notifier = notifier.unwrap_or_else(|error| {
            tracing::warn!("--notify: cannot start a thread: {error}");
            None
        });
        let tensorboard = launch.tensorboard.then(|| begin(launch, run_dir)).transpose();
        let tensorboard = tensorboard.unwrap_or_else(|error| {
            tracing::warn!(
                "--tensorboard: cannot write into {}: {error}; nothing is written for TensorBoard: \
                 move away the file of this name, or make the folder writable, and resume the run",
                run_dir.join(FOLDER).display()
            );
            None
        });
        let (pictures, looked) = (VecDeque::new(), Instant::now());
        Self { tensorboard, last, pictures, looked, notifier }
    }

    /// Sends an event.
    pub(crate) fn event(&mut self, row: &EventRow) {
        if let Some(notifier) = &mut self.notifier {
            notifier.tell(row);
        }
    }

    /// Sends a row about steps, of the run in `run_dir`.
    pub(crate) fn steps(&mut self, row: &StepsRow, run_dir: &Path) {
        let (generation, step) = std::mem::replace(&mut self.last, (row.generation, row.step));
        let is_rewound = row.generation != generation && row.begin() < step;
        self.write(|tensorboard| {
            if is_rewound {
                rewind(tensorboard, row, run_dir)?;
            }
            tensorboard.row(&MetricsRow::Steps(row.clone()))
        });
    }

    /// Sends a row about an epoch.
    pub(crate) fn epoch(&mut self, row: &EpochRow) {
        self.write(|tensorboard| tensorboard.row(&MetricsRow::Epoch(row.clone())));
        if self.tensorboard.is_some() {
            self.pictures.push_back((row.clone(), Instant::now()));
            if self.pictures.len() > PICTURES_MAX {
                self.pictures.pop_front();
            }
        }
    }

    /// Sends the pictures that have been written since the last call.
    pub(crate) fn pass_time(&mut self) {
        if !self.pictures.is_empty() && self.looked.elapsed() >= PICTURE_INTERVAL {
            self.look_for_pictures();
        }
    }

    fn look_for_pictures(&mut self) {
        self.looked = Instant::now();
        let mut pictures = std::mem::take(&mut self.pictures);
        self.write(|tensorboard| {
            while let Some((row, since)) = pictures.front() {
                if !tensorboard.samples(row)? && since.elapsed() < PICTURE_TIMEOUT {
                    break;
                }
                pictures.pop_front();
            }
            Ok(())
        });
        self.pictures = pictures;
    }

    /// Sends the remaining pictures, and the end of the run.
    pub(crate) fn end(&mut self, is_success: bool) {
        self.look_for_pictures();
        self.write(|tensorboard| tensorboard.end(is_success));
    }

    fn write(&mut self, write: impl FnOnce(&mut Tensorboard) -> io::Result<()>) {
        let Some(tensorboard) = &mut self.tensorboard else { return };
        if let Err(error) = write(tensorboard) {
            let path = tensorboard.path().display();
            tracing::warn!("cannot write {path}: {error}; nothing more is written for TensorBoard");
            self.tensorboard = None;
        }
    }
}

/// Begins an event file.
fn begin(launch: &Launch, run_dir: &Path) -> io::Result<Tensorboard> {
    let (folder, now) = (run_dir.join(FOLDER), Time::now());
    let mut tensorboard = Tensorboard::create(&folder, run_dir, now)?;
    let config = serde_json::to_value(&launch.info)?;
    let title = launch.info.name.clone().unwrap_or_else(|| launch.info.run_id.clone());
    tensorboard.begin(&settings::by_flag(&config), &title, now)?;
    Ok(tensorboard)
}

/// Marks the rows of steps that are trained again as void. This voids epoch rows too, which are
/// reported only once: so they are written again from the metrics.
fn rewind(tensorboard: &mut Tensorboard, row: &StepsRow, run_dir: &Path) -> io::Result<()> {
    tensorboard.rewind(row.begin(), row.time.unwrap_or_default())?;
    for known in newest_rows(run_dir).map_err(io::Error::other)? {
        if let MetricsRow::Epoch(epoch) = known.map_err(io::Error::other)?
            && epoch.step > row.begin()
        {
            tensorboard.samples(&epoch)?;
            tensorboard.row(&MetricsRow::Epoch(epoch))?;
        }
    }
    Ok(())
}
