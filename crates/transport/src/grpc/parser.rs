//! Parses the bytes of a stream into frames, wherever the network has cut them.
//!
//! The parser knows the gRPC framing and the fields of a chunk, but not the order of frames. It
//! hands on a chunk's floats as they arrive, without a copy. This needs a message that ends with
//! the floats, as usual encoders make it. Any other message, and any other order of fields, is
//! collected and decoded by the generated code.

use std::{fmt::Debug, marker::PhantomData};

use bytes::{Buf as _, Bytes, BytesMut};
use prost::Message;
use protocol::{
    FRAME_BYTES_MAX, Malformed,
    wire::{FetchRequest, Frame, StateFrame},
};

use super::frames::{PREFIX_BYTES, Piece, key};

/// The most bytes before the floats in a chunk's message: four keys, two lengths of at most five
/// bytes, two numbers of four bytes, and room for fields given twice.
const HEAD_BYTES_MAX: usize = 32;

/// A kind of message that streams are made of.
pub(crate) trait Streamed: Message + Default {
    /// The head of a message that ends with floats: the fields before the floats.
    type Head: Copy + Debug;

    /// Reads the head of a message of `message` bytes, and the number of bytes of floats that follow.
    fn read_head(cursor: &mut Cursor<'_>, message: usize) -> Result<(Self::Head, usize), Unread>;
}

/// A parsed piece of a stream.
#[derive(Debug)]
pub(crate) enum Event<M: Streamed = Frame> {
    /// A whole message.
    Frame(M),
    /// The beginning of a chunk with at least one byte of floats.
    Chunk(M::Head),
    /// The next bytes of that chunk's floats.
    Values(Bytes),
}

/// The head of a chunk of an all-reduce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkHead {
    pub(super) piece: Piece,
    /// Floats from the start of the segment.
    pub(super) offset: u32,
    /// Bytes of floats that follow.
    pub(super) bytes: usize,
}

impl Streamed for Frame {
    type Head = ChunkHead;

    fn read_head(cursor: &mut Cursor<'_>, message: usize) -> Result<(ChunkHead, usize), Unread> {
        let key = cursor.byte()?;
        if ![key::PARTIAL, key::SUM].contains(&key) {
            return Err(Unread::NoChunk);
        }
        cursor.length_to(message)?;
        let (mut node, mut offset) = (0, 0);
        let bytes = loop {
            match cursor.byte()? {
                key::NODE => node = cursor.fixed32()?,
                key::OFFSET => offset = cursor.fixed32()?,
                key::VALUES => break cursor.length_to(message)?,
                _ => return Err(Unread::NoChunk),
            }
        };
        let piece = if key == key::SUM { Piece::Sum } else { Piece::Partial(node) };
        Ok((ChunkHead { piece, offset, bytes }, bytes))
    }
}

impl Streamed for StateFrame {
    /// Bytes of floats that follow.
    type Head = usize;

    fn read_head(cursor: &mut Cursor<'_>, message: usize) -> Result<(usize, usize), Unread> {
        match cursor.byte()? {
            key::STATE_VALUES => cursor.length_to(message).map(|bytes| (bytes, bytes)),
            _ => Err(Unread::NoChunk),
        }
    }
}

impl Streamed for FetchRequest {
    type Head = ();

    fn read_head(_cursor: &mut Cursor<'_>, _message: usize) -> Result<((), usize), Unread> {
        Err(Unread::NoChunk)
    }
}

#[derive(Debug)]
enum State {
    /// Before or in the prefix of a message.
    Prefix,
    /// At the beginning of a message of so many bytes.
    Head(usize),
    /// In a message of so many bytes, which is collected.
    Whole(usize),
    /// In a chunk, with so many bytes of floats left.
    Values(usize),
}

/// The state between two pieces of a stream.
#[derive(Debug)]
pub(super) struct Parser<M = Frame> {
    state: State,
    /// The bytes of the prefix, head or whole message that have arrived.
    held: BytesMut,
    messages: PhantomData<fn() -> M>,
}

impl<M: Streamed> Parser<M> {
    pub(super) fn new() -> Self {
        Self { state: State::Prefix, held: BytesMut::new(), messages: PhantomData }
    }

