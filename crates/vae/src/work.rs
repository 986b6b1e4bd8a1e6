//! The vectors between the layers, for a batch or for some of its images.

use std::{iter, mem};

use model::{ModelError, Scratch};

use crate::{element::Element, network::Network};

/// The most images that go through all layers together. With fewer, weights are loaded into the caches more often; with
/// more, the vectors no longer fit the caches.
const BLOCK_IMAGES: usize = 256;

/// The fewest images of a block, if the batch has as many.
const BLOCK_STEP: usize = 16;

/// Memory for the vectors, kept from batch to batch.
#[derive(Debug)]
pub(crate) struct Memory<E> {
    sizes: Sizes,
    samples: usize,
    floats: Scratch<f32, 6>,
    factors: Scratch<E, 12>,
    sums: Scratch<f64, 4>,
}

#[derive(Clone, Copy, Debug)]
struct Sizes {
    pixels: usize,
    hidden: usize,
    latent: usize,
}

/// The numbers per image of each vector, in the order of [`Work`]'s fields.
impl Sizes {
    fn floats(self, samples: usize) -> [usize; 6] {
        let Self { pixels, hidden, latent } = self;
        let (rows, widest) = (samples * latent, samples * hidden.max(pixels));
        [rows, widest, 2 * latent, latent, rows, samples]
    }

    fn factors(self, samples: usize) -> [usize; 12] {
        let Self { pixels, hidden, latent } = self;
        let (z, decoder, output) = (samples * latent, samples * hidden, samples * pixels);
        [
            pixels,
            hidden,
            hidden,
            hidden,
            hidden,
            2 * latent,
            z,
            decoder,
            decoder,
            decoder,
            decoder,
            output,
        ]
    }

    const fn sums(samples: usize) -> [usize; 4] {
        [1, 1, samples, samples]
    }
}

/// The vectors. They have one row per image up to `deviation` and from `d_stats` on; the others have `samples`
/// rows per image.
pub(crate) struct Work<'a, E> {
    pub(crate) images: usize,
    pub(crate) samples: usize,
    sizes: Sizes,
    pub(crate) noise: &'a mut [f32],
    /// A layer's product without its bias, or the gradient of a layer's input.
    pub(crate) y: &'a mut [f32],
    /// The encoder's output, mean and log-variance side by side.
    pub(crate) stats: &'a mut [f32],
    pub(crate) deviation: &'a mut [f32],
    /// The gradient of z. Before that, the terms of KL divergences.
    pub(crate) dz: &'a mut [f32],
    /// Normalised importance weights.
    pub(crate) weights: &'a mut [f32],
    /// Pixels in the form of the element type.
    pub(crate) x: &'a mut [E],
    /// Activations of the encoder's hidden layers.
    pub(crate) e1: &'a mut [E],
    pub(crate) e2: &'a mut [E],
    /// The gradients of their products, and of the encoder's output.
    pub(crate) de1: &'a mut [E],
    pub(crate) de2: &'a mut [E],
    pub(crate) d_stats: &'a mut [E],
    pub(crate) z: &'a mut [E],
    /// Activations of the decoder's hidden layers.
    pub(crate) d1: &'a mut [E],
    pub(crate) d2: &'a mut [E],
    /// The gradients of their products, and of the logits or means.
    pub(crate) dd1: &'a mut [E],
    pub(crate) dd2: &'a mut [E],
    pub(crate) d_output: &'a mut [E],
    /// The KL divergence of each image.
    pub(crate) divergences: &'a mut [f64],
    /// The importance-weighted bound of each image.
    pub(crate) bounds: &'a mut [f64],
    /// -log p(x|z) of each row.
    pub(crate) losses: &'a mut [f64],
    /// log p(z) - log q(z|x) of each row.
    pub(crate) ratios: &'a mut [f64],
}

impl<E: Element> Memory<E> {
    /// Empty memory, which [`Memory::reserve`] or the first batch allocates.
    pub(crate) fn new(network: &Network, samples: usize) -> Self {
        let Network { pixels, hidden, latent, .. } = *network;
        let sizes = Sizes { pixels, hidden, latent };
        Self {
            sizes,
            samples,
            floats: Scratch::new(sizes.floats(samples)),
            factors: Scratch::new(sizes.factors(samples)),
            sums: Scratch::new(Sizes::sums(samples)),
        }
    }

