//! Chooses the images that are held out for testing, where a set has no test images: a tenth of them. The choice
//! depends on the pixels only. So names and order do not matter, and copies of an image stay together.

use sha2::{Digest as _, Sha256};

/// One image of this many is held out.
const SHARE: usize = 10;

/// The key that decides about an image: a hash of its pixels.
pub(crate) fn key(pixels: &[u8]) -> u64 {
    let digest = Sha256::digest(pixels);
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first)
}

/// The largest key of an image that is held out. A tenth of the different keys, and at least one, are not above it.
/// None if no image would be left to train on.
pub(crate) fn threshold(keys: &[u64]) -> Option<u64> {
    let mut sorted = keys.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let held_out = (sorted.len() / SHARE).max(1);
    (sorted.len() > held_out).then(|| sorted[held_out - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_is_held_out_whatever_the_order() {
        let keys: Vec<u64> = (0..1000_u32).map(|image| key(&image.to_le_bytes())).collect();
        let threshold_of = threshold(&keys).unwrap();
        assert_eq!(keys.iter().filter(|key| **key <= threshold_of).count(), 100);
        let reversed: Vec<u64> = keys.iter().rev().copied().collect();
        assert_eq!(threshold(&reversed), Some(threshold_of));
        assert_eq!(threshold(&[7, 7, 3]), Some(3));
        assert_eq!((threshold(&[7, 7]), threshold(&[])), (None, None));
    }
}
