//! The data set on the worker's side: its own copy, or one streamed from the coordinator.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::{Buf as _, Bytes};
use config::{FileEntry, Manifest};
use data::{DataError, Files, Splits};
use images::Images;
use protocol::{
    status,
    wire::{FetchFileRequest, FileChunk},
};
use tokio::{sync::mpsc, time::timeout};
use tonic::Streaming;
use vae_options::VaeOptions;

use crate::control::Client;

/// Chunks that wait to be written.
const CHUNKS: usize = 8;

/// Time between two lines about the progress.
const TELL_INTERVAL: Duration = Duration::from_secs(3);

/// A coordinator that sends nothing for so long does not send the data set.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Loads the set from `dir`, fetched from the coordinator if it is not there, and cuts it to
/// the run's first images.
pub(crate) async fn load(
    dir: Option<PathBuf>,
    client: Client,
    training: &config::Training,
    options: &VaeOptions,
) -> Result<Splits<Images>> {
    let manifest = training.task.dataset.clone();
    let dir = dir.unwrap_or_else(|| data::default_dir(&manifest.name));
    let files = match read(dir.clone(), manifest.clone()).await? {
        Ok(files) => files,
        // A file of another data set stays where it is.
        Err(error @ DataError::Damaged { .. }) => return Err(error.into()),
        Err(reason) => {
            tracing::info!("fetching the data set from the coordinator, since {reason}");
            fetch(&dir, &manifest, client)
                .await
                .context("cannot fetch the data set from the coordinator")?;
            read(dir, manifest).await??
        }
    };
    let &config::Training { train_examples, test_examples, seed, .. } = training;
    let options = options.clone();
    let prepare = move || {
        let mut images = images::splits(&files)?;
        vae::prepare(&mut images, &options, [train_examples, test_examples], seed);
        anyhow::Ok(images)
    };
    tokio::task::spawn_blocking(prepare).await?
}

async fn read(dir: PathBuf, manifest: Manifest) -> Result<Result<Files, DataError>> {
    Ok(tokio::task::spawn_blocking(move || Files::verified(&dir, &manifest)).await?)
}

async fn fetch(dir: &Path, manifest: &Manifest, mut client: Client) -> Result<()> {
    let files = Files::new(dir, manifest);
    let mut progress = Progress::begin(manifest.bytes());
    for file in &manifest.files {
        if data::verify(&files.locate(file), file).is_ok() {
            continue;
        }
        let request = FetchFileRequest { name: file.name.clone(), offset: 0 };
        let stream = client.fetch_file(request).await;
        let mut stream =
            stream.map_err(|status| anyhow!("{}", status::cause(&status)))?.into_inner();
        let download = Download::begin(dir, file.clone());
        while let Some(chunk) = progress.wait(&mut stream).await? {
            download.put(chunk.content).await;
        }
        download.finish().await?;
    }
    let Progress { bytes, begun, .. } = progress;
    let seconds = begun.elapsed().as_secs_f64();
    tracing::info!("the data set is complete: {:.1} MB in {seconds:.1} s", megabytes(bytes));
    Ok(())
}

/// How far the data set is.
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

    /// The next chunk, within [`SILENCE_MAX`]; people are told now and then, also while none comes.
    async fn wait(&mut self, stream: &mut Streaming<FileChunk>) -> Result<Option<FileChunk>> {
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
            let next = timeout(TELL_INTERVAL, stream.message()).await;
            let Ok(next) = next else {
                let silent = since.elapsed();
                ensure!(silent < SILENCE_MAX, "it sent nothing for {} s", silent.as_secs());
                continue;
            };
            let next = next.map_err(|status| anyhow!("{}", status::cause(&status)))?;
            self.bytes += next.as_ref().map_or(0, |chunk| chunk.content.len() as u64);
            return Ok(next);
        }
    }
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// One file on its way to disk, where a blocking thread verifies and stores it.
struct Download {
    chunks: mpsc::Sender<Bytes>,
    stored: tokio::task::JoinHandle<Result<(), DataError>>,
}

impl Download {
    fn begin(dir: &Path, file: FileEntry) -> Self {
        let (chunks, received) = mpsc::channel(CHUNKS);
        let dir = dir.to_owned();
        let reader = ChunkReader { received, chunk: Bytes::new() };
        let stored = tokio::task::spawn_blocking(move || data::store(&dir, &file, reader));
        Self { chunks, stored }
    }

    async fn put(&self, chunk: Bytes) {
        // Where storing failed, `finish` says why.
        let _failed = self.chunks.send(chunk).await;
    }

    async fn finish(self) -> Result<()> {
        drop(self.chunks);
        Ok(self.stored.await??)
    }
}

struct ChunkReader {
    received: mpsc::Receiver<Bytes>,
    chunk: Bytes,
}

impl Read for ChunkReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.received.blocking_recv() {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let count = out.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut out[..count]);
        Ok(count)
    }
}
