//! A run's folder in an object store, with blocking calls.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use checkpoint::{CheckpointError, Directory, file_name, step_of};
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt as _, PutMode, PutOptions, WriteMultipart};
use tokio_stream::StreamExt as _;

use crate::remote::Remote;
use crate::{StoreError, cause};

/// The name of the run's configuration, as in a run directory.
const CONFIG: &str = "config.json";

/// How long small requests may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// The most bytes in one request. A longer file is uploaded in parts, and appears with the last part. So a slow link
/// has the time of a request (30 s) for each part, and no whole file is in memory.
const PART_BYTES: usize = 16 << 20;

/// The most parts that are sent at the same time.
const PARTS: usize = 2;

/// A folder in an object store, which holds the checkpoints of one run.
#[derive(Clone, Debug)]
pub struct Store {
    url: String,
    remote: Remote,
}

/// The newest checkpoint in a store that verifies, and the newer ones that do not.
#[derive(Debug)]
pub struct Newest {
    /// The fetched file on this disk; none if the store holds no checkpoint.
    pub file: Option<PathBuf>,
    /// The errors of newer checkpoints, the newest first; each error names the URL.
    pub damaged: Vec<CheckpointError>,
}

impl Store {
    /// Takes the URL of a folder, without a request to the store.
    ///
    /// # Errors
    /// A URL that names no folder in a store, or settings in the environment that cannot be used.
    pub fn open(url: &str) -> Result<Store, StoreError> {
        Ok(Store { url: url.trim_end_matches('/').to_owned(), remote: Remote::open(url)? })
    }

