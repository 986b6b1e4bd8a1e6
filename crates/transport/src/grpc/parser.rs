//! Bytes of a stream to frames, wherever the network cut them.
//!
//! Knows the gRPC framing and the shape of a chunk, but not which frame may come when. A
//! chunk's floats are handed on as they arrive, without a copy; for that the chunk's message
//! has to end with them, as every usual encoder has it. Any other message, and any other
//! order of fields, is collected and left to the generated code.

use std::{fmt::Debug, marker::PhantomData};

use bytes::{Buf as _, Bytes, BytesMut};
use prost::Message;
use protocol::{
    FRAME_BYTES_MAX, Malformed,
    wire::{FetchRequest, Frame, StateFrame},
};

use super::frames::{PREFIX_BYTES, Piece, key};

/// More than a chunk's message has before its floats: three keys and its own, two lengths of
/// at most five bytes, two numbers of four, and room for fields given twice.
const HEAD_BYTES_MAX: usize = 32;

/// A kind of message that streams are made of.
pub(crate) trait Streamed: Message + Default {
    /// What precedes the floats of a message that ends with them.
    type Head: Copy + Debug;

    /// Reads it, and the number of bytes of floats that follow, off a message of `message` bytes.
    fn read_head(cursor: &mut Cursor<'_>, message: usize) -> Result<(Self::Head, usize), Unread>;
}

/// A piece of a stream that means something.
#[derive(Debug)]
pub(crate) enum Event<M: Streamed = Frame> {
    /// A message that came as a whole.
    Frame(M),
    /// The beginning of a chunk with at least one byte of floats.
    Chunk(M::Head),
    /// The next bytes of that chunk's floats.
    Values(Bytes),
}

/// What precedes the floats of a chunk of an all-reduce.
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
    /// In a message of so many bytes that is collected.
    Whole(usize),
    /// In a chunk, so many bytes of floats before its end.
    Values(usize),
}

/// The state between two pieces of a stream.
#[derive(Debug)]
pub(super) struct Parser<M = Frame> {
    state: State,
    /// What of the prefix, head or whole message has come.
    held: BytesMut,
    messages: PhantomData<fn() -> M>,
}

impl<M: Streamed> Parser<M> {
    pub(super) fn new() -> Self {
        Self { state: State::Prefix, held: BytesMut::new(), messages: PhantomData }
    }

    /// Takes the next event off the front of `input`; with none, `input` is used up.
    ///
    /// # Errors
    /// [`Malformed`] for what no correct peer sends; the stream cannot be read on then.
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

    /// `length` bytes once they have all come.
    fn collect(&mut self, input: &mut Bytes, length: usize) -> Option<Bytes> {
        if self.held.is_empty() && input.len() >= length {
            return Some(input.split_to(length));
        }
        let more = input.split_to(input.len().min(length - self.held.len()));
        self.held.extend_from_slice(&more);
        (self.held.len() == length).then(|| self.held.split().freeze())
    }

    /// Reads a chunk's head off `input`, or holds what of it has come. A message that is no
    /// chunk is left as it was.
    fn read_head(&mut self, input: &mut Bytes, message: usize) -> Result<(M::Head, usize), Unread> {
        let before = self.held.len();
        let window = message.min(HEAD_BYTES_MAX);
        let more = input.len().min(window - before);
        self.held.extend_from_slice(&input[..more]);
        let mut cursor = Cursor { bytes: &self.held, at: 0 };
        let read = match M::read_head(&mut cursor, message) {
            Ok((_, 0)) => Err(Unread::NoChunk),
            // All that a head may take has come, and it is none.
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
        return Err(Malformed("a compressed message; none was asked for".into()));
    }
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(Malformed(format!("a message of {length} bytes; {FRAME_BYTES_MAX} at most")));
    }
    Ok(length)
}

/// Why there is no head of a chunk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unread {
    /// More bytes are needed to tell.
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

    /// Reads a length that has to reach exactly to the `end` of the message.
    fn length_to(&mut self, end: usize) -> Result<usize, Unread> {
        let mut length = 0;
        // Four bytes hold any length of a message that is not refused.
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
