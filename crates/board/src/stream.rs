//! Answers in parts: the state of a run as server-sent events, and downloads.
//!
//! A part is made only after the previous part has been sent. So a slow browser gets fewer parts, each
//! with the newest state, and the server does not buffer them.

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

/// An answer whose parts are sent through a channel, one at a time.
pub(crate) fn body() -> (Parts, Body) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, Body::new(Received(receiver)))
}

/// A server-sent event. `json` must not contain newlines; the JSON of serde has none.
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
