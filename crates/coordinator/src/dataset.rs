//! Sends the files of the run's data set to workers that lack them: by name, from any offset on.

use std::{
    io::SeekFrom,
    path::{Path, PathBuf},
    sync::Arc,
};

use config::Manifest;
use protocol::{
    FILE_CHUNK_BYTES,
    wire::{FetchFileRequest, FileChunk},
};
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncSeekExt as _},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tonic::Status;

/// Chunks that wait to be sent to one worker.
const CHUNKS: usize = 4;

/// The most files that are sent at the same time. Further requests are refused; the worker retries.
const FILES_AT_ONCE: usize = 256;

/// The files, and where they are on this host.
#[derive(Debug)]
pub(crate) struct Files {
    files: data::Files,
    open: Arc<Semaphore>,
}

impl Files {
    pub(crate) fn new(manifest: Manifest, folder: PathBuf) -> Self {
        let files = data::Files::new(&folder, &manifest);
        Self { files, open: Arc::new(Semaphore::new(FILES_AT_ONCE)) }
    }

    /// Begins to send a file. Only files of the manifest are ever opened.
    pub(crate) async fn send(
        &self,
        request: FetchFileRequest,
    ) -> Result<mpsc::Receiver<Result<FileChunk, Status>>, Status> {
        let unknown = || Status::not_found("the data set of the run has no file of this name");
        let entry = self.files.manifest().file(&request.name).ok_or_else(unknown)?;
        if request.offset > entry.bytes {
            return Err(Status::out_of_range(format!(
                "{} has {} bytes, fewer than {}",
                entry.name, entry.bytes, request.offset
            )));
        }
        let busy = |_| Status::unavailable("the data set is being sent to many others");
        let permit = Arc::clone(&self.open).try_acquire_owned().map_err(busy)?;
        let (path, name) = (self.files.locate(entry), entry.name.clone());
        let (outbound, chunks) = mpsc::channel(CHUNKS);
        tokio::spawn(async move {
            if let Err(error) = send(&path, request.offset, &outbound, permit).await {
                tracing::warn!(file = name, "cannot send the data set: {error}");
                let unavailable = Status::unavailable(format!("{name}: {error}"));
                let _gone = outbound.send(Err(unavailable)).await;
            }
        });
        Ok(chunks)
    }
}

async fn send(
    path: &Path,
    offset: u64,
    outbound: &mpsc::Sender<Result<FileChunk, Status>>,
    _permit: OwnedSemaphorePermit,
) -> std::io::Result<()> {
    let mut file = File::open(path).await?;
    file.seek(SeekFrom::Start(offset)).await?;
    loop {
        let mut content = vec![0; FILE_CHUNK_BYTES];
        let read = file.read(&mut content).await?;
        content.truncate(read);
        // A worker that is gone is no error here: its control stream reports it.
        if read == 0 || outbound.send(Ok(FileChunk { content: content.into() })).await.is_err() {
            return Ok(());
        }
    }
}
