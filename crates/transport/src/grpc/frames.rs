//! Encodes frames as bytes for a stream, without a copy of the floats.
//!
//! A gRPC message is a prefix of five bytes and a protobuf message. The message of a chunk ends
//! with its floats. The bytes before the floats are made here, and the floats are sent directly
//! from their memory.

use std::{convert::Infallible, ops::Range, sync::Arc};

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message;
use tokio::sync::mpsc;
use zerocopy::IntoBytes as _;

// Floats are sent as they are in memory, and the wire is little endian.
const _: () = assert!(cfg!(target_endian = "little"), "the wire is little endian");

pub(crate) const FLOAT_BYTES: usize = size_of::<f32>();

/// Bytes of the prefix of a gRPC message: a flag for compression, and the length.
pub(super) const PREFIX_BYTES: usize = 5;

/// The most floats in a chunk that this build sends; it accepts up to [`protocol::CHUNK_FLOATS`].
///
/// Small chunks overlap better: one is added up while the next one is under way. Large chunks have
/// fewer fixed costs.
pub(crate) const CHUNK_FLOATS: usize = 1 << 17;

/// The protobuf keys of the fields in a chunk's message.
pub(super) mod key {
    const FIXED32: u8 = 5;
    const LENGTH_DELIMITED: u8 = 2;

    pub(in super::super) const PARTIAL: u8 = 3 << 3 | LENGTH_DELIMITED;
    pub(in super::super) const SUM: u8 = 4 << 3 | LENGTH_DELIMITED;
    pub(in super::super) const NODE: u8 = 1 << 3 | FIXED32;
    pub(in super::super) const OFFSET: u8 = 2 << 3 | FIXED32;
    pub(in super::super) const VALUES: u8 = 3 << 3 | LENGTH_DELIMITED;
    pub(in super::super) const STATE_VALUES: u8 = 2 << 3 | LENGTH_DELIMITED;
}

/// The vector to which a chunk belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// A part of the sender's partial of this node, within the range that the receiver adds up.
    Partial(u32),
    /// A part of the sender's segment of the sum.
    Sum,
}

/// The most pieces of bytes that a member queues for one peer in a round, whatever the
/// generation.
pub(super) fn queued_max(shards: u32, length: usize) -> usize {
    // A member or host has at most as many nodes as there are shards. There are at most as many other
    // members as shards; each of them cuts a span at most once, and each part begins another chunk.
    let shards = shards as usize;
    1 + 2 * ((shards + 1) * length.div_ceil(CHUNK_FLOATS).max(1) + shards)
}

/// Appends a whole message.
pub(crate) fn put_message(bytes: &mut BytesMut, message: &impl Message) {
    put_prefix(bytes, message.encoded_len());
    // BytesMut grows, so the only possible error, a lack of room, cannot occur.
    let _room = message.encode(bytes);
}

/// Appends the part of a chunk's message before its floats.
pub(super) fn put_chunk_head(bytes: &mut BytesMut, piece: Piece, offset: usize, floats: usize) {
    let (key, node) = match piece {
        Piece::Partial(node) => (key::PARTIAL, node),
        Piece::Sum => (key::SUM, 0),
    };
    let values = floats * FLOAT_BYTES;
    let fields = 2 * (1 + size_of::<u32>()) + 1 + prost::length_delimiter_len(values);
    let chunk = fields + values;
    put_prefix(bytes, 1 + prost::length_delimiter_len(chunk) + chunk);
    bytes.put_u8(key);
    put_length(bytes, chunk);
    bytes.put_u8(key::NODE);
    bytes.put_u32_le(node);
    bytes.put_u8(key::OFFSET);
    bytes.put_u32_le(u32::try_from(offset).unwrap_or(u32::MAX));
    bytes.put_u8(key::VALUES);
    put_length(bytes, values);
}

/// Appends the part of a state's message before its floats.
pub(crate) fn put_state_head(bytes: &mut BytesMut, floats: usize) {
    let values = floats * FLOAT_BYTES;
    put_prefix(bytes, 1 + prost::length_delimiter_len(values) + values);
    bytes.put_u8(key::STATE_VALUES);
    put_length(bytes, values);
}

fn put_prefix(bytes: &mut BytesMut, message: usize) {
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message).unwrap_or(u32::MAX));
}

fn put_length(bytes: &mut BytesMut, length: usize) {
    let _room = prost::encode_length_delimiter(length, bytes);
}

/// Floats as the bytes that are sent.
pub(super) fn raw(floats: &[f32]) -> &[[u8; FLOAT_BYTES]] {
    floats.as_bytes().as_chunks().0
}

/// A token held by all bytes that are still to be sent. When the last token is dropped, all are sent.
pub(super) type Unsent = mpsc::Sender<Infallible>;

/// A part of a vector, which keeps the vector alive until it is sent.
struct Floats {
    vector: Arc<Vec<f32>>,
    range: Range<usize>,
    _unsent: Option<Unsent>,
}

impl AsRef<[u8]> for Floats {
    fn as_ref(&self) -> &[u8] {
        self.vector[self.range.clone()].as_bytes()
    }
}

/// The bytes of a part of `vector`, without a copy. Until they have been written to the socket and
/// dropped, `vector` has another owner and cannot be written to.
pub(crate) fn bytes_of(vector: &Arc<Vec<f32>>, range: Range<usize>) -> Bytes {
    Bytes::from_owner(Floats { vector: Arc::clone(vector), range, _unsent: None })
}

/// The same with a token, which tells when the bytes have been written and dropped.
pub(super) fn counted_bytes_of(
    vector: &Arc<Vec<f32>>,
    range: Range<usize>,
    unsent: &Unsent,
) -> Bytes {
    let _unsent = Some(unsent.clone());
    Bytes::from_owner(Floats { vector: Arc::clone(vector), range, _unsent })
}
