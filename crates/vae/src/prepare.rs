//! A data set as a run sees it.

use data::{Splits, Visit};
use images::Images;
use vae_options::{Binarize, VaeOptions};

/// Makes the set that of a run: its first images, and the test images black and white where the run
/// draws its pixels so. Training images are drawn at each visit.
pub fn prepare(
    images: &mut Splits<Images>,
    options: &VaeOptions,
    [train, test]: [u32; 2],
    seed: u64,
) {
    images.train.truncate(train as usize);
    images.test.truncate(test as usize);
    if options.binarize == Binarize::Dynamic {
        images.test = images.test.binarized(Visit::test(seed));
    }
}
