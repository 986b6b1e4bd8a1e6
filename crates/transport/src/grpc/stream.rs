//! One gRPC stream with a peer, as the two bodies of an HTTP/2 call. The outbound body sends queued
//! bytes; the inbound body gives parsed frames.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame};
use protocol::{Malformed, wire};
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Status, body::Body};

use super::{
    STREAM_TIMEOUT,
    parser::{Event, Parser, Streamed},
};

/// Both directions of a stream.
pub(super) struct PeerStream {
    /// Bytes to send, in order. Dropping this ends the stream properly.
    pub(super) outbound: mpsc::Sender<Bytes>,
    pub(super) inbound: Inbound,
}

/// The end of a call to which a body belongs. In gRPC only the server sends a final status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// A body that sends queued bytes, and the queue, which holds at most `capacity` pieces.
pub(super) fn outbound(side: Side, capacity: usize) -> (mpsc::Sender<Bytes>, Body) {
    let (sender, queue) = mpsc::channel(capacity);
    (sender, body(side, ReceiverStream::new(queue)))
}

/// A body that sends the bytes of `pieces`.
pub(crate) fn body(side: Side, pieces: impl Stream<Item = Bytes> + Send + Unpin + 'static) -> Body {
    let trailers = (side == Side::Server).then(|| {
        let mut trailers = HeaderMap::new();
        // The message is empty, so it fits a header.
        let _fits = Status::ok("").add_header(&mut trailers);
        trailers
    });
    Body::new(Outbound { pieces, trailers })
}

struct Outbound<S> {
    pieces: S,
    trailers: Option<HeaderMap>,
}

impl<S: Stream<Item = Bytes> + Unpin> http_body::Body for Outbound<S> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = match ready!(Pin::new(&mut self.pieces).poll_next(cx)) {
            Some(bytes) => {
                crashpoint::reach!("grpc.sending");
                Some(Frame::data(bytes))
            }
            None => self.trailers.take().map(Frame::trailers),
        };
        Poll::Ready(frame.map(Ok))
    }
}

/// The next item of a stream.
#[derive(Debug)]
pub(crate) enum Arrival<M: Streamed = wire::Frame> {
    /// A frame or a part of one.
    Event(Event<M>),
    /// The stream has ended, with the reason.
    Closed(String),
    /// The peer sent bytes that the protocol does not allow.
    Malformed(Malformed),
}

/// The receiving direction of a stream.
pub(crate) struct Inbound<M = wire::Frame> {
    body: Body,
    parser: Parser<M>,
    /// Bytes that have arrived and are not parsed yet.
    input: Bytes,
}

impl<M: Streamed> Inbound<M> {
    pub(crate) fn new(body: Body) -> Self {
        Self { body, parser: Parser::new(), input: Bytes::new() }
    }

    /// The next arrival. Do not call it again after [`Arrival::Closed`] or [`Arrival::Malformed`].
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Arrival<M>> {
        loop {
            match self.parser.next(&mut self.input) {
                Ok(Some(event)) => return Poll::Ready(Arrival::Event(event)),
                Ok(None) => {}
                Err(malformed) => return Poll::Ready(Arrival::Malformed(malformed)),
            }
            let closed = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => "the stream ended".to_owned(),
                Some(Err(status)) => protocol::status::cause(&status),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.input = data;
                        continue;
                    }
                    Err(other) => match other.into_trailers() {
                        Ok(trailers) => reason(&trailers),
                        Err(_) => continue,
                    },
                },
            };
            return Poll::Ready(Arrival::Closed(closed));
        }
    }
}

impl PeerStream {
    /// Ends the stream properly: sends the queued bytes, and reads until the peer ends too. A stream
    /// that is dropped at once would be reset, and its queue lost.
    pub(super) async fn end(self) {
        let Self { outbound, mut inbound } = self;
        drop(outbound);
        let drained = poll_fn(|cx| {
            while let Some(frame) = ready!(Pin::new(&mut inbound.body).poll_frame(cx)) {
                if frame.is_err() {
                    break;
                }
            }
            Poll::Ready(())
        });
        if tokio::time::timeout(STREAM_TIMEOUT, drained).await.is_err() {
            tracing::debug!("a peer has not ended its stream; it is reset");
        }
    }
}

/// Why a server ended a stream.
fn reason(trailers: &HeaderMap) -> String {
    match Status::from_header_map(trailers) {
        Some(status) if status.code() != tonic::Code::Ok => {
            protocol::convert::printable(status.message())
        }
        _ => "the stream ended".into(),
    }
}
