//! The sockets of the data plane: the listeners, the options of a socket, and how much is read from
//! a socket at a time.
//!
//! Members on other hosts are reached over TCP, members on this host over a local socket. A local
//! socket has no packets: with it, four members exchange a gradient in two thirds of the time.

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

/// A congestion control that limits its rate by measurements of the path. On a short path this only
/// slows the exchange down.
const PACING: &str = "bbr";

/// The replacements: first the usual one, then the one that every system has.
const NOT_PACING: [&str; 2] = ["cubic", "reno"];

/// Bytes read before other tasks get a turn. Otherwise HTTP/2 would read for as long as bytes
/// arrive, and the bytes would have left the cache before they are added up.
const TURN_BYTES: usize = 512 << 10;

/// The buffer of a local socket in bytes, if the system allows so many: one or two chunks. A larger
/// buffer gains nothing, a smaller one costs wake-ups. TCP chooses its own size.
const LOCAL_BUFFER_BYTES: usize = 1 << 20;

/// The listeners of a worker: for other hosts, and for this host.
#[derive(Debug)]
pub struct Listener {
    pub(super) far: TcpListener,
    pub(super) near: Option<UnixListener>,
}

impl From<TcpListener> for Listener {
    /// Listens over TCP only, for peers on any host.
    fn from(far: TcpListener) -> Self {
        Self { far, near: None }
    }
}

impl Listener {
    /// Also listens on a local socket for peers on this host. Its name comes from the `address` of
    /// this worker. If the socket cannot be opened, peers on this host use TCP as well.
    #[must_use]
    pub fn and_near(self, address: &Address) -> Self {
        let near = local::listen(address);
        let near = near.inspect_err(|error| tracing::debug!(%error, "no local socket"));
        Self { near: near.ok(), ..self }
    }
}

/// Connects to a peer on any host.
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

/// Sets the options of a TCP socket. Without an option the socket is slower, but usable, so errors
/// are only logged.
fn far(stream: TcpStream) -> Socket<TcpStream> {
    // Without this option the end of a chunk waits for the acknowledgement of its beginning.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "the socket still uses Nagle's algorithm");
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
