//! A connection, with TLS or without.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::rejection::{self, Rejection};

/// The first byte from a peer that uses TLS: an alert or a handshake. HTTP/2 begins with
/// neither.
const TLS_RECORDS: std::ops::RangeInclusive<u8> = 0x15..=0x16;

/// A connection that has passed [`Security`](crate::Security).
#[derive(Debug)]
pub struct Stream<S>(Layer<S>);

#[derive(Debug)]
enum Layer<S> {
    /// `untried` is set until the first bytes have arrived, which show whether the peer speaks TLS.
    Plain {
        socket: S,
        untried: Option<Side>,
    },
    Tls(Box<TlsStream<S>>),
}

/// The role of this side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

impl<S> Stream<S> {
    pub(crate) fn plain(socket: S, side: Side) -> Self {
        Self(Layer::Plain { socket, untried: Some(side) })
    }

    pub(crate) fn tls(stream: TlsStream<S>) -> Self {
        Self(Layer::Tls(Box::new(stream)))
    }
}

impl<S> AsyncRead for Stream<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Connected<ConnectInfo = TcpConnectInfo>,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (socket, untried) = match &mut self.0 {
            Layer::Plain { socket, untried: None } => {
                return Pin::new(socket).poll_read(cx, buffer);
            }
            Layer::Plain { socket, untried } => (socket, untried),
            Layer::Tls(stream) => return Pin::new(stream).poll_read(cx, buffer),
        };
        let before = buffer.filled().len();
        ready!(Pin::new(&mut *socket).poll_read(cx, buffer))?;
        let side = untried.take();
        if !buffer.filled().get(before).is_some_and(|first| TLS_RECORDS.contains(first)) {
            return Poll::Ready(Ok(()));
        }
        let error = Rejection::because(rejection::TLS);
        if side == Some(Side::Server) {
            rejection::log(socket.connect_info().remote_addr(), &error);
        }
        Poll::Ready(Err(error))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Layer::Plain { socket, .. } => Pin::new(socket).poll_write(cx, bytes),
            Layer::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Layer::Plain { socket, .. } => Pin::new(socket).poll_write_vectored(cx, bytes),
            Layer::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            Layer::Plain { socket, .. } => socket.is_write_vectored(),
            Layer::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Layer::Plain { socket, .. } => Pin::new(socket).poll_flush(cx),
            Layer::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Layer::Plain { socket, .. } => Pin::new(socket).poll_shutdown(cx),
            Layer::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
