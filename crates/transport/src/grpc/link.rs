//! The frames of one peer in one round. Each frame is checked when it arrives.

use std::task::{Context, Poll};

use bytes::Bytes;
use collective::{Header, Kind, Round};
use protocol::wire::{Chunk, RoundHeader, frame};
use tokio::sync::mpsc::error::TrySendError;
use zerocopy::IntoBytes as _;

use super::{
    frames::{FLOAT_BYTES, Piece},
    parser::{ChunkHead, Event},
    pieces::Pieces,
    stream::{Arrival, PeerStream},
};

/// Why a peer's part of a round cannot be received.
#[derive(Debug)]
pub(super) enum Broken {
    /// The stream has ended.
    Lost(String),
    /// The peer broke the protocol.
    Protocol(String),
}

/// The stream with one other member, and the data received in this round.
pub(super) struct Link {
    stream: PeerStream,
    /// For each member of the peer's host, the number of tallies in its header.
    tallies: Vec<usize>,
    /// The headers that have arrived.
    headers: Vec<Header>,
    /// For each node of the peer's host, the partial that this member adds up.
    partials: Vec<Pieces>,
    /// Floats in each partial.
    span: usize,
    /// Bytes of the sum that have arrived from the peer.
    summed: usize,
    /// The vector of the chunk that is arriving.
    filling: Option<Piece>,
}

impl Link {
    /// The link with a peer. Each member of the peer's host has so many `tallies`. The host sends
    /// `nodes` partials, of which this member adds up `span` floats each.
    pub(super) fn new(stream: PeerStream, tallies: Vec<usize>, nodes: usize, span: usize) -> Self {
        let partials = (0..nodes).map(|_| Pieces::default()).collect();
        let headers = Vec::with_capacity(tallies.len());
        Self { stream, tallies, headers, partials, span, summed: 0, filling: None }
    }

    /// Queues bytes. The queue has room for all pieces of two rounds.
    pub(super) fn send(&self, bytes: Bytes) -> Result<(), Broken> {
        self.stream.outbound.try_send(bytes).map_err(|error| {
            let reason = match error {
                TrySendError::Full(_) => "it does not receive what is sent to it",
                TrySendError::Closed(_) => "the stream is closed",
            };
            Broken::Lost(reason.into())
        })
    }

