//! The kernels' parameters: a line of the table has those that change from step to step, and `Shape` has the
//! sizes, which do not change. `step.cuh` declares both too.

use data::{Domain, Pass, Stream};

use crate::network::Network;

/// Words of a line, as `Step` in `step.cuh` has them.
pub(super) const LINE_WORDS: usize = 24;

/// A line of the table: one step, or one batch of an evaluation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    /// The stream of normals of the first group.
    pub(super) noise: Stream,
    /// The difference between the streams of a group and of the next one.
    pub(super) noise_stride: u32,
    /// The key of what is drawn for the images.
    pub(super) pass: Pass,
    /// The position in the order where the first group begins, and the one where the last group ends.
    pub(super) positions: (u32, u32),
    pub(super) beta: f64,
    /// The optimizer's factors ([`model::Update::numbers`]), where the GPU applies the update.
    pub(super) update: Option<[f32; 7]>,
}

impl Line {
    /// No image, and no update.
    pub(super) fn of_nothing() -> Self {
        Self {
            noise: Stream::new(0, Domain::Noise, 0, 0),
            noise_stride: 0,
            pass: Pass::test(0),
            positions: (0, 0),
            beta: 0.0,
            update: None,
        }
    }

    /// The line as the GPU reads it.
    pub(super) fn words(&self) -> [u32; LINE_WORDS] {
        let ([noise_key0, noise_key1], [_, noise_b, noise_low, noise_high]) =
            (self.noise.key(), self.noise.counter());
        // The kernel adds an image's index to the mark.
        let pass = self.pass.stream(0);
        let ([pass_key0, pass_key1], [_, pass_mark, pass_low, pass_high]) =
            (pass.key(), pass.counter());
        let beta = self.beta.to_bits();
        let mut words = [0; LINE_WORDS];
        words[..16].copy_from_slice(&[
            noise_key0,
            noise_key1,
            noise_b,
            self.noise_stride,
            noise_low,
            noise_high,
            pass_key0,
            pass_key1,
            pass_mark,
            pass_low,
            pass_high,
            self.positions.0,
            self.positions.1,
            0,
            beta as u32,
            (beta >> 32) as u32,
        ]);
        for (word, number) in words[16..].iter_mut().zip(self.update.unwrap_or_default()) {
            *word = number.to_bits();
        }
        words
    }
}

/// Sizes of a step's vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Images of a group, at the most.
    pub(super) batch: usize,
    pub(super) groups: usize,
    /// Rows of an image from z on.
    pub(super) samples: usize,
    pub(super) pixels: usize,
    pub(super) hidden: usize,
    pub(super) latent: usize,
}

impl Shape {
    /// Of a batch that is one group.
    pub(super) const fn of(network: &Network, images: usize, samples: usize) -> Self {
        let Network { pixels, hidden, latent, .. } = *network;
        Self { batch: images, groups: 1, samples, pixels, hidden, latent }
    }

    /// Rows up to the latents, and from there on.
    pub(super) const fn images(&self) -> usize {
        self.batch * self.groups
    }

    pub(super) const fn rows(&self) -> usize {
        self.images() * self.samples
    }

    pub(super) const fn words(&self) -> [u32; 6] {
        let Self { batch, groups, samples, pixels, hidden, latent } = *self;
        [batch as u32, groups as u32, samples as u32, pixels as u32, hidden as u32, latent as u32]
    }
}
