//! The sockets of the data plane: where a worker listens, what a socket is told before the first
//! byte, and how much is read from one at a time.
//!
//! Members on other hosts are reached over TCP, those on this one over a local socket: it knows
//! nothing of packets, and four members exchange a gradient in two thirds of the time.

use std::{
    io::{self, IoSlice},
    os::fd::AsFd,
    pin::Pin,
    task::{Context, Poll},
};

use rustix::net::sockopt;
use secure::{Address, local};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};
use tokio_stream::{Stream, StreamExt as _, wrappers::TcpListenerStream};
use tonic::transport::server::Connected;

/// Paces by what it measures of the path, which on a short one only holds back.
const PACING: &str = "bbr";

/// What takes its place: the system's usual choice, then the one that is always there.
const NOT_PACING: [&str; 2] = ["cubic", "reno"];

/// Bytes read before whoever waits for them gets a turn. HTTP/2 would read on for as long as
/// there is something, and everything would have left the cache before it is added up.
const TURN_BYTES: usize = 512 << 10;

/// Bytes that a local socket takes in before they are read, if the system allows as many: a chunk
/// or two. More gain nothing, fewer cost wake-ups. TCP finds its own number.
const LOCAL_BUFFER_BYTES: usize = 1 << 20;

/// Where a worker listens for others.
#[derive(Debug)]
pub struct Listener {
    pub(super) far: TcpListener,
    pub(super) near: Option<UnixListener>,
}

impl From<TcpListener> for Listener {
    /// For everybody, wherever they are.
    fn from(far: TcpListener) -> Self {
        Self { far, near: None }
    }
}

impl Listener {
    /// Listens for those on this host apart, beside the `address` that others find this worker at.
    /// Where that cannot be, they come over TCP as well.
    #[must_use]
    pub fn and_near(self, address: &Address) -> Self {
        let near = local::listen(address);
        let near = near.inspect_err(|error| tracing::debug!(%error, "no local socket"));
        Self { near: near.ok(), ..self }
    }
}

/// Connects to a peer wherever it is.
pub(super) async fn connect(address: &Address) -> io::Result<Socket<TcpStream>> {
    TcpStream::connect((address.host(), address.port())).await.map(far)
}

/// Connects to a peer on this host.
pub(super) async fn connect_near(address: &Address) -> io::Result<Socket<UnixStream>> {
    local::connect(address).await.map(near)
}

/// The sockets that `listener` accepts.
pub(super) fn incoming(
    listener: TcpListener,
) -> impl Stream<Item = io::Result<Socket<TcpStream>>> + Send + Unpin + 'static {
    TcpListenerStream::new(listener).map(|stream| stream.map(far))
}

/// The sockets that `listener` accepts from this host.
pub(super) fn incoming_near(
    listener: UnixListener,
) -> impl Stream<Item = io::Result<Socket<UnixStream>>> + Send + Unpin + 'static {
    local::incoming(listener).map(|stream| stream.map(near))
}

/// A socket that cannot be told is slower, not wrong: errors are no reason to go without it.
fn far(stream: TcpStream) -> Socket<TcpStream> {
    // Without it the end of a chunk waits for the acknowledgement of its beginning.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "the socket keeps Nagle's algorithm");
    }
    avoid_pacing(&stream);
    Socket { stream, read: 0 }
}

fn near(stream: UnixStream) -> Socket<UnixStream> {
    if let Err(error) = sockopt::set_socket_send_buffer_size(&stream, LOCAL_BUFFER_BYTES) {
        tracing::debug!(%error, "the socket keeps its small buffer");
    }
    Socket { stream, read: 0 }
}

/// A socket that reads in turns.
#[derive(Debug)]
pub(super) struct Socket<S> {
    stream: S,
    /// Bytes read in this turn.
    read: usize,
}

fn avoid_pacing(socket: impl AsFd) {
    if sockopt::tcp_congestion(&socket).is_ok_and(|name| name == PACING) {
        let set = NOT_PACING.iter().any(|name| sockopt::set_tcp_congestion(&socket, name).is_ok());
        tracing::debug!(set, "another congestion control instead of {PACING}");
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read >= TURN_BYTES {
            self.read = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        match read {
            Poll::Ready(_) => self.read += buffer.filled().len() - before,
            Poll::Pending => self.read = 0,
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
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

impl<S: Connected> Connected for Socket<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}