    /// Takes the next event from the front of `input`. If there is none, `input` is empty afterwards.
    ///
    /// # Errors
    /// [`Malformed`] for bytes that no correct peer sends. The stream cannot be parsed any further.
    pub(super) fn next(&mut self, input: &mut Bytes) -> Result<Option<Event<M>>, Malformed> {
        loop {
            match self.state {
                State::Prefix => {
                    let Some(prefix) = self.collect(input, PREFIX_BYTES) else { return Ok(None) };
                    self.state = State::Head(message_length(&prefix)?);
                }
                State::Head(message) => match self.read_head(input, message) {
                    Ok((head, bytes)) => {
                        self.state = State::Values(bytes);
                        return Ok(Some(Event::Chunk(head)));
                    }
                    Err(Unread::Partly) => return Ok(None),
                    Err(Unread::NoChunk) => self.state = State::Whole(message),
                },
                State::Whole(message) => {
                    let Some(bytes) = self.collect(input, message) else { return Ok(None) };
                    self.state = State::Prefix;
                    let unreadable = |error| Malformed(format!("a frame is unreadable: {error}"));
                    return M::decode(bytes).map(|f| Some(Event::Frame(f))).map_err(unreadable);
                }
                State::Values(_) if input.is_empty() => return Ok(None),
                State::Values(left) => {
                    let values = input.split_to(left.min(input.len()));
                    self.state = match left - values.len() {
                        0 => State::Prefix,
                        left => State::Values(left),
                    };
                    return Ok(Some(Event::Values(values)));
                }
            }
        }
    }

    /// `length` bytes, once all of them have arrived.
    fn collect(&mut self, input: &mut Bytes, length: usize) -> Option<Bytes> {
        if self.held.is_empty() && input.len() >= length {
            return Some(input.split_to(length));
        }
        let more = input.split_to(input.len().min(length - self.held.len()));
        self.held.extend_from_slice(&more);
        (self.held.len() == length).then(|| self.held.split().freeze())
    }

    /// Reads a chunk's head from `input`, or keeps the part that has arrived. A message that is not a
    /// chunk is left in `input`.
    fn read_head(&mut self, input: &mut Bytes, message: usize) -> Result<(M::Head, usize), Unread> {
        let before = self.held.len();
        let window = message.min(HEAD_BYTES_MAX);
        let more = input.len().min(window - before);
        self.held.extend_from_slice(&input[..more]);
        let mut cursor = Cursor { bytes: &self.held, at: 0 };
        let read = match M::read_head(&mut cursor, message) {
            Ok((_, 0)) => Err(Unread::NoChunk),
            // The longest possible head has arrived, and it is not complete: no chunk.
            Err(Unread::Partly) if self.held.len() == window => Err(Unread::NoChunk),
            read => read,
        };
        let length = cursor.at;
        match read {
            Ok(_) => {
                self.held.clear();
                input.advance(length - before);
            }
            Err(Unread::Partly) => input.advance(more),
            Err(Unread::NoChunk) => self.held.truncate(before),
        }
        read
    }
}

fn message_length(prefix: &[u8]) -> Result<usize, Malformed> {
    let &[compressed, a, b, c, d] = prefix else {
        return Err(Malformed("a prefix of a wrong length".into()));
    };
    if compressed != 0 {
        return Err(Malformed("a compressed message, which was not requested".into()));
    }
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(Malformed(format!("a message of {length} bytes; {FRAME_BYTES_MAX} at most")));
    }
    Ok(length)
}

/// Why no head of a chunk was read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unread {
    /// More bytes are needed.
    Partly,
    /// The message is not a chunk that ends with its floats.
    NoChunk,
}

/// The first bytes of a message.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn byte(&mut self) -> Result<u8, Unread> {
        let byte = *self.bytes.get(self.at).ok_or(Unread::Partly)?;
        self.at += 1;
        Ok(byte)
    }

    fn fixed32(&mut self) -> Result<u32, Unread> {
        Ok(u32::from_le_bytes([self.byte()?, self.byte()?, self.byte()?, self.byte()?]))
    }

    /// Reads a length that must end exactly at the `end` of the message.
    fn length_to(&mut self, end: usize) -> Result<usize, Unread> {
        let mut length = 0;
        // Four bytes hold any allowed length of a message.
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return if self.at + length == end { Ok(length) } else { Err(Unread::NoChunk) };
            }
        }
        Err(Unread::NoChunk)
    }
}

#[cfg(test)]
mod tests;
