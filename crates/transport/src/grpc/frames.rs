//! Floats to chunks and back.

use std::ops::Range;

use bytes::{BufMut as _, Bytes, BytesMut};
use collective::Node;
use protocol::{CHUNK_FLOATS, wire::Chunk};

const FLOAT_BYTES: usize = size_of::<f32>();

/// The most frames that a member sends to one peer in a round, whatever the generation.
pub(super) fn per_round_max(shards: u32, length: usize) -> usize {
    // A contiguous range holds at most two maximal nodes for each level of the tree.
    let nodes = 2 * Node::root(shards).depth();
    1 + (nodes + 1) * length.div_ceil(CHUNK_FLOATS).max(1)
}

/// The chunks of `values`, which are those of the sender's node `node`.
pub(super) fn chunks(node: u32, values: &[f32]) -> impl Iterator<Item = Chunk> {
    values
        .chunks(CHUNK_FLOATS)
        .zip((0u32..).step_by(CHUNK_FLOATS))
        .map(move |(floats, offset)| Chunk { node, offset, values: to_bytes(floats) })
}

fn to_bytes(floats: &[f32]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(floats.len() * FLOAT_BYTES);
    for float in floats {
        bytes.put_f32_le(*float);
    }
    bytes.freeze()
}

/// A vector that fills up chunk by chunk, in order.
#[derive(Debug, Default)]
pub(super) struct Filling {
    filled: usize,
}

impl Filling {
    /// Puts a chunk's floats into `vector`; they must follow those before.
    pub(super) fn put(&mut self, vector: &mut [f32], chunk: &Chunk) -> Result<(), String> {
        let range = self.accept(vector.len(), chunk)?;
        let (floats, _) = chunk.values.as_chunks::<FLOAT_BYTES>();
        for (float, bytes) in vector[range].iter_mut().zip(floats) {
            *float = f32::from_le_bytes(*bytes);
        }
        Ok(())
    }

    fn accept(&mut self, length: usize, chunk: &Chunk) -> Result<Range<usize>, String> {
        let (offset, bytes) = (chunk.offset as usize, chunk.values.len());
        let end = offset.saturating_add(bytes / FLOAT_BYTES);
        if offset != self.filled || bytes == 0 || bytes % FLOAT_BYTES != 0 || end > length {
            return Err(format!(
                "a chunk of {bytes} bytes at {offset} where {} of {length} floats had come",
                self.filled
            ));
        }
        self.filled = end;
        Ok(offset..end)
    }

    /// Whether all `length` floats have come.
    pub(super) fn is_complete(&self, length: usize) -> bool {
        self.filled == length
    }

    /// Begins anew, for the next round.
    pub(super) fn restart(&mut self) {
        self.filled = 0;
    }
}
