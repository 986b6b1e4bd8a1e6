//! The data set on the worker's side: its own copy, or one streamed from the coordinator.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow};
use bytes::{Buf as _, Bytes};
use data::{DataError, Mnist, RawFile};
use protocol::{status, wire::FetchDatasetRequest};
use tokio::sync::mpsc;

use crate::control::Client;

/// Chunks that wait to be written.
const CHUNKS: usize = 8;

/// Loads the set from `dir`, fetched from the coordinator if it is not there, and cuts it to
/// the run's first images.
pub(crate) async fn load(
    dir: PathBuf,
    client: Client,
    training: &config::Training,
) -> Result<Mnist> {
    let mnist = match read(dir.clone()).await? {
        Ok(mnist) => mnist,
        // A file of another data set stays where it is.
        Err(error @ DataError::Damaged { .. }) => return Err(error.into()),
        Err(reason) => {
            tracing::info!("fetching the data set from the coordinator, since {reason}");
            fetch(&dir, client).await.context("cannot fetch the data set from the coordinator")?;
            read(dir).await??
        }
    };
    let training = training.clone();
    let prepare = move || {
        let mut mnist = mnist;
        mnist.prepare(&training);
        mnist
    };
    Ok(tokio::task::spawn_blocking(prepare).await?)
}

async fn read(dir: PathBuf) -> Result<Result<Mnist, DataError>> {
    Ok(tokio::task::spawn_blocking(move || Mnist::load(&dir)).await?)
}

async fn fetch(dir: &Path, mut client: Client) -> Result<()> {
    let mut stream = client
        .fetch_dataset(FetchDatasetRequest {})
        .await
        .map_err(|status| anyhow!("{}", status::cause(&status)))?
        .into_inner();
    let mut current: Option<Download> = None;
    while let Some(chunk) = stream.message().await.map_err(|s| anyhow!("{}", status::cause(&s)))? {
        let file = data::FILES
            .iter()
            .find(|file| file.name == chunk.file)
            .ok_or_else(|| anyhow!("it sent a file that is not part of MNIST"))?;
        if current.as_ref().is_none_or(|download| download.file != file.name) {
            if let Some(finished) = current.take() {
                finished.finish().await?;
            }
            current = Some(Download::begin(dir, file));
        }
        if let Some(download) = &current {
            download.put(chunk.content).await;
        }
    }
    match current {
        Some(last) => last.finish().await,
        None => Err(anyhow!("it sent no file")),
    }
}

/// One file on its way to disk, where a blocking thread verifies and stores it.
struct Download {
    file: &'static str,
    chunks: mpsc::Sender<Bytes>,
    stored: tokio::task::JoinHandle<Result<(), DataError>>,
}

impl Download {
    fn begin(dir: &Path, file: &'static RawFile) -> Self {
        let (chunks, received) = mpsc::channel(CHUNKS);
        let dir = dir.to_owned();
        let reader = ChunkReader { received, chunk: Bytes::new() };
        let stored = tokio::task::spawn_blocking(move || data::store(&dir, file, reader));
        Self { file: file.name, chunks, stored }
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
