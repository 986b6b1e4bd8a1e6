//! The digest of a state: a hash of the hashes of its blocks, so that threads and devices can compute it in parts.

use collective::Digest;
use xxhash_rust::{const_xxh3::const_custom_default_secret, xxh3::Xxh3};

/// Floats of a block, which is hashed separately. The number is part of the definition of a digest.
pub const BLOCK: usize = 1 << 14;

/// The hash of a block.
pub type BlockHash = [u8; size_of::<u128>()];

/// XXH3 uses other algorithms for inputs of up to this many bytes. Devices implement only the one for longer inputs.
const SHORT_BYTES: usize = 240;

/// Floats that are converted to bytes together: 4 KB, which fit the first-level cache.
const CHUNK_FLOATS: usize = 1024;

/// XXH3-128 over the step, the length of a vector, and the hash of every block. The vectors follow one after the
/// other, each cut into blocks of 2^14 floats; the last block is shorter. A block's hash is the XXH3-128 of
/// its floats. Numbers are little endian; hashes are big endian, the order in which digests are written. Every
/// bit counts: 0.0 and -0.0 differ.
pub struct Hasher(Xxh3);

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hasher").finish_non_exhaustive()
    }
}

impl Hasher {
    /// Begins the digest of a state after `step` updates whose vectors have this length.
    #[must_use]
    pub fn new(step: u64, length: usize) -> Self {
        let mut root = Xxh3::new();
        root.update(&step.to_le_bytes());
        root.update(&(length as u64).to_le_bytes());
        Self(root)
    }

    /// Adds the hashes of the next blocks.
    pub fn add(&mut self, hashes: &[BlockHash]) {
        self.0.update(hashes.as_flattened());
    }

    /// The digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest(self.0.digest128().to_be_bytes())
    }
}

/// The hash of a block.
#[must_use]
pub fn block_hash(block: &[f32]) -> BlockHash {
    let mut hasher = Xxh3::new();
    let mut bytes = [[0_u8; size_of::<f32>()]; CHUNK_FLOATS];
    for chunk in block.chunks(CHUNK_FLOATS) {
        for (bytes, value) in bytes.iter_mut().zip(chunk) {
            *bytes = value.to_le_bytes();
        }
        hasher.update(bytes[..chunk.len()].as_flattened());
    }
    hasher.digest128().to_be_bytes()
}

/// Whether a block of this many floats is long enough for a device; the host hashes a shorter block.
#[must_use]
pub const fn is_long(floats: usize) -> bool {
    floats * size_of::<f32>() > SHORT_BYTES
}

/// The parts of XXH3's secret that the hash of a long block uses: 24 words for its stripes, then 8 words each for the
/// last stripe, and for the lower and the upper half of the result.
#[must_use]
pub fn keys() -> [u64; 48] {
    /// The offset in the secret and the number of words of each part.
    const PLACES: [(usize, usize); 4] = [(0, 24), (121, 8), (11, 8), (117, 8)];
    let secret = const_custom_default_secret(0);
    let mut words = PLACES.iter().flat_map(|(first, count)| {
        secret[*first..first + 8 * count].as_chunks().0.iter().map(|word| u64::from_le_bytes(*word))
    });
    std::array::from_fn(|_| words.next().unwrap_or_default())
}
