//! Copies the newest checkpoint on this disk to a store, on its own thread.
//!
//! [`Mirror::hand_over`] returns at once. At most one checkpoint waits: a newer one replaces it. If a checkpoint
//! cannot be stored, the error is logged, and the mirror tries again after longer and longer pauses.
//! [`Mirror::flush`] tells at the end whether the newest checkpoint is stored.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use checkpoint::step_of;

use crate::{Store, StoreError};

/// The most attempts to store one checkpoint.
const ATTEMPTS: u32 = 8;

/// The pause after the first failed attempt; each further pause is twice as long. All pauses together take ten minutes.
const PAUSE_MIN: Duration = Duration::from_secs(5);

/// The error for a newest checkpoint that is only on this disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unstored {
    /// The file.
    pub path: PathBuf,
    /// Why it is not in the store, with the store's URL.
    pub cause: String,
}

impl fmt::Display for Unstored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, cause } = self;
        write!(f, "{cause}; the last checkpoint is only in {}", path.display())
    }
}

/// The handle of the thread that stores checkpoints.
#[derive(Debug)]
pub struct Mirror {
    url: String,
    queue: Arc<Queue>,
}

/// The state that both threads share.
#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Option<PathBuf>,
    in_hand: Option<PathBuf>,
    /// The newest checkpoint that was handed over, if it could not be stored.
    unstored: Option<Unstored>,
    /// `flush` waits: the thread makes no more pauses.
    hurried: bool,
    closed: bool,
}

/// How a pause ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    Over,
    CutShort,
    /// There is a newer checkpoint, or the mirror was dropped.
    Moot,
}

impl Mirror {
    /// Starts the thread. It stores at `url` and keeps `keep` checkpoints there.
    ///
    /// # Errors
    /// No thread can be started. Errors of the store appear when a checkpoint is stored.
    pub fn start(url: String, keep: usize) -> io::Result<Mirror> {
        let queue = Arc::new(Queue::default());
        let uploader = Uploader { url: url.clone(), keep, store: None, queue: Arc::clone(&queue) };
        thread::Builder::new().name("mirror".into()).spawn(move || uploader.work())?;
        Ok(Mirror { url, queue })
    }

    /// Gives a checkpoint file to the thread. It replaces a file that still waits.
    pub fn hand_over(&self, file: PathBuf) {
        self.queue.lock().waiting = Some(file);
        self.queue.changed.notify_all();
    }

    /// Waits until the newest checkpoint that was handed over is stored, or has failed once more.
    ///
    /// # Errors
    /// The checkpoint is not stored, or not yet.
    pub fn flush(&self, limit: Duration) -> Result<(), Unstored> {
        let mut state = self.queue.lock();
        if state.newest().is_none() {
            state.waiting = state.unstored.take().map(|unstored| unstored.path);
        }
        state.hurried = true;
        self.queue.changed.notify_all();
        let is_busy = |state: &mut State| state.newest().is_some();
        let waited = self.queue.changed.wait_timeout_while(state, limit, is_busy);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.hurried = false;
        if let Some(path) = state.newest().cloned() {
            let cause = format!("{} did not store it within {} s", self.url, limit.as_secs());
            return Err(Unstored { path, cause });
        }
        state.unstored.clone().map_or(Ok(()), Err)
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.changed.notify_all();
    }
}

impl State {
    /// The newest checkpoint that is still to be stored.
    fn newest(&self) -> Option<&PathBuf> {
        self.waiting.as_ref().or(self.in_hand.as_ref())
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's own state.
struct Uploader {
    url: String,
    keep: usize,
    store: Option<Store>,
    queue: Arc<Queue>,
}

impl Uploader {
    fn work(mut self) {
        while let Some(file) = self.next() {
            let unstored = self.carry(file);
            let mut state = self.queue.lock();
            state.in_hand = None;
            state.unstored = unstored;
            self.queue.changed.notify_all();
        }
    }

    fn next(&self) -> Option<PathBuf> {
        let idle = |state: &mut State| state.waiting.is_none() && !state.closed;
        let waited = self.queue.changed.wait_while(self.queue.lock(), idle);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.in_hand = state.waiting.take();
        state.in_hand.clone()
    }

    /// Stores a checkpoint, or says why that was given up.
    fn carry(&mut self, file: PathBuf) -> Option<Unstored> {
        let mut pause = PAUSE_MIN;
        let mut left = ATTEMPTS;
        loop {
            let error = match self.attempt(&file) {
                Ok(()) => return None,
                Err(error) => error,
            };
            left -= 1;
            let unstored = Unstored { path: file.clone(), cause: error.to_string() };
            // The file was deleted on this disk in favour of a newer one, so a read error is expected.
            let is_retired = !file.exists() && self.queue.lock().waiting.is_some();
            if !(is_retired && matches!(error, StoreError::Checkpoint(_))) {
                tracing::warn!("a checkpoint was not stored: {error}");
            }
            if is_retired || left == 0 {
                return Some(unstored);
            }
            match self.pause(pause) {
                Pause::Over => pause *= 2,
                Pause::CutShort => left = 1,
                Pause::Moot => return Some(unstored),
            }
        }
    }

    fn attempt(&mut self, file: &std::path::Path) -> Result<(), StoreError> {
        let store = match &self.store {
            Some(store) => store,
            None => self.store.insert(Store::open(&self.url)?),
        };
        let begun = Instant::now();
        store.put(file)?;
        let ms = begun.elapsed().as_millis();
        tracing::debug!(file = %file.display(), url = store.url(), ms, "stored a checkpoint");
        let stored = file.file_name().and_then(|name| name.to_str()).and_then(step_of);
        // Old checkpoints in the store do no harm.
        if let Err(error) = store.retain(self.keep, stored.unwrap_or_default()) {
            tracing::warn!("old checkpoints were not deleted from the store: {error}");
        }
        Ok(())
    }

    fn pause(&self, pause: Duration) -> Pause {
        let undisturbed =
            |state: &mut State| state.waiting.is_none() && !state.closed && !state.hurried;
        let waited = self.queue.changed.wait_timeout_while(self.queue.lock(), pause, undisturbed);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.waiting.is_some() || state.closed {
            return Pause::Moot;
        }
        if std::mem::take(&mut state.hurried) { Pause::CutShort } else { Pause::Over }
    }
}
