//! What arrives for the training thread: frames of its peers, the end of a stream, an abort.

use collective::Header;
use protocol::{
    Malformed,
    wire::{Chunk, Frame, frame},
};
use tokio::sync::mpsc;
use tonic::Streaming;

/// A frame of a peer, checked.
#[derive(Debug)]
pub(super) enum Arrival {
    /// The beginning of a round.
    Header(Header),
    /// A piece of the peer's partial of this member's segment.
    Partial(Chunk),
    /// A piece of the peer's segment of the sum.
    Sum(Chunk),
    /// The stream is over, and why.
    Closed(String),
    /// The peer sent what it must not.
    Malformed(Malformed),
}

/// Something that the training thread waits for.
#[derive(Debug)]
pub(super) enum Delivery {
    /// A frame of the member with this index.
    From(usize, Arrival),
    /// The generation is over.
    Abort,
}

/// The sending side; the receiving one is with the training thread.
#[derive(Clone, Debug)]
pub(super) struct Inbox(mpsc::Sender<Delivery>);

/// An inbox that holds `capacity` deliveries; more wait in their streams.
pub(super) fn channel(capacity: usize) -> (Inbox, mpsc::Receiver<Delivery>) {
    let (sender, receiver) = mpsc::channel(capacity.max(1));
    (Inbox(sender), receiver)
}

impl Inbox {
    /// Delivers the frames of a peer's stream until it ends. The end is delivered too, so
    /// that no wait outlasts the peer.
    pub(super) async fn receive(self, member: usize, mut stream: Streaming<Frame>) {
        loop {
            let arrival = match stream.message().await {
                Ok(Some(frame)) => Arrival::from(frame),
                Ok(None) => Arrival::Closed("the stream ended".into()),
                Err(status) => Arrival::Closed(status.message().to_owned()),
            };
            let last = matches!(arrival, Arrival::Closed(_) | Arrival::Malformed(_));
            let delivered = self.0.send(Delivery::From(member, arrival)).await;
            if last || delivered.is_err() {
                return;
            }
        }
    }

    /// Ends the wait of the training thread, at once or at its next.
    pub(super) async fn abort(&self) {
        // An error says that the training thread has let go already.
        let _gone = self.0.send(Delivery::Abort).await;
    }
}

impl From<Frame> for Arrival {
    fn from(frame: Frame) -> Self {
        match frame.body {
            Some(frame::Body::Header(header)) => {
                Header::try_from(header).map_or_else(Self::Malformed, Self::Header)
            }
            Some(frame::Body::Partial(chunk)) => Self::Partial(chunk),
            Some(frame::Body::Sum(chunk)) => Self::Sum(chunk),
            Some(frame::Body::Hello(_)) => {
                Self::Malformed(Malformed("a second hello on one stream".into()))
            }
            None => Self::Malformed(Malformed("a frame without a body".into())),
        }
    }
}
