//! The vectors of a training state, in any memory. This module does not know their meaning.

/// The number of flat vectors of a state, all of the same length: the parameters and the
/// optimizer's two moments.
pub const STATE_VECTORS: usize = 3;

/// The vectors of a state. Nobody writes to them while this value is held.
pub trait StateVectors: Send + Sync {
    /// The vectors, always the same.
    fn vectors(&self) -> [&[f32]; STATE_VECTORS];

    /// The place where other processes of this host find the vectors, in the format of the transport
    /// that keeps them. None if the memory is not shared.
    fn place(&self) -> Option<String> {
        None
    }
}

impl StateVectors for [Vec<f32>; STATE_VECTORS] {
    fn vectors(&self) -> [&[f32]; STATE_VECTORS] {
        self.each_ref().map(Vec::as_slice)
    }
}
