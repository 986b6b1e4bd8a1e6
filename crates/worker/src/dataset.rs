//! The data set on the worker's side: files on this host are verified, missing files are fetched from
//! the coordinator.
//!
//! An arriving file is kept under a temporary name until it is complete (see [`partial`]). So a broken
//! connection, or a killed worker, loses only the bytes under way.

mod partial;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use config::{FileEntry, Manifest, RunConfig};
use data::{DataError, Files};
use protocol::{
    status,
    wire::{FetchFileRequest, FileChunk},
};
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tonic::{Status, Streaming};

use self::partial::Partial;
use crate::{
    control::{Client, Route},
    erased::{AnyExamples, AnyOptions},
};

/// Time between two lines about the progress.
const TELL_INTERVAL: Duration = Duration::from_secs(3);

/// After so much silence of the coordinator, an attempt to fetch a file has failed.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Time between two checks of a file that another process receives, and the first pause between two
/// attempts to continue a file.
const RETRY_INTERVAL: Duration = Duration::from_millis(300);

/// The longest pause between two attempts; the pause doubles with each attempt without progress.
const RETRY_INTERVAL_MAX: Duration = Duration::from_secs(5);

/// The coordinator, as the source of files.
pub(crate) struct Source {
    pub(crate) route: Route,
    pub(crate) client: Client,
    /// How long attempts go on without any progress.
    pub(crate) timeout: Duration,
}

/// The run's examples, read from verified files. Files that are neither in `folder` nor at the places
/// of the manifest are fetched into the folder. The default folder is that of the data set in the cache.
pub(crate) async fn load(
    folder: Option<PathBuf>,
    config: &RunConfig,
    options: Box<dyn AnyOptions>,
    source: Source,
) -> Result<Box<dyn AnyExamples>> {
    let manifest = &config.training.task.dataset;
    let folder = folder.unwrap_or_else(|| data::default_dir(&manifest.name));
    let files = files(folder, manifest, source).await?;
    spawn_blocking(move || options.examples(&files)).await?
}

async fn files(folder: PathBuf, manifest: &Manifest, mut source: Source) -> Result<Files> {
    let files = Files::new(&folder, manifest);
    let missing = missing(&files).await?;
    if missing.is_empty() {
        return Ok(files);
    }
    let (some, all) = (missing.len(), manifest.files.len());
    tracing::info!(
        "fetching the data set from the coordinator, since {some} of the {all} files of {} are not \
         in {}",
        manifest.name,
        folder.display()
    );
    let mut progress = Progress::begin(missing.iter().map(|file| file.bytes).sum());
    for file in &missing {
        let fetched = source.fetch(&folder, file, &mut progress).await;
        fetched.with_context(|| {
            format!("cannot fetch the data set from the coordinator ({})", file.name)
        })?;
    }
    progress.end();
    Ok(files)
}

async fn missing(files: &Files) -> Result<Vec<FileEntry>> {
    let files = files.clone();
    Ok(spawn_blocking(move || files.missing()).await??)
}

/// Why a file did not arrive.
enum Broken {
    /// Another attempt may succeed.
    Connection(String),
    /// No further attempt can succeed.
    Final(anyhow::Error),
}

impl From<Status> for Broken {
    fn from(status: Status) -> Self {
        let cause = status::cause(&status);
        if status::is_transient(status.code()) {
            Self::Connection(cause)
        } else {
            Self::Final(anyhow!("{cause}"))
        }
    }
}

impl Source {
    /// Receives one file, and continues after the bytes of an earlier attempt.
    async fn fetch(
        &mut self,
        folder: &Path,
        file: &FileEntry,
        progress: &mut Progress,
    ) -> Result<()> {
        let mut last_progress = Instant::now();
        let mut pause = RETRY_INTERVAL;
        let mut is_first = true;
        loop {
            let Some(partial) = open(folder, file).await? else {
                // Another worker of this host receives the file.
                sleep(RETRY_INTERVAL).await;
                if is_there(folder, file).await? {
                    return Ok(());
                }
                continue;
            };
            if is_there(folder, file).await? {
                partial.remove()?;
                return Ok(());
            }
            let before = progress.bytes;
            let (partial, received) = self.receive(partial, file, progress).await;
            let why = match received {
                Ok(()) => match finish(partial, folder, file).await {
                    // The bytes of an earlier attempt may have been damaged by a crash of the machine.
                    Err(error) if std::mem::take(&mut is_first) => {
                        tracing::warn!("fetching {} once more: {error}", file.name);
                        continue;
                    }
                    finished => return finished,
                },
                Err(Broken::Final(error)) => return Err(error),
                Err(Broken::Connection(why)) => why,
            };
            if progress.bytes > before {
                (last_progress, pause) = (Instant::now(), RETRY_INTERVAL);
            }
            let left = self.timeout.saturating_sub(last_progress.elapsed());
            ensure!(!left.is_zero(), "{why}");
            tracing::warn!("fetching {} was interrupted ({why}): continuing", file.name);
            sleep(pause).await;
            pause = (2 * pause).min(RETRY_INTERVAL_MAX);
            self.client = self.route.reach(left).await?;
        }
    }

