//! Standard output and standard error, written by their own thread. Their reader may be slow, or may not
//! read at all (a pager, a terminal after Ctrl-S); a run does not wait for it.

use std::{
    collections::VecDeque,
    io::{self, Write as _},
    sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use crate::MakeWriter;

/// The most bytes that wait to be written. Further texts are dropped and counted.
const BYTES_MAX: usize = 16 << 20;

/// How long the end of a program may wait for the reader of its output.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Standard output or standard error, as a writer that never waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlet {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The texts that wait to be written.
#[derive(Debug, Default)]
struct Queue {
    texts: VecDeque<(Outlet, Vec<u8>)>,
    bytes: usize,
    /// The number of texts that were dropped.
    lost: u64,
    /// Whether a text is being written.
    is_busy: bool,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// If no thread could be started, callers write their texts themselves.
    has_thread: bool,
}

impl Queue {
    /// Queues a text, or drops it if the queue is full.
    fn put(&mut self, outlet: Outlet, text: &[u8]) {
        if self.bytes + text.len() > BYTES_MAX {
            self.lost += 1;
            return;
        }
        if self.lost > 0 {
            let lost = std::mem::take(&mut self.lost);
            let told = format!("{lost} lines of output were lost, because they were not read\n");
            self.bytes += told.len();
            self.texts.push_back((Outlet::Stderr, told.into_bytes()));
        }
        self.bytes += text.len();
        self.texts.push_back((outlet, text.to_vec()));
    }

    fn take(&mut self) -> Option<(Outlet, Vec<u8>)> {
        let text = self.texts.pop_front();
        self.is_busy = text.is_some();
        self.bytes -= text.as_ref().map_or(0, |(_, text)| text.len());
        text
    }
}

static SHARED: LazyLock<Shared> = LazyLock::new(|| {
    // The thread waits until `SHARED` is set.
    let started = thread::Builder::new().name("output".into()).spawn(|| SHARED.write_all());
    Shared { queue: Mutex::default(), changed: Condvar::new(), has_thread: started.is_ok() }
});

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loop of the thread.
    fn write_all(&self) {
        let mut queue = self.lock();
        loop {
            if let Some((outlet, text)) = queue.take() {
                drop(queue);
                outlet.write_now(&text);
                queue = self.lock();
            } else {
                self.changed.notify_all();
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

impl Outlet {
    /// Queues a text, after all earlier texts.
    pub fn say(self, text: &[u8]) {
        if !SHARED.has_thread {
            return self.write_now(text);
        }
        SHARED.lock().put(self, text);
        SHARED.changed.notify_all();
    }

    /// Writes a text. A failure does not end the run, because the checkpoints are worth more; but if
    /// standard output has failed, the program finally ends with an error.
    fn write_now(self, text: &[u8]) {
        let lost = match self {
            Self::Stdout => stdout::bytes(text).err(),
            Self::Stderr => None,
        };
        let told = lost.map(|reason| {
            format!("warning: cannot write to standard output: {reason}; going on without it\n")
        });
        let text = told.as_ref().map_or(text, String::as_bytes);
        if self == Self::Stderr || told.is_some() {
            let _closed = io::stderr().write_all(text);
        }
    }

    /// Waits until all texts are written, or until the timeout.
    pub fn flush_all() {
        if SHARED.has_thread {
            SHARED.changed.notify_all();
            let is_unwritten = |queue: &mut Queue| queue.is_busy || !queue.texts.is_empty();
            let queue = SHARED.lock();
            let _timeout = SHARED.changed.wait_timeout_while(queue, FLUSH_TIMEOUT, is_unwritten);
        }
    }
}

impl io::Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.say(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Outlet {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        *self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_counted() {
        let mut queue = Queue::default();
        let text = vec![b'.'; BYTES_MAX / 2];
        (0..5).for_each(|_| queue.put(Outlet::Stdout, &text));
        assert_eq!(queue.texts.len(), 2);
        assert!(queue.take().is_some() && queue.take().is_some() && queue.take().is_none());
        queue.put(Outlet::Stdout, b"again\n");
        let told = b"3 lines of output were lost, because they were not read\n".to_vec();
        assert_eq!(queue.take(), Some((Outlet::Stderr, told)));
        assert_eq!(queue.take(), Some((Outlet::Stdout, b"again\n".to_vec())));
        assert_eq!((queue.bytes, queue.lost), (0, 0));
    }
}
