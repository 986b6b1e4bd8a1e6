//! Connections of one type, whatever is below them, and the servers and channels over them.
//!
//! A server and a channel of tonic are generic over their connections. Here each is compiled once, for
//! [`Connection`]; otherwise every crate and every program would compile HTTP/2 again for each kind of
//! socket. This is also why the functions return boxed futures: the body of an `async fn` is compiled
//! where it is awaited.

use std::{
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_stream::Stream;
use tonic::transport::{
    self, Channel, Endpoint,
    server::{Connected, Router},
};
use tower::service_fn;

/// A future that is compiled where it is made.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A stream of accepted connections.
pub type Connections = Pin<Box<dyn Stream<Item = io::Result<Connection>> + Send>>;

/// Opens connections to one address.
pub type Opener = Box<dyn FnMut() -> BoxFuture<'static, io::Result<Connection>> + Send>;

/// What is below a connection.
trait Socket: AsyncRead + AsyncWrite + Send {}

impl<S: AsyncRead + AsyncWrite + Send> Socket for S {}

/// A connection over any kind of socket, after the checks of its peer.
pub struct Connection(Pin<Box<dyn Socket>>);

impl Connection {
    /// A connection over a socket, with TLS or without.
    pub fn new(socket: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        Self(Box::pin(socket))
    }
}

/// Serves `router` on the connections of `incoming` until `shutdown`.
///
/// # Errors
/// The future fails if `incoming` does.
pub fn serve(
    router: Router,
    incoming: Connections,
    shutdown: BoxFuture<'static, ()>,
) -> BoxFuture<'static, Result<(), transport::Error>> {
    Box::pin(async move { router.serve_with_incoming_shutdown(incoming, shutdown).await })
}

/// Opens a channel over the connection that `open` makes. If the connection breaks, the next call over the
/// channel makes another one.
///
/// # Errors
/// The future fails with the error of `open`, or of HTTP/2.
pub fn channel(
    endpoint: Endpoint,
    mut open: Opener,
) -> BoxFuture<'static, Result<Channel, transport::Error>> {
    let connector = service_fn(move |_| {
        let opened = open();
        async move { opened.await.map(TokioIo::new) }
    });
    Box::pin(async move { endpoint.connect_with_connector(connector).await })
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_shutdown(cx)
    }
}

/// No service asks who is at the other end.
impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}
