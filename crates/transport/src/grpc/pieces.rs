//! Floats that wait to be added up, as the bytes that the network brought them in.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes, BytesMut};
use zerocopy::IntoBytes as _;

use super::frames::FLOAT_BYTES;

/// A shorter piece is copied: it keeps a whole buffer of the connection in memory, and a peer
/// that sends byte by byte would hold many.
const KEPT_BYTES_MIN: usize = 4096;

/// A queue of floats, cut anywhere.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    kept: VecDeque<Bytes>,
    /// Follows after `kept`.
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

    /// Floats put in as a whole since the last restart.
    pub(super) fn floats(&self) -> usize {
        self.arrived / FLOAT_BYTES
    }

    /// Takes out the next floats; there must be as many.
    pub(super) fn take(&mut self, floats: &mut [f32]) {
        let mut rest = floats.as_mut_bytes();
        while !rest.is_empty() {
            let Some(piece) = self.kept.front_mut() else {
                assert!(!self.copied.is_empty(), "more floats taken than have come");
                self.keep_copied();
                continue;
            };
            let (now, later) = rest.split_at_mut(piece.len().min(rest.len()));
            piece.copy_to_slice(now);
            if piece.is_empty() {
                self.kept.pop_front();
            }
            rest = later;
        }
    }

    /// Begins anew, for the next round.
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
                let mut some = vec![0.0; count.min(length - taken.len())];
                if some.is_empty() {
                    break;
                }
                pieces.take(&mut some);
                taken.extend(some);
            }
            prop_assert_eq!(taken, floats);
        }
    }
}
