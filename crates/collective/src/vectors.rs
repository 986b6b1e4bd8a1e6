//! The vectors of a training state, wherever their memory is. What they mean is not known here.

/// A state has so many flat vectors of equal length: the parameters and what the optimizer keeps
/// beside them.
pub const STATE_VECTORS: usize = 3;

/// StateVectors that nobody writes to while this is held.
pub trait StateVectors: Send + Sync {
    /// The vectors, always the same.
    fn vectors(&self) -> [&[f32]; STATE_VECTORS];

    /// Where other processes of this host find the vectors, as the transport says it that keeps
    /// them; none of vectors in memory that is not shared.
    fn place(&self) -> Option<String> {
        None
    }
}

impl StateVectors for [Vec<f32>; STATE_VECTORS] {
    fn vectors(&self) -> [&[f32]; STATE_VECTORS] {
        self.each_ref().map(Vec::as_slice)
    }
}