    /// The URL of the folder, without a final slash.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The steps of the checkpoints, fewest first. No object is opened; other objects are ignored.
    ///
    /// # Errors
    /// No bucket, no credentials, no permission, no answer.
    pub fn steps(&self) -> Result<Vec<u64>, StoreError> {
        let listed = self.ask("list", &self.url, async {
            self.remote.objects.list_with_delimiter(Some(&self.remote.folder)).await
        })?;
        let names = listed.objects.iter().filter_map(|object| object.location.filename());
        let mut steps: Vec<u64> = names.filter_map(step_of).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// The configuration that [`Store::claim`] or [`Store::put_config`] wrote; none if there is none.
    ///
    /// # Errors
    /// As [`Store::steps`].
    pub fn config(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let read = self.ask("read", &self.object(CONFIG), async {
            match self.remote.objects.get(&self.key(CONFIG)).await {
                Ok(found) => Ok(Some(found.bytes().await?.to_vec())),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        })?;
        Ok(read)
    }

    /// Writes the configuration if the folder has none, which claims the folder for a run. If two runs try at once,
    /// only one succeeds, unless the store has no conditional writes.
    ///
    /// # Errors
    /// [`StoreError::Exists`], or as [`Store::steps`].
    pub fn claim(&self, config: &[u8]) -> Result<(), StoreError> {
        let (object, key) = (self.object(CONFIG), self.key(CONFIG));
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let claimed = self.ask("store", &object, async {
            match self.remote.objects.put_opts(&key, config.to_vec().into(), create).await {
                Ok(_) => Ok(Some(true)),
                Err(object_store::Error::AlreadyExists { .. }) => Ok(Some(false)),
                Err(object_store::Error::NotImplemented { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        })?;
        match claimed {
            Some(true) => Ok(()),
            None => self.put_config(config),
            // The answer to our own write may have been lost, and the request repeated.
            Some(false) if self.config()?.as_deref() == Some(config) => Ok(()),
            Some(false) => Err(StoreError::Exists { object }),
        }
    }

    /// Writes the configuration, and replaces any other.
    ///
    /// # Errors
    /// As [`Store::steps`].
    pub fn put_config(&self, config: &[u8]) -> Result<(), StoreError> {
        self.ask("store", &self.object(CONFIG), async {
            self.remote.objects.put(&self.key(CONFIG), config.to_vec().into()).await
        })?;
        Ok(())
    }

    /// Verifies a checkpoint file and uploads it under the name of its step. It replaces any other object of that name.
    ///
    /// # Errors
    /// The damage of the file, or as [`Store::steps`]. After an error the store is unchanged.
    pub fn put(&self, file: &Path) -> Result<(), StoreError> {
        let verified = checkpoint::verify(file)?;
        let name = file_name(verified.metadata.step);
        let unreadable = |source| {
            StoreError::from(CheckpointError::Io { action: "read", path: file.into(), source })
        };
        let failed = |error| self.failed("store", &self.object(&name), &error);
        let mut source = File::open(file).map_err(unreadable)?;
        let mut part = || {
            let mut bytes = Vec::new();
            (&mut source).take(PART_BYTES as u64).read_to_end(&mut bytes).map_err(unreadable)?;
            Ok::<_, StoreError>(bytes)
        };
        let (objects, key) = (&self.remote.objects, self.key(&name));
        self.block_on(async {
            let first = part()?;
            if first.len() < PART_BYTES {
                objects.put(&key, first.into()).await.map_err(failed)?;
                return Ok(());
            }
            let upload = objects.put_multipart(&key).await.map_err(failed)?;
            let mut upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
            let mut next = Ok(first);
            let broken = loop {
                match next {
                    Ok(bytes) if bytes.is_empty() => break None,
                    Ok(bytes) => upload.put(bytes.into()),
                    Err(error) => break Some(error),
                }
                if let Err(error) = upload.wait_for_capacity(PARTS).await {
                    break Some(failed(error));
                }
                next = part();
            };
            match broken {
                // `finish` discards the parts of a failed upload itself.
                None => upload.finish().await.map(drop).map_err(failed),
                Some(error) => {
                    let _expires_there = upload.abort().await;
                    Err(error)
                }
            }
        })?
    }

    /// Deletes all checkpoints but the newest `keep` (at least one) and that of the step `stored`, which is known to be
    /// sound.
    ///
    /// # Errors
    /// As [`Store::steps`].
    pub fn retain(&self, keep: usize, stored: u64) -> Result<(), StoreError> {
        let mut old = self.steps()?;
        old.truncate(old.len().saturating_sub(keep.max(1)));
        for step in old.into_iter().filter(|step| *step != stored) {
            let name = file_name(step);
            self.ask("delete", &self.object(&name), async {
                match self.remote.objects.delete(&self.key(&name)).await {
                    Err(object_store::Error::NotFound { .. }) => Ok(()),
                    result => result,
                }
            })?;
        }
        Ok(())
    }

    /// Downloads a checkpoint into a folder, where it appears if it verifies.
    ///
    /// # Errors
    /// [`StoreError::Missing`], the damage of the checkpoint, or as [`Store::steps`].
    pub fn fetch(&self, step: u64, into: &Directory) -> Result<PathBuf, StoreError> {
        let name = file_name(step);
        let object = self.object(&name);
        let failed = |error: object_store::Error| match error {
            object_store::Error::NotFound { .. } => StoreError::Missing { object: object.clone() },
            error => self.failed("fetch", &object, &error),
        };
        let mut incoming = into.receive(step)?;
        self.block_on(async {
            let found = self.remote.objects.get(&self.key(&name)).await.map_err(failed)?;
            let mut pieces = found.into_stream();
            while let Some(piece) = pieces.next().await {
                incoming.write_all(&piece.map_err(failed)?).map_err(|source| {
                    let path = into.path().join(&name);
                    StoreError::from(CheckpointError::Io { action: "write", path, source })
                })?;
            }
            Ok::<_, StoreError>(())
        })??;
        Ok(incoming.accept(Path::new(&object))?)
    }

    /// Downloads the newest checkpoint that verifies into a folder, which is created if necessary. If `above` is given,
    /// only a checkpoint with more steps counts.
    ///
    /// # Errors
    /// As [`Store::steps`]. Errors of single checkpoints are in [`Newest::damaged`].
    pub fn newest(&self, above: Option<u64>, into: &Directory) -> Result<Newest, StoreError> {
        let mut damaged = Vec::new();
        let steps = self.steps()?;
        for step in steps.into_iter().rev().take_while(|step| Some(*step) > above) {
            into.create()?;
            match self.fetch(step, into) {
                Ok(file) => return Ok(Newest { file: Some(file), damaged }),
                Err(StoreError::Checkpoint(error)) if error.is_damage() => damaged.push(error),
                // Deleted after the listing.
                Err(StoreError::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Newest { file: None, damaged })
    }

    fn key(&self, name: &str) -> Key {
        self.remote.folder.clone().join(name)
    }

    /// The URL of an object in the folder.
    fn object(&self, name: &str) -> String {
        format!("{}/{name}", self.url)
    }

    /// Sends a small request, and waits at most [`ANSWER_TIMEOUT`].
    fn ask<T>(
        &self,
        action: &'static str,
        object: &str,
        question: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, StoreError> {
        match self.block_on(async { tokio::time::timeout(ANSWER_TIMEOUT, question).await })? {
            Ok(answer) => answer.map_err(|error| self.failed(action, object, &error)),
            Err(_) => {
                let cause = format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
                Err(self.failed_by(action, object, cause, false))
            }
        }
    }

    fn failed(
        &self,
        action: &'static str,
        object: &str,
        error: &object_store::Error,
    ) -> StoreError {
        self.failed_by(action, object, cause::of(error), cause::is_answer(error))
    }

    fn failed_by(
        &self,
        action: &'static str,
        object: &str,
        mut cause: String,
        is_answer: bool,
    ) -> StoreError {
        if let (Some(hint), false) = (self.remote.hint, is_answer) {
            cause = format!("{hint} ({cause})");
        }
        StoreError::Failed { action, object: object.to_owned(), cause }
    }

    /// Runs async code to its end, on a runtime that ends with it. So a store may be dropped anywhere.
    fn block_on<T>(&self, work: impl Future<Output = T>) -> Result<T, StoreError> {
        let runtime: io::Result<_> =
            tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime =
            runtime.map_err(|error| self.failed_by("reach", &self.url, error.to_string(), true))?;
        Ok(runtime.block_on(work))
    }
}

#[cfg(test)]
mod tests;
