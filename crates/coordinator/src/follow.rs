//! Sends a run to boards on other machines: its rows, samples and status, as they come. The queue of
//! messages for a board is bounded; the rest stays in the files until the board has read.

use std::{
    collections::VecDeque,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use checkpoint::{CHECKPOINTS, Directory};
use history::{Events, HistoryError, Item, Metrics, Numbered, Position};
use protocol::{
    FOLLOW_MESSAGE_BYTES_MAX, Malformed, status,
    wire::{FollowReply, FollowRequest, FollowedRun, Rows, Samples, follow_reply::Body},
};
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tonic::Status;

use crate::{board::Readings, run_dir};

/// The most boards that follow at a time.
const FOLLOWERS_MAX: usize = 8;

/// Messages that may wait for one board.
const REPLIES: usize = 4;

/// A message ends after the row that reaches this many bytes.
const ROWS_BYTES: usize = 256 << 10;

/// Time between two reads of the run's files.
const INTERVAL: Duration = Duration::from_millis(500);

/// The most samples of earlier epochs that are sent at the beginning.
const SAMPLES_MAX: usize = 64;

/// The largest file that is sent, in one message, in bytes.
const FILE_BYTES_MAX: u64 = FOLLOW_MESSAGE_BYTES_MAX as u64 - 4096;

/// How long a coordinator that ends waits for the boards to read the last messages.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(2);

/// The boards that follow the run.
#[derive(Clone, Debug)]
pub(crate) struct Followers {
    run_id: String,
    run_dir: PathBuf,
    turns: Arc<Semaphore>,
}

/// The messages for one board.
pub(crate) type Replies = mpsc::Receiver<Result<FollowReply, Status>>;

impl Followers {
    /// The followers of a run that is, or will be, in this directory.
    pub(crate) fn new(run_id: &str, run_dir: &Path) -> Self {
        let turns = Arc::new(Semaphore::new(FOLLOWERS_MAX));
        Self { run_id: run_id.to_owned(), run_dir: run_dir.to_owned(), turns }
    }

    /// Begins to send to a board.
    pub(crate) async fn take_in(
        &self,
        request: FollowRequest,
        readings: Readings,
    ) -> Result<Replies, Status> {
        let Ok(turn) = Arc::clone(&self.turns).try_acquire_owned() else {
            return Err(Status::unavailable(format!(
                "{FOLLOWERS_MAX} boards follow the run already"
            )));
        };
        let (run_id, run_dir) = (self.run_id.clone(), self.run_dir.clone());
        let files = spawn_blocking(move || Files::open(run_id, run_dir, &request)).await;
        let (run, files) = files.map_err(|error| Status::internal(error.to_string()))??;
        let (sender, replies) = mpsc::channel(REPLIES);
        tokio::spawn(async move {
            let _gone = send(sender, run, files, readings, turn).await;
        });
        Ok(replies)
    }

    /// Waits until all boards have read the end of the run, or until the timeout.
    pub(crate) async fn finish(&self) {
        let _all_or_late =
            timeout(LAST_WORDS_TIMEOUT, self.turns.acquire_many(FOLLOWERS_MAX as u32)).await;
    }
}

/// Sends all rows, samples and statuses until the run has ended or the board is gone.
async fn send(
    sender: mpsc::Sender<Result<FollowReply, Status>>,
    run: FollowedRun,
    mut files: Files,
    readings: Readings,
    _turn: OwnedSemaphorePermit,
) -> Result<(), Gone> {
    let say = async |body: Body| {
        sender.send(Ok(FollowReply { body: Some(body) })).await.map_err(|_| Gone)
    };
    say(Body::Run(run)).await?;
    loop {
        // The status is read before the rows. When it is none, the run has ended and all rows have
        // been written, so the last pass over the files sends all of them.
        let status = readings.status().await;
        loop {
            let (next, bodies) = spawn_blocking(move || {
                let bodies = files.next();
                (files, bodies)
            })
            .await
            .map_err(|_| Gone)?;
            files = next;
            match bodies {
                Ok(bodies) if bodies.is_empty() => break,
                Ok(bodies) => {
                    for body in bodies {
                        say(body).await?;
                    }
                }
                Err(error) => {
                    let failed = Status::unavailable(limits::told(&error));
                    return sender.send(Err(failed)).await.map_err(|_| Gone);
                }
            }
        }
        let Some(status) = status else { break };
        say(Body::Status(status)).await?;
        tokio::select! {
            () = sleep(INTERVAL) => {}
            () = sender.closed() => return Err(Gone),
        }
    }
    // The turn ends when the board has read all messages.
    let ended = Status::unavailable("the run has ended");
    let _sent = sender.send(Err(ended)).await;
    sender.closed().await;
    Ok(())
}

/// The board that followed has gone.
struct Gone;

/// The files of the run, up to where they have been sent.
#[derive(Debug)]
struct Files {
    run_dir: PathBuf,
    metrics: Metrics,
    events: Events,
    /// The newest epoch whose samples were sent.
    samples: u64,
    samples_folder: Numbered,
    /// Epochs whose samples are to be sent.
    pending: VecDeque<u64>,
    checkpoints: Directory,
    /// Step of the newest checkpoint that the board was told of.
    checkpoint: Option<u64>,
    summary_changed: Option<SystemTime>,
}

impl Files {
    #[allow(clippy::result_large_err, reason = "the status is what the service answers")]
    fn open(
        run_id: String,
        run_dir: PathBuf,
        request: &FollowRequest,
    ) -> Result<(FollowedRun, Self), Status> {
        let config = run_dir.join(run_dir::CONFIG);
        let configuration = read(&config).map_err(|error| {
            Status::unavailable(format!("cannot read {}: {error}", config.display()))
        })?;
        let folder = run_dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_known = request.run_id == run_id;
        let position = |text: &str| match text {
            text if !is_known || text.is_empty() => Ok(Position::default()),
            text => text
                .parse()
                .map_err(|error| status::malformed(&Malformed(format!("{text:?} is {error}")))),
        };
        let files = Self {
            metrics: Metrics::open_at(&run_dir, position(&request.metrics)?),
            events: Events::open_at(&run_dir, position(&request.events)?),
            samples: if is_known { request.samples } else { 0 },
            samples_folder: Numbered::samples(&run_dir),
            pending: VecDeque::new(),
            checkpoints: Directory::open(run_dir.join(CHECKPOINTS)),
            checkpoint: None,
            summary_changed: None,
            run_dir,
        };
        Ok((FollowedRun { run_id, folder, configuration }, files))
    }

    /// The next messages; none if there is nothing new yet.
    fn next(&mut self) -> Result<Vec<Body>, HistoryError> {
        let metrics = rows(|| self.metrics.next_item())?;
        let events = rows(|| self.events.next_item())?;
        let place =
            |rows: Rows, position: Position| Rows { position: position.to_string(), ..rows };
        let metrics = metrics.map(|rows| Body::Metrics(place(rows, self.metrics.position())));
        let events = events.map(|rows| Body::Events(place(rows, self.events.position())));
        let mut bodies: Vec<Body> = metrics.into_iter().chain(events).collect();
        if bodies.is_empty() {
            bodies.extend(self.next_samples());
            bodies.extend(self.next_checkpoint());
            bodies.extend(self.next_summary());
        }
        Ok(bodies)
    }

    fn next_samples(&mut self) -> Option<Body> {
        if self.pending.is_empty() {
            let mut epochs = self.samples_folder.changed()?;
            epochs.retain(|epoch| *epoch > self.samples);
            self.pending = epochs.split_off(epochs.len().saturating_sub(SAMPLES_MAX)).into();
        }
        while let Some(epoch) = self.pending.pop_front() {
            self.samples = epoch;
            if let Ok(picture) = read(&history::samples_path(&self.run_dir, epoch)) {
                return Some(Body::Samples(Samples { epoch, picture }));
            }
        }
        None
    }

    fn next_checkpoint(&mut self) -> Option<Body> {
        let (newest, _) = self.checkpoints.list().ok()?.pop()?;
        let is_told = self.checkpoint.replace(newest) == Some(newest);
        (!is_told).then_some(Body::Checkpoint(newest))
    }

    fn next_summary(&mut self) -> Option<Body> {
        let path = self.run_dir.join(run_dir::SUMMARY);
        let changed = fs::metadata(&path).and_then(|file| file.modified()).ok()?;
        if self.summary_changed.replace(changed) == Some(changed) {
            return None;
        }
        read(&path).ok().map(Body::Summary)
    }
}

/// Reads a whole file that fits into a message.
fn read(path: &Path) -> io::Result<Bytes> {
    let mut bytes = Vec::new();
    disk::open_regular(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is too large to be sent"));
    }
    Ok(bytes.into())
}

/// The next rows of a log, as many as a message takes; none if there are none yet.
fn rows<R: Serialize>(
    mut next: impl FnMut() -> Result<Option<Item<R>>, HistoryError>,
) -> Result<Option<Rows>, HistoryError> {
    let (mut lines, mut restarted) = (Vec::new(), false);
    while lines.len() < ROWS_BYTES {
        match next()? {
            None => break,
            Some(Item::Row(row)) => {
                if serde_json::to_writer(&mut lines, &row).is_ok() {
                    lines.push(b'\n');
                }
            }
            // The board detects this from the rows themselves.
            Some(Item::Rewound { .. }) => {}
            Some(Item::Restarted) => {
                lines.clear();
                restarted = true;
            }
        }
    }
    let is_something = restarted || !lines.is_empty();
    Ok(is_something.then(|| Rows { restarted, lines: lines.into(), position: String::new() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(run_dir: &Path, request: &FollowRequest) -> Files {
        Files::open("r".into(), run_dir.to_owned(), request).unwrap().1
    }

    fn lines(bodies: &[Body]) -> usize {
        let rows = bodies.iter().filter_map(|body| match body {
            Body::Metrics(rows) => Some(rows.lines.iter().filter(|byte| **byte == b'\n').count()),
            _ => None,
        });
        rows.sum()
    }

    #[test]
    fn rows_come_in_bounded_parts_and_from_where_they_ended() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), r#"{"run_id":"r"}"#).unwrap();
        let row = |step: u64| {
            format!(
                "{{\"kind\":\"steps\",\"step\":{step},\"epoch\":1,\"generation\":1,\"examples\":1,\
                 \"loss\":1.0}}\n"
            )
        };
        let written: String = (1..=5000).map(row).collect();
        fs::write(folder.path().join("metrics.jsonl"), &written).unwrap();
        let mut files = opened(folder.path(), &FollowRequest::default());
        let (mut count, mut parts, mut position) = (0, 0, String::new());
        loop {
            let bodies = files.next().unwrap();
            if bodies.is_empty() {
                break;
            }
            for body in &bodies {
                let Body::Metrics(rows) = body else { panic!("{body:?}") };
                assert!(rows.lines.len() < ROWS_BYTES + 1024 && !rows.restarted);
                position.clone_from(&rows.position);
            }
            count += lines(&bodies);
            parts += 1;
        }
        assert!(count == 5000 && parts > 1, "{count} rows in {parts} parts");
        let more = written + &row(5001) + &row(5002);
        fs::write(folder.path().join("metrics.jsonl"), more).unwrap();
        let known = FollowRequest { run_id: "r".into(), metrics: position, ..Default::default() };
        assert_eq!(lines(&opened(folder.path(), &known).next().unwrap()), 2);
        // The position in another run's rows is ignored.
        let other = FollowRequest { run_id: "other".into(), ..known.clone() };
        assert!(lines(&opened(folder.path(), &other).next().unwrap()) > 2);
        // After the file was cut off, its rows are sent again from the beginning.
        fs::write(folder.path().join("metrics.jsonl"), row(1)).unwrap();
        let bodies = opened(folder.path(), &known).next().unwrap();
        assert!(matches!(&bodies[..], [Body::Metrics(Rows { restarted: true, .. })]), "{bodies:?}");
        let wrong = FollowRequest { metrics: "nonsense".into(), ..known };
        let refused = Files::open("r".into(), folder.path().to_owned(), &wrong).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }

    #[test]
    fn samples_and_summary_come_once_each() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), "{}").unwrap();
        fs::create_dir(folder.path().join("samples")).unwrap();
        for epoch in 1..=70 {
            fs::write(folder.path().join(format!("samples/epoch-{epoch:03}.png")), "png").unwrap();
        }
        fs::write(folder.path().join("summary.json"), "{}").unwrap();
        let mut files = opened(folder.path(), &FollowRequest::default());
        let (mut epochs, mut summaries) = (Vec::new(), 0);
        loop {
            let bodies = files.next().unwrap();
            if bodies.is_empty() {
                break;
            }
            for body in bodies {
                match body {
                    Body::Samples(samples) => epochs.push(samples.epoch),
                    Body::Summary(_) => summaries += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!((epochs, summaries), ((7..=70).collect(), 1));
    }
}
