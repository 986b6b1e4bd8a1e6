//! The digest of the state. The GPU hashes the blocks; 16 bytes per block are copied back.

use model::{
    STATE_VECTORS,
    cuda::{Buffer, Gpu, GpuError, Pinned},
    digest::{self, BLOCK, BlockHash, Hasher},
};

use super::kernels::Kernels;

/// Words of a block's hash.
const HASH_WORDS: usize = size_of::<BlockHash>() / size_of::<u32>();

/// The memory for hashing.
#[derive(Debug)]
pub(super) struct Digests {
    keys: Buffer<u32>,
    /// The hashes of the long blocks of all vectors.
    hashes: (Buffer<u32>, Pinned<u32>),
    /// The floats of each vector's last block, if that is too short for the GPU.
    rest: [Pinned<f32>; STATE_VECTORS],
    rest_floats: usize,
    length: usize,
    /// The number of long blocks of a vector.
    blocks: usize,
}

impl Digests {
    /// For vectors with `length` floats.
    pub(super) fn new(gpu: &Gpu, length: usize) -> Result<Self, GpuError> {
        let last = length % BLOCK;
        let blocks = length / BLOCK + usize::from(digest::is_long(last));
        let rest_floats = if digest::is_long(last) { 0 } else { last };
        let words = digest::keys().map(|key| [key as u32, (key >> 32) as u32]);
        let mut keys = gpu.zeros(words.as_flattened().len())?;
        gpu.copy(words.as_flattened(), &mut keys)?;
        let words = STATE_VECTORS * blocks * HASH_WORDS;
        let hashes = (gpu.zeros(words)?, gpu.pinned(words)?);
        let room = || gpu.pinned(rest_floats);
        let rest = [room()?, room()?, room()?];
        Ok(Self { keys, hashes, rest, rest_floats, length, blocks })
    }

    /// Adds the hashes of all blocks to `hasher`, in the order of a state's digest.
    pub(super) fn add(
        &mut self,
        gpu: &Gpu,
        kernels: &Kernels,
        vectors: &[Buffer<f32>; STATE_VECTORS],
        hasher: &mut Hasher,
    ) -> Result<(), GpuError> {
        let Self { keys, hashes: (there, here), rest, rest_floats, length, blocks } = self;
        let (words, count) = (*blocks * HASH_WORDS, *rest_floats);
        for (index, (vector, rest)) in vectors.iter().zip(&mut *rest).enumerate() {
            if *blocks > 0 {
                let to = there.address().offset::<u32>(index * words);
                kernels.hashes([vector.address(), keys.address(), to], *length, *blocks)?;
            }
            if count > 0 {
                gpu.download_part(vector, rest, *length - count, count)?;
            }
        }
        if words > 0 {
            gpu.download(there, here)?;
        }
        let found = here.as_slice()?;
        for (index, rest) in rest.iter().enumerate() {
            let of_vector = &found[index * words..(index + 1) * words];
            for hash in of_vector.as_chunks::<HASH_WORDS>().0 {
                hasher.add(&[big_endian(*hash)]);
            }
            if count > 0 {
                hasher.add(&[digest::block_hash(rest.as_slice()?)]);
            }
        }
        Ok(())
    }
}

/// A hash from its words, the lowest word first.
fn big_endian(words: [u32; HASH_WORDS]) -> BlockHash {
    let fold = |hash: u128, word: &u32| hash << u32::BITS | u128::from(*word);
    words.iter().rev().fold(0_u128, fold).to_be_bytes()
}
