//! One gRPC stream with a peer, as the bodies of an HTTP/2 call: bytes out of a queue in one
//! direction, frames out of bytes in the other.

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
    /// Bytes to send, in order. The stream ends in good order when this is dropped.
    pub(super) outbound: mpsc::Sender<Bytes>,
    pub(super) inbound: Inbound,
}

/// Which end of a call a body belongs to: gRPC has only the server say how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// A body that sends what is queued, at most `capacity` pieces of bytes at a time.
pub(super) fn outbound(side: Side, capacity: usize) -> (mpsc::Sender<Bytes>, Body) {
    let (sender, queue) = mpsc::channel(capacity);
    (sender, body(side, ReceiverStream::new(queue)))
}

/// A body that sends what `pieces` gives.
pub(crate) fn body(side: Side, pieces: impl Stream<Item = Bytes> + Send + Unpin + 'static) -> Body {
    let trailers = (side == Side::Server).then(|| {
        let mut trailers = HeaderMap::new();
        // The message is empty, so there is nothing that a header could not hold.
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

/// What comes over a stream.
#[derive(Debug)]
pub(crate) enum Arrival<M: Streamed = wire::Frame> {
    /// A part of a frame.
    Event(Event<M>),
    /// The stream is over, and why.
    Closed(String),
    /// The peer sent what it must not.
    Malformed(Malformed),
}

/// The receiving direction of a stream.
pub(crate) struct Inbound<M = wire::Frame> {
    body: Body,
    parser: Parser<M>,
    /// What has come and is not yet parsed.
    input: Bytes,
}

impl<M: Streamed> Inbound<M> {
    pub(crate) fn new(body: Body) -> Self {
        Self { body, parser: Parser::new(), input: Bytes::new() }
    }

    /// The next arrival; after [`Arrival::Closed`] or [`Arrival::Malformed`] not to be asked
    /// again.
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
    /// Ends the stream in good order: what is queued still goes out, and what the peer still
    /// sends is taken in, for a stream that is let go of at once is reset and its queue lost.
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
