//! Floats that wait to be added up, as the bytes in which they arrived.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes, BytesMut};

use super::frames::FLOAT_BYTES;

/// A shorter piece is copied. An uncopied piece keeps a whole buffer of the connection in memory, and
/// a peer that sends byte by byte would fill the memory with buffers.
const KEPT_BYTES_MIN: usize = 4096;

/// A queue of floats, cut at any byte.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    kept: VecDeque<Bytes>,
    /// The bytes after those in `kept`.
    copied: BytesMut,
    /// Bytes put in so far.
    arrived: usize,
}

impl Pieces {
    pub(super) fn push(&mut self, piece: Bytes) {
        self.arrived += piece.len();
        if piece.len() < KEPT_BYTES_MIN {
            self.copied.extend_from_slice(&piece);
        } else {
            self.keep_copied();
            self.kept.push_back(piece);
        }
    }

    /// Bytes put in since the last restart.
    pub(super) fn arrived(&self) -> usize {
        self.arrived
    }

    /// Complete floats put in since the last restart.
    pub(super) fn floats(&self) -> usize {
        self.arrived / FLOAT_BYTES
    }

    /// Makes the next `floats` floats contiguous; so many must have arrived. Nearly always they are
    /// contiguous already. Floats that were cut within a chunk are copied together.
    pub(super) fn join(&mut self, floats: usize) {
        let bytes = floats * FLOAT_BYTES;
        if self.kept.front().is_some_and(|piece| piece.len() >= bytes) {
            return;
        }
        self.keep_copied();
        let mut joined = BytesMut::with_capacity(bytes);
        while joined.len() < bytes {
            let piece = self.kept.front_mut().expect("as many floats have come");
            joined.extend_from_slice(&piece.split_to(piece.len().min(bytes - joined.len())));
            if piece.is_empty() {
                self.kept.pop_front();
            }
        }
        self.kept.push_front(joined.freeze());
    }

    /// The next floats, after [`Pieces::join`].
    pub(super) fn next(&self, floats: usize) -> &[[u8; FLOAT_BYTES]] {
        let front = self.kept.front().map_or(&[][..], |piece| piece);
        &front.as_chunks().0[..floats]
    }

    /// Removes the next floats, after [`Pieces::join`].
    pub(super) fn skip(&mut self, floats: usize) {
        if let Some(piece) = self.kept.front_mut() {
            piece.advance(floats * FLOAT_BYTES);
            if piece.is_empty() {
                self.kept.pop_front();
            }
        }
    }

    /// Empties the queue for the next round.
    pub(super) fn restart(&mut self) {
        *self = Self::default();
    }

    fn keep_copied(&mut self) {
        if !self.copied.is_empty() {
            self.kept.push_back(self.copied.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::IntoBytes as _;

    use super::*;

    proptest! {
        #[test]
        fn floats_come_out_as_they_went_in_however_they_were_cut(
            cuts in prop::collection::vec(1_usize..10_000, 1..30),
            takes in prop::collection::vec(1_usize..3_000, 1..30),
        ) {
            let length: usize = cuts.iter().sum::<usize>() / FLOAT_BYTES;
            let floats: Vec<f32> = (0..length).map(|index| index as f32).collect();
            let mut bytes = Bytes::copy_from_slice(floats.as_bytes());
            let mut pieces = Pieces::default();
            let mut taken = Vec::new();
            for cut in cuts {
                pieces.push(bytes.split_to(cut.min(bytes.len())));
            }
            prop_assert_eq!(pieces.floats(), length);
            for count in takes.into_iter().cycle() {
                let count = count.min(length - taken.len());
                if count == 0 {
                    break;
                }
                pieces.join(count);
                taken.extend(pieces.next(count).iter().map(|bytes| f32::from_le_bytes(*bytes)));
                pieces.skip(count);
            }
            prop_assert_eq!(taken, floats);
        }
    }
}