    /// Receives frames until the end of the round. `sum` is the memory for the part of the sum that
    /// the peer sends.
    pub(super) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        round: Round,
        sum: &mut [f32],
    ) -> Poll<Result<(), Broken>> {
        while !self.is_complete(round, sum.len()) {
            let taken = match std::task::ready!(self.stream.inbound.poll_next(cx)) {
                Arrival::Event(Event::Chunk(head)) => self.begin_chunk(head, sum.len()),
                Arrival::Event(Event::Values(values)) => self.take_values(values, sum),
                Arrival::Event(Event::Frame(frame)) => self.take_frame(round, frame.body, sum),
                Arrival::Malformed(malformed) => Err(malformed.to_string()),
                Arrival::Closed(reason) => return Poll::Ready(Err(Broken::Lost(reason))),
            };
            if let Err(reason) = taken {
                return Poll::Ready(Err(Broken::Protocol(reason)));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether all members of the peer's host have begun the round.
    pub(super) fn has_headers(&self) -> bool {
        self.headers.len() == self.tallies.len()
    }

    /// The number of floats from the start of the span that have arrived in all partials.
    pub(super) fn floats(&self) -> usize {
        self.partials.iter().map(Pieces::floats).min().unwrap_or(self.span)
    }

    pub(super) fn partials(&self) -> &[Pieces] {
        &self.partials
    }

    pub(super) fn partials_mut(&mut self) -> &mut [Pieces] {
        &mut self.partials
    }

    /// Ends the round and gives its headers, by member of the peer's host.
    pub(super) fn finish_round(&mut self) -> impl Iterator<Item = Header> {
        self.summed = 0;
        self.partials.iter_mut().for_each(Pieces::restart);
        self.headers.drain(..)
    }

    /// Whether the whole round has arrived; `sum` is the number of floats of the sum.
    fn is_complete(&self, round: Round, sum: usize) -> bool {
        let train = round.kind == Kind::Train;
        self.has_headers()
            && (!train || self.summed == sum * FLOAT_BYTES && self.floats() == self.span)
    }

    /// Gives the stream back.
    pub(super) fn into_stream(self) -> PeerStream {
        self.stream
    }

    fn take_frame(
        &mut self,
        round: Round,
        body: Option<frame::Body>,
        sum: &mut [f32],
    ) -> Result<(), String> {
        match body {
            Some(frame::Body::Header(header)) => self.take_header(round, header),
            Some(frame::Body::Partial(chunk)) => {
                self.take_chunk(Piece::Partial(chunk.node), chunk, sum)
            }
            Some(frame::Body::Sum(chunk)) => self.take_chunk(Piece::Sum, chunk, sum),
            Some(frame::Body::Hello(_)) => Err("a second hello on one stream".into()),
            None => Err("a frame without a body".into()),
        }
    }

    fn take_header(&mut self, round: Round, header: RoundHeader) -> Result<(), String> {
        let header = Header::try_from(header).map_err(|malformed| malformed.to_string())?;
        let (round_of_it, tallies) = (header.round, header.contribution.tallies.len());
        match self.tallies.get(self.headers.len()) {
            Some(nodes) if round_of_it == round && tallies == *nodes => {
                self.headers.push(header);
                Ok(())
            }
            Some(nodes) if round_of_it == round => {
                Err(format!("{tallies} tallies for {nodes} nodes"))
            }
            _ => Err(format!("it is at {round_of_it}")),
        }
    }

    fn take_chunk(&mut self, piece: Piece, chunk: Chunk, sum: &mut [f32]) -> Result<(), String> {
        let Chunk { offset, values, .. } = chunk;
        self.begin_chunk(ChunkHead { piece, offset, bytes: values.len() }, sum.len())?;
        self.take_values(values, sum)
    }

    /// Checks that a chunk begins where the previous one ended, and ends within its vector.
    fn begin_chunk(&mut self, head: ChunkHead, sum: usize) -> Result<(), String> {
        let is_train = |header: &Header| header.round.kind == Kind::Train;
        if !self.has_headers() || !self.headers.first().is_some_and(is_train) {
            return Err("a chunk outside a training round".into());
        }
        let (filled, length) = match head.piece {
            Piece::Sum => (self.summed, sum),
            Piece::Partial(node) => {
                let pieces = self.partials.get(node as usize);
                let unknown = || format!("a partial of node {node}, which it does not have");
                (pieces.ok_or_else(unknown)?.arrived(), self.span)
            }
        };
        let ChunkHead { offset, bytes, .. } = head;
        let begin = (offset as usize).saturating_mul(FLOAT_BYTES);
        let end = begin.saturating_add(bytes);
        if begin != filled || bytes == 0 || bytes % FLOAT_BYTES != 0 || end > length * FLOAT_BYTES {
            return Err(format!(
                "a chunk of {bytes} bytes at {offset} where {} of {length} floats had come",
                filled / FLOAT_BYTES
            ));
        }
        self.filling = Some(head.piece);
        Ok(())
    }

    /// Takes the next floats of the arriving chunk. The parser gives no more than the head announced.
    fn take_values(&mut self, values: Bytes, sum: &mut [f32]) -> Result<(), String> {
        match self.filling {
            Some(Piece::Partial(node)) => {
                let pieces = self.partials.get_mut(node as usize);
                pieces.ok_or("floats of no node")?.push(values);
            }
            Some(Piece::Sum) => {
                let end = self.summed + values.len();
                let part = sum.as_mut_bytes().get_mut(self.summed..end);
                part.ok_or("floats beyond the segment")?.copy_from_slice(&values);
                self.summed = end;
            }
            None => return Err("floats outside a chunk".into()),
        }
        Ok(())
    }
}
