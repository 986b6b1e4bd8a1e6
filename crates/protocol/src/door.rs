//! Limits on a server's connections: their number, and how long a silent connection stays open.
//!
//! [`guarded`] stands between a listener and the server, below any encryption. A connection that
//! has sent enough bytes for a call keeps its place. When a new connection finds no room, the
//! oldest silent connection is closed, so that many silent connections lock nobody out. This
//! module counts bytes; it does not interpret them.

use std::{
    collections::VecDeque,
    future::Future as _,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
    time::Sleep,
};
use tokio_stream::Stream;
use tonic::transport::server::Connected;

/// The most connections at a time: twice the number of workers of a large run.
pub const CONNECTIONS_MAX: usize = 8192;

/// File descriptors reserved for files and for connections that this process opens itself. If the
/// process may have few descriptors, half of them are reserved.
const DESCRIPTORS_RESERVED: usize = 256;

/// How long a connection may take until it has sent enough bytes for a call.
pub const SILENCE_MAX: Duration =
    if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(10) };

/// Bytes that count as enough for a call: an HTTP/2 connection sends fewer before its first call,
/// and more with it.
const WORDS_BYTES: usize = 128;

/// The pause after an error of the listener, such as no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// The shortest time between two warnings that a connection cannot be accepted.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// After so much silence, an HTTP/2 ping asks whether the peer still lives. The coordinator notices
/// a lost member long before; the ping frees dead connections and their memory.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// How long the peer has to answer the ping.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(60);

/// Admits the connections that `listener` accepts, within bounds. The stream ends only when
/// `listener` ends; after an error of `listener`, such as no descriptor left, it pauses and goes on.
/// Raises this process's limit of descriptors to what the bounds need, as far as the system allows.
pub fn guarded<L, T>(listener: L) -> Door<L>
where
    L: Stream<Item = io::Result<T>> + Unpin,
{
    let wanted = CONNECTIONS_MAX + DESCRIPTORS_RESERVED;
    let descriptors = limits::raise_descriptors(wanted as u64).min(wanted as u64) as usize;
    let room = descriptors - DESCRIPTORS_RESERVED.min(descriptors / 2);
    let room = room.clamp(1, CONNECTIONS_MAX);
    let (inside, silent) = Default::default();
    Door { listener, room, inside, silent, pause: None, complained: None }
}

/// The stream of admitted connections, as [`Guest`]s.
#[derive(Debug)]
pub struct Door<L> {
    listener: L,
    room: usize,
    inside: Arc<AtomicUsize>,
    /// A sender for each silent connection, the oldest first: a message closes the connection. The
    /// channel of a connection that is no longer silent is closed.
    silent: VecDeque<oneshot::Sender<()>>,
    pause: Option<Pin<Box<Sleep>>>,
    /// The time of the last warning.
    complained: Option<Instant>,
}

impl<L> Door<L> {
    /// Closes the oldest silent connection; tells whether there was one.
    fn make_room(&mut self) -> bool {
        std::iter::from_fn(|| self.silent.pop_front()).any(|oldest| oldest.send(()).is_ok())
    }

    /// Warns why a connection cannot be accepted, at most once an interval.
    fn complain(&mut self, reason: impl FnOnce() -> String) {
        if self.complained.is_none_or(|before| before.elapsed() >= COMPLAINT_INTERVAL) {
            self.complained = Some(Instant::now());
            tracing::warn!("{}", reason());
        }
    }

    fn admit<T>(&mut self, stream: T) -> Guest<T> {
        if self.silent.len() > 2 * self.room {
            self.silent.retain(|silent| !silent.is_closed());
        }
        let (go, told) = oneshot::channel();
        self.silent.push_back(go);
        self.inside.fetch_add(1, Ordering::Relaxed);
        let deadline = Box::pin(tokio::time::sleep(SILENCE_MAX));
        let silence = Some(Silence { bytes: 0, deadline, told });
        Guest { stream, silence, _permit: Permit(Arc::clone(&self.inside)) }
    }
}

impl<L, T> Stream for Door<L>
where
    L: Stream<Item = io::Result<T>> + Unpin,
    T: Unpin,
{
    type Item = io::Result<Guest<T>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let door = self.get_mut();
        loop {
            if let Some(pause) = &mut door.pause {
                ready!(pause.as_mut().poll(cx));
                door.pause = None;
            }
            match ready!(Pin::new(&mut door.listener).poll_next(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => {
                    door.complain(|| {
                        let cause = limits::explain(&error).unwrap_or(error.to_string());
                        format!("a connection cannot be accepted: {cause}")
                    });
                    door.make_room();
                    door.pause = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE)));
                }
                Some(Ok(stream)) => {
                    if door.inside.load(Ordering::Relaxed) < door.room || door.make_room() {
                        return Poll::Ready(Some(Ok(door.admit(stream))));
                    }
                    let room = door.room;
                    door.complain(|| {
                        format!(
                            "a connection was refused: {room} connections are open, the most that \
                             this process allows (ulimit -n bounds them)"
                        )
                    });
                }
            }
        }
    }
}

/// The permit of an open connection; dropping it makes room for another one.
#[derive(Debug)]
struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The limits of a connection that has not sent enough bytes yet.
#[derive(Debug)]
struct Silence {
    bytes: usize,
    deadline: Pin<Box<Sleep>>,
    told: oneshot::Receiver<()>,
}

impl Silence {
    /// Ready when the connection has to close.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match Pin::new(&mut self.told).poll(cx) {
            // After the door is dropped, only the deadline counts.
            Poll::Ready(Ok(())) => Poll::Ready(()),
            Poll::Ready(Err(_)) | Poll::Pending => self.deadline.as_mut().poll(cx),
        }
    }
}

/// An admitted connection.
#[derive(Debug)]
pub struct Guest<T> {
    stream: T,
    /// None once the peer has sent enough bytes.
    silence: Option<Silence>,
    _permit: Permit,
}

impl<T: AsyncRead + Unpin> AsyncRead for Guest<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, silence, .. } = &mut *self;
        let Some(quiet) = silence else { return Pin::new(stream).poll_read(cx, buffer) };
        if quiet.poll_over(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(stream).poll_read(cx, buffer);
        quiet.bytes += buffer.filled().len() - before;
        if quiet.bytes >= WORDS_BYTES {
            *silence = None;
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Guest<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<T: Connected> Connected for Guest<T> {
    type ConnectInfo = T::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests;
