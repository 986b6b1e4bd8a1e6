//! The listener: a bounded number of connections, each with one request; idle connections are closed.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use secure::{Viewers, connection::Connection};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
    sync::Semaphore,
    time::{Instant, Sleep, sleep},
};

/// The most connections at a time; further ones wait to be accepted. Half of them may be streams.
const CONNECTIONS_MAX: usize = 64;

/// How long a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may go without a byte sent or received. Streams send an event every few
/// seconds, so a stream whose browser reads nothing is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// The most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// How long to wait if the system accepts no connection, for example without free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Answers connections.
pub(crate) async fn serve(listener: TcpListener, viewers: Option<Viewers>, routes: Router) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // The semaphore is never closed, so this never fails.
        let Ok(turn) = Arc::clone(&connections).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!("the board accepts no connection: {error}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (routes, viewers) = (routes.clone(), viewers.clone());
        tokio::spawn(async move {
            let stream = match viewers {
                None => Ok(Connection::new(stream)),
                Some(viewers) => viewers.accept(stream).await.map(Connection::new),
            };
            match stream {
                Ok(stream) => answer(stream, routes).await,
                Err(error) => tracing::debug!("a browser was turned away: {error}"),
            }
            drop(turn);
        });
    }
}

async fn answer(stream: Connection, routes: Router) {
    let mut builder = http1::Builder::new();
    builder.keep_alive(false).max_buf_size(HEAD_BYTES_MAX);
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let stream = TokioIo::new(Bounded::new(stream));
    let served = builder.serve_connection(stream, TowerToHyperService::new(routes));
    if let Err(error) = served.await {
        tracing::debug!("a connection to the board has failed: {error}");
    }
}

/// A connection that ends when no byte is sent or received for [`IDLE_TIMEOUT`].
struct Bounded {
    stream: Connection,
    deadline: Pin<Box<Sleep>>,
}

impl Bounded {
    fn new(stream: Connection) -> Self {
        Self { stream, deadline: Box::pin(sleep(IDLE_TIMEOUT)) }
    }

    /// Extends the deadline if bytes have moved; fails if the deadline has passed.
    fn watch<T>(
        &mut self,
        context: &mut Context<'_>,
        moved: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if moved.is_ready() {
            self.deadline.as_mut().reset(Instant::now() + IDLE_TIMEOUT);
        }
        self.within(context, moved)
    }

    /// Fails if a step is not done and the deadline has passed. The steps of TLS extend no deadline, because they are no
    /// sign of a viewer who reads.
    fn within<T>(
        &mut self,
        context: &mut Context<'_>,
        step: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if step.is_ready() {
            return step;
        }
        self.deadline.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let moved = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.watch(context, moved)
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, moved)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let step = Pin::new(&mut self.stream).poll_flush(context);
        self.within(context, step)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let step = Pin::new(&mut self.stream).poll_shutdown(context);
        self.within(context, step)
    }
}
