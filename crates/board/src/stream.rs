//! Answers that come in parts: how a run stands, as server-sent events, and files to keep.
//!
//! A part is made when the one before it has been taken in. A slow browser so gets fewer of them,
//! each of them new, and nothing piles up here.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use http_body::Frame;
use tokio::sync::mpsc;

/// The sending end of an answer in parts.
pub(crate) type Parts = mpsc::Sender<Bytes>;

/// An answer whose parts come from elsewhere, one at a time.
pub(crate) fn body() -> (Parts, Body) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, Body::new(Received(receiver)))
}

/// A server-sent event; `json` has no line ends, as serde writes it.
pub(crate) fn event(name: &str, json: &str) -> Bytes {
    format!("event: {name}\ndata: {json}\n\n").into()
}

struct Received(mpsc::Receiver<Bytes>);

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|part| part.map(|part| Ok(Frame::data(part))))
    }
}