    pub(crate) fn reserve(&mut self, images: usize) -> Result<(), ModelError> {
        self.floats.reserve(images)?;
        self.factors.reserve(images)?;
        self.sums.reserve(images)
    }

    /// The vectors of a batch, with their old content.
    pub(crate) fn work(&mut self, images: usize) -> Work<'_, E> {
        let [noise, y, stats, deviation, dz, weights] = self.floats.slices(images);
        let [x, e1, e2, de1, de2, d_stats, z, d1, d2, dd1, dd2, d_output] =
            self.factors.slices(images);
        let [divergences, bounds, losses, ratios] = self.sums.slices(images);
        Work {
            images,
            samples: self.samples,
            sizes: self.sizes,
            noise,
            y,
            stats,
            deviation,
            dz,
            weights,
            x,
            e1,
            e2,
            de1,
            de2,
            d_stats,
            z,
            d1,
            d2,
            dd1,
            dd2,
            d_output,
            divergences,
            bounds,
            losses,
            ratios,
        }
    }
}

impl<'a, E> Work<'a, E> {
    /// The first images with another number of rows per image. The vectors must have enough rows.
    pub(crate) fn regroup(mut self, images: usize, samples: usize) -> Self {
        self.samples = samples;
        self.take(images)
    }

    /// Divides the images into blocks; returns the index of the first image and the vectors of each block. A block has at
    /// most about an equal share of the images, so that each thread has work.
    pub(crate) fn blocks(mut self, threads: usize) -> impl Iterator<Item = (usize, Work<'a, E>)> {
        let share = self.images.div_ceil(threads).next_multiple_of(BLOCK_STEP);
        let (mut first, most) = (0, share.min(BLOCK_IMAGES));
        iter::from_fn(move || {
            // A rest of fewer than `BLOCK_STEP` images joins the last block.
            let images = if self.images < most + BLOCK_STEP { self.images } else { most };
            let block = (images > 0).then(|| (first, self.take(images)));
            first += images;
            block
        })
    }

    /// Splits off the first images.
    fn take(&mut self, images: usize) -> Self {
        let of_all = |len: usize| images * len;
        let [noise, y, stats, deviation, dz, weights] = self.sizes.floats(self.samples).map(of_all);
        let [x, e1, e2, de1, de2, d_stats, z, d1, d2, dd1, dd2, d_output] =
            self.sizes.factors(self.samples).map(of_all);
        let [divergences, bounds, losses, ratios] = Sizes::sums(self.samples).map(of_all);
        let block = Self {
            images,
            samples: self.samples,
            sizes: self.sizes,
            noise: front(&mut self.noise, noise),
            y: front(&mut self.y, y),
            stats: front(&mut self.stats, stats),
            deviation: front(&mut self.deviation, deviation),
            dz: front(&mut self.dz, dz),
            weights: front(&mut self.weights, weights),
            x: front(&mut self.x, x),
            e1: front(&mut self.e1, e1),
            e2: front(&mut self.e2, e2),
            de1: front(&mut self.de1, de1),
            de2: front(&mut self.de2, de2),
            d_stats: front(&mut self.d_stats, d_stats),
            z: front(&mut self.z, z),
            d1: front(&mut self.d1, d1),
            d2: front(&mut self.d2, d2),
            dd1: front(&mut self.dd1, dd1),
            dd2: front(&mut self.dd2, dd2),
            d_output: front(&mut self.d_output, d_output),
            divergences: front(&mut self.divergences, divergences),
            bounds: front(&mut self.bounds, bounds),
            losses: front(&mut self.losses, losses),
            ratios: front(&mut self.ratios, ratios),
        };
        self.images -= images.min(self.images);
        block
    }
}

fn front<'a, T>(whole: &mut &'a mut [T], len: usize) -> &'a mut [T] {
    let (front, rest) = mem::take(whole).split_at_mut(len);
    *whole = rest;
    front
}
