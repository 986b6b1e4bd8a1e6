//! The door of a server: how many may be inside, and how long one may stay who says nothing.
//!
//! [`guarded`] stands between a listener and the server, below any encryption. Who has said
//! enough for a call has earned its place; of the others the oldest goes when a newcomer finds
//! no room, so that a crowd of silent strangers keeps nobody out. What is said is not
//! understood here.

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

/// Most connections at a time: one for each worker of a large run, and as many again.
pub const CONNECTIONS_MAX: usize = 8192;

/// Descriptors that are left for files and for connections that this process opens itself; half of
/// them where it may have few.
const DESCRIPTORS_RESERVED: usize = 256;

/// How long a connection may take to say enough for a call.
pub const SILENCE_MAX: Duration =
    if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(10) };

/// More than an HTTP/2 connection says before its first call, less than with it.
const WORDS_BYTES: usize = 128;

/// How long nobody is let in after the system had no descriptor left, or another complaint.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Time between two lines that say that nobody can be let in.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// A connection that is silent for so long is asked whether it still lives. The coordinator
/// notices a lost member long before; this is what frees its connections and what they hold.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// How long it has to answer.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(60);

/// Lets in what `listener` accepts, within bounds. It ends only when `listener` does: an error
/// there, as for want of descriptors, is waited out. Has the system give this process as many
/// descriptors as all that takes, if it may have them.
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

/// The connections that were let in, as [`Guest`]s.
#[derive(Debug)]
pub struct Door<L> {
    listener: L,
    room: usize,
    inside: Arc<AtomicUsize>,
    /// The way to have each go that has not said enough, the oldest first; closed for others.
    silent: VecDeque<oneshot::Sender<()>>,
    pause: Option<Pin<Box<Sleep>>>,
    /// When a person was last told that nobody can be let in.
    complained: Option<Instant>,
}

impl<L> Door<L> {
    /// Has the oldest silent connection go; says whether there was one.
    fn make_room(&mut self) -> bool {
        std::iter::from_fn(|| self.silent.pop_front()).any(|oldest| oldest.send(()).is_ok())
    }

    /// Says at the default level why nobody is let in, but not again and again.
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
        Guest { stream, silence, _place: Place(Arc::clone(&self.inside)) }
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
                            "a connection is turned away, for {room} are open, which is as many \
                             as this process lets in (ulimit -n bounds them)"
                        )
                    });
                }
            }
        }
    }
}

/// A place inside, free again when it is dropped.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What holds for a connection that has not said enough.
#[derive(Debug)]
struct Silence {
    bytes: usize,
    deadline: Pin<Box<Sleep>>,
    told: oneshot::Receiver<()>,
}

impl Silence {
    /// Whether the connection has to go.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match Pin::new(&mut self.told).poll(cx) {
            // Without the door there is nobody to make room for.
            Poll::Ready(Ok(())) => Poll::Ready(()),
            Poll::Ready(Err(_)) | Poll::Pending => self.deadline.as_mut().poll(cx),
        }
    }
}

/// A connection that was let in.
#[derive(Debug)]
pub struct Guest<T> {
    stream: T,
    /// None once the peer has said enough.
    silence: Option<Silence>,
    _place: Place,
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
