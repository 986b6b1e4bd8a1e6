//! The TCP sockets of the data plane: what they are told before the first byte, and how much
//! is read from one at a time.

use std::{
    io::{self, IoSlice},
    os::fd::AsFd,
    pin::Pin,
    task::{Context, Poll},
};

use rustix::net::sockopt;
use secure::Address;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
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

/// Connects to a peer.
pub(super) async fn connect(address: &Address) -> io::Result<Socket> {
    TcpStream::connect((address.host(), address.port())).await.map(Socket::new)
}

/// The sockets that `listener` accepts.
pub(super) fn incoming(
    listener: TcpListener,
) -> impl Stream<Item = io::Result<Socket>> + Send + Unpin + 'static {
    TcpListenerStream::new(listener).map(|stream| stream.map(Socket::new))
}

/// A socket that reads in turns.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    /// Bytes read in this turn.
    read: usize,
}

impl Socket {
    /// A socket that cannot be told is slower, not wrong: errors are no reason to go without
    /// it.
    fn new(stream: TcpStream) -> Self {
        // Without it the end of a chunk waits for the acknowledgement of its beginning.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "the socket keeps Nagle's algorithm");
        }
        avoid_pacing(&stream);
        Self { stream, read: 0 }
    }
}

fn avoid_pacing(socket: impl AsFd) {
    if sockopt::tcp_congestion(&socket).is_ok_and(|name| name == PACING) {
        let set = NOT_PACING.iter().any(|name| sockopt::set_tcp_congestion(&socket, name).is_ok());
        tracing::debug!(set, "another congestion control instead of {PACING}");
    }
}

impl AsyncRead for Socket {
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

impl AsyncWrite for Socket {
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

impl Connected for Socket {
    type ConnectInfo = <TcpStream as Connected>::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}
