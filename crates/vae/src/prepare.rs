//! Prepares a data set for a run.

use data::{Pass, Splits};
use images::Images;
use vae_options::{Binarize, VaeOptions};

/// Keeps the first images that the run uses, and makes the test images black and white if the run
/// binarizes its pixels. Training images are binarized at each pass.
pub fn prepare(
    images: &mut Splits<Images>,
    options: &VaeOptions,
    [train, test]: [u32; 2],
    seed: u64,
) {
    images.train.truncate(train as usize);
    images.test.truncate(test as usize);
    if options.binarize == Binarize::Dynamic {
        images.test = images.test.binarized(Pass::test(seed));
    }
}