    /// Receives the missing bytes.
    async fn receive(
        &mut self,
        mut partial: Partial,
        file: &FileEntry,
        progress: &mut Progress,
    ) -> (Partial, Result<(), Broken>) {
        let request = FetchFileRequest { name: file.name.clone(), offset: partial.bytes() };
        let mut stream = match self.client.fetch_file(request).await {
            Ok(stream) => stream.into_inner(),
            Err(status) => return (partial, Err(status.into())),
        };
        while !partial.is_complete() {
            let content = match progress.next(&mut stream).await {
                Ok(Some(chunk)) => chunk.content,
                Ok(None) => {
                    let why = "the stream ended before the file".to_owned();
                    return (partial, Err(Broken::Connection(why)));
                }
                Err(broken) => return (partial, Err(broken)),
            };
            let appended = spawn_blocking(move || {
                let appended = partial.append(&content);
                (partial, appended)
            });
            let appended = match appended.await {
                Ok((back, appended)) => {
                    partial = back;
                    appended
                }
                Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
            };
            if let Err(error) = appended {
                let error = anyhow::Error::new(error);
                let path = partial.path().display().to_string();
                return (partial, Err(Broken::Final(error.context(path))));
            }
        }
        (partial, Ok(()))
    }
}

async fn open(folder: &Path, file: &FileEntry) -> Result<Option<Partial>> {
    let (folder, file) = (folder.to_owned(), file.clone());
    let opened = spawn_blocking(move || {
        let place = folder.display().to_string();
        Partial::open(&folder, &file).context(place)
    });
    opened.await?
}

/// Whether another process has put the file in its place.
async fn is_there(folder: &Path, file: &FileEntry) -> Result<bool> {
    let (path, file) = (folder.join(&file.name), file.clone());
    let verified = spawn_blocking(move || data::verify(&path, &file)).await?;
    match verified {
        Ok(()) => Ok(true),
        Err(DataError::Missing { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn finish(partial: Partial, folder: &Path, file: &FileEntry) -> Result<()> {
    let (folder, file) = (folder.to_owned(), file.clone());
    spawn_blocking(move || partial.finish(&folder, &file)).await?
}

/// How much of the missing files has arrived.
struct Progress {
    bytes: u64,
    total: u64,
    begun: Instant,
    told: Instant,
}

impl Progress {
    fn begin(total: u64) -> Self {
        let now = Instant::now();
        Self { bytes: 0, total, begun: now, told: now }
    }

    /// The next chunk, within [`SILENCE_MAX`]. Progress is logged at intervals, also while no chunk
    /// comes.
    async fn next(
        &mut self,
        stream: &mut Streaming<FileChunk>,
    ) -> Result<Option<FileChunk>, Broken> {
        let since = Instant::now();
        loop {
            if self.told.elapsed() >= TELL_INTERVAL {
                self.told = Instant::now();
                let (bytes, total) = (megabytes(self.bytes), megabytes(self.total));
                let rate = bytes / self.begun.elapsed().as_secs_f64();
                tracing::info!(
                    "fetching the data set: {bytes:.1} of {total:.1} MB, {rate:.1} MB/s"
                );
            }
            match timeout(TELL_INTERVAL, stream.message()).await {
                Ok(next) => {
                    let next = next?;
                    self.bytes += next.as_ref().map_or(0, |chunk| chunk.content.len() as u64);
                    return Ok(next);
                }
                Err(_) if since.elapsed() < SILENCE_MAX => {}
                Err(_) => {
                    let seconds = since.elapsed().as_secs();
                    let why = format!("the coordinator sent nothing for {seconds} s");
                    return Err(Broken::Connection(why));
                }
            }
        }
    }

    fn end(&self) {
        let (bytes, seconds) = (megabytes(self.bytes), self.begun.elapsed().as_secs_f64());
        tracing::info!("the data set is complete: {bytes:.1} MB in {seconds:.1} s");
    }
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
