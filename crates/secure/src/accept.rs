//! Accepts connections. Every connection does its handshake in its own task, so that a slow
//! handshake delays no other connection.

use std::{io, pin::Pin, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::{
    connection::{Connection, Connections},
    rejection::{self, Rejection},
    security::HANDSHAKE_TIMEOUT,
    stream::{Side, Stream},
    tls::Tls,
};

/// The most handshakes at the same time; a further connection is closed, and its peer has to connect
/// again.
const HANDSHAKES_MAX: usize = 1024;

/// How long a refused peer may take to read the reason.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The most connections that have done their handshake and wait to be served.
const ACCEPTED: usize = 16;

/// The stream of a listener's sockets, still without TLS.
type Sockets<S> = Pin<Box<dyn tokio_stream::Stream<Item = io::Result<S>> + Send>>;

/// Accepts connections without TLS.
pub(crate) fn plain<S>(sockets: Sockets<S>) -> Connections
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Connected<ConnectInfo = TcpConnectInfo> + 'static,
{
    let accepted = |socket| Connection::new(Stream::plain(socket, Side::Server));
    Box::pin(sockets.map(move |socket| socket.map(accepted)))
}

/// Accepts connections with a TLS handshake. A failed handshake is logged, and its connection closed.
pub(crate) fn tls<S>(sockets: Sockets<S>, tls: Tls) -> Connections
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Connected<ConnectInfo = TcpConnectInfo> + 'static,
{
    let (accepted, streams) = mpsc::channel(ACCEPTED);
    tokio::spawn(take_in(sockets, tls, accepted));
    Box::pin(ReceiverStream::new(streams))
}

async fn take_in<S>(
    mut sockets: Sockets<S>,
    tls: Tls,
    accepted: mpsc::Sender<io::Result<Connection>>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + Connected<ConnectInfo = TcpConnectInfo> + 'static,
{
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let next = tokio::select! {
            next = sockets.next() => next,
            () = accepted.closed() => return,
        };
        let socket = match next {
            None => return,
            Some(Ok(socket)) => socket,
            Some(Err(error)) => {
                let _stopped = accepted.send(Err(error)).await;
                continue;
            }
        };
        let peer = socket.connect_info().remote_addr();
        let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() else {
            rejection::log(peer, &Rejection::because("too many handshakes are under way"));
            continue;
        };
        let (tls, accepted) = (tls.clone(), accepted.clone());
        tokio::spawn(async move {
            match greet(socket, &tls).await {
                Ok(stream) => drop(accepted.send(Ok(Connection::new(stream))).await),
                Err(error) => rejection::log(peer, &error),
            }
            drop(permit);
        });
    }
}

async fn greet<S>(socket: S, tls: &Tls) -> io::Result<Stream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = TlsAcceptor::from(tls.server()).accept(socket).into_fallible();
    match timeout(HANDSHAKE_TIMEOUT, handshake).await.map_err(io::Error::other)? {
        Ok(stream) => Ok(Stream::tls(stream.into())),
        Err((error, socket)) => {
            let _gone = timeout(CLOSE_TIMEOUT, part(socket)).await;
            Err(rejection::explain(error))
        }
    }
}

/// Ends a connection so that the peer reads the reason: unread bytes from the peer would make the
/// kernel discard the last bytes of this side.
async fn part<S: AsyncRead + AsyncWrite + Unpin>(mut socket: S) -> io::Result<()> {
    socket.shutdown().await?;
    let mut unread = [0; 1024];
    while socket.read(&mut unread).await? > 0 {}
    Ok(())
}
