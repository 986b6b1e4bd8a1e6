//! Standard output and standard error, written by a thread of their own. Whoever reads them may be
//! slow, or not read at all (a pager, a terminal after Ctrl-S): a run does not wait for that.

use std::{
    collections::VecDeque,
    io::{self, Write as _},
    sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use crate::MakeWriter;

/// Bytes that wait to be written; what comes when there are more is lost, and counted.
const BYTES_MAX: usize = 16 << 20;

/// How long the end of a program may wait for whoever reads its output.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// One of the two, as a writer that never waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlet {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What waits to be written.
#[derive(Debug, Default)]
struct Queue {
    texts: VecDeque<(Outlet, Vec<u8>)>,
    bytes: usize,
    /// Texts that found no room.
    lost: u64,
    /// Whether one is being written.
    is_busy: bool,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Without a thread, texts are written where they are made.
    has_thread: bool,
}

impl Queue {
    /// Takes in a text, if there is room for it.
    fn put(&mut self, outlet: Outlet, text: &[u8]) {
        if self.bytes + text.len() > BYTES_MAX {
            self.lost += 1;
            return;
        }
        if self.lost > 0 {
            let lost = std::mem::take(&mut self.lost);
            let told = format!("{lost} lines of output were lost, since nobody read it\n");
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

    /// The life of the thread.
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
    /// Has a text written, after those that came before it.
    pub fn say(self, text: &[u8]) {
        if !SHARED.has_thread {
            return self.write_now(text);
        }
        SHARED.lock().put(self, text);
        SHARED.changed.notify_all();
    }

    /// What is lost here must not end a run: the checkpoints are worth more. Where standard output
    /// has failed, the program ends with an error.
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

    /// Waits, within a bound, until all is written.
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
        let told = b"3 lines of output were lost, since nobody read it\n".to_vec();
        assert_eq!(queue.take(), Some((Outlet::Stderr, told)));
        assert_eq!(queue.take(), Some((Outlet::Stdout, b"again\n".to_vec())));
        assert_eq!((queue.bytes, queue.lost), (0, 0));
    }
}
