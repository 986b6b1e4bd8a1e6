//! The element type of factors of matrix products: f32 or bf16. The passes over a batch are
//! written once for both; results of products are f32 with either.

use std::fmt;

use data::Batch;
use images::Images;
use vae_options::Binarize;

use model::{
    Isa, Team,
    bf16::{self, Bf16},
    gemm::Factor,
    kernel,
};

/// The value of a white pixel.
const WHITE: f32 = 255.0;

/// Numbers that are drawn together; a whole number of blocks of a stream.
const PIECE: usize = 1024;

/// Numbers that a thread rounds together.
const PART: usize = 1 << 16;

/// Images of a set that [`is_sparse`] inspects.
const IMAGES_LOOKED_AT: usize = 64;

/// An element of a factor.
pub(crate) trait Element: Factor + Default + fmt::Debug {
    /// The factor that turns a stored pixel into one from 0 to 1.
    const PIXEL_SCALE: f32;

    /// The nearest number of this type.
    fn round(value: f32) -> Self;

    /// The same number as f32.
    fn widen(self) -> f32;

    /// The pixel, from 0 to 1, that this number stores.
    fn pixel(self) -> f32;

    /// Stores the pixels of one image.
    fn store_greys(isa: Isa, greys: &[u8], out: &mut [Self]);

    /// Stores pixels from 0 to 1.
    fn store_pixels(isa: Isa, pixels: &[f32], out: &mut [Self]);

    /// The parameters as factors. If they must be rounded, they are written to `memory`, which has the same
    /// length.
    fn weights<'a>(
        isa: Isa,
        team: &Team,
        parameters: &'a [f32],
        memory: &'a mut [Self],
    ) -> &'a [Self];

    /// Whether [`Element::weights`] uses its memory.
    const ROUNDS: bool;
}

/// Whether most pixels are zero, judged by the first images of the set.
pub(crate) fn is_sparse(images: &Images) -> bool {
    let first = 0..images.len().min(IMAGES_LOOKED_AT) as u32;
    let (mut zeros, mut pixels) = (0, 0);
    for index in first {
        let image = images.image(index);
        zeros += image.iter().filter(|pixel| **pixel == 0).count();
        pixels += image.len();
    }
    2 * zeros > pixels
}

/// Calls `store` with the images of the batch piece by piece, as drawn for this pass, and with
/// the slices of `out` for them.
pub(crate) fn gather_rows<T>(
    batch: &Batch<'_, Images>,
    binarize: Binarize,
    out: &mut [T],
    mut store: impl FnMut(&[u8], &mut [T]),
) {
    let pixels = batch.data.shape().bytes();
    assert_eq!(out.len(), batch.len() * pixels, "{pixels} numbers an image");
    let mut drawn = [0; PIECE];
    for (row, index) in out.chunks_exact_mut(pixels).zip(batch.indices) {
        if binarize == Binarize::None {
            store(batch.data.image(*index), row);
            continue;
        }
        for (piece, row) in row.chunks_mut(PIECE).enumerate() {
            let drawn = &mut drawn[..row.len()];
            batch.data.binarize_from(*index, batch.pass, piece * PIECE, drawn);
            store(drawn, row);
        }
    }
}

/// Writes the batch's pixels, as drawn for this pass, in the form of the element type.
pub(crate) fn gather<E: Element>(
    isa: Isa,
    batch: &Batch<'_, Images>,
    binarize: Binarize,
    out: &mut [E],
) {
    gather_rows(batch, binarize, out, |greys, row| E::store_greys(isa, greys, row));
}

/// Writes the batch's pixels from 0 to 1, as drawn for this pass, one row for each image.
///
/// # Panics
///
/// If the length does not fit.
pub fn gather_pixels(batch: &Batch<'_, Images>, binarize: Binarize, out: &mut [f32]) {
    gather::<f32>(Isa::best(), batch, binarize, out);
}

kernel! {
    /// grey / 255, rounded once: the product with the reciprocal, plus a correction. A division would take
    /// many times longer.
    fn unit_pixels(greys: &[u8], out: &mut [f32]) {
        for (out, grey) in out.iter_mut().zip(greys) {
            let grey = f32::from(*grey);
            let near = grey * (1.0 / WHITE);
            *out = (-near).mul_add(WHITE, grey).mul_add(1.0 / WHITE, near);
        }
    }
}

impl Element for f32 {
    const PIXEL_SCALE: f32 = 1.0;
    const ROUNDS: bool = false;

    #[inline(always)]
    fn round(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn pixel(self) -> f32 {
        self
    }

    fn store_greys(isa: Isa, greys: &[u8], out: &mut [Self]) {
        unit_pixels(isa, greys, out);
    }

    fn store_pixels(_: Isa, pixels: &[f32], out: &mut [Self]) {
        out.copy_from_slice(pixels);
    }

    fn weights<'a>(_: Isa, _: &Team, parameters: &'a [f32], _: &'a mut [Self]) -> &'a [Self] {
        parameters
    }
}

/// Pixels are stored as 0 to 255, which bf16 represents exactly.
impl Element for Bf16 {
    const PIXEL_SCALE: f32 = 1.0 / WHITE;
    const ROUNDS: bool = true;

    #[inline(always)]
    fn round(value: f32) -> Self {
        Self::from_f32(value)
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    fn pixel(self) -> f32 {
        self.to_f32() / WHITE
    }

    fn store_greys(isa: Isa, greys: &[u8], out: &mut [Self]) {
        bf16::from_bytes(isa, greys, out);
    }

    fn store_pixels(isa: Isa, pixels: &[f32], out: &mut [Self]) {
        assert_eq!(out.len(), pixels.len(), "as many numbers as pixels");
        bf16::round_scaled(isa, pixels, WHITE, out);
    }

    fn weights<'a>(
        isa: Isa,
        team: &Team,
        parameters: &'a [f32],
        memory: &'a mut [Self],
    ) -> &'a [Self] {
        assert_eq!(parameters.len(), memory.len(), "as many numbers as parameters");
        let parts = parameters.chunks(PART).zip(memory.chunks_mut(PART));
        team.each(parts, |(from, to)| bf16::round(isa, from, to));
        memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_grey_is_divided_exactly() {
        let greys: Vec<u8> = (0..=u8::MAX).collect();
        for isa in Isa::available() {
            let mut found = vec![f32::NAN; greys.len()];
            unit_pixels(isa, &greys, &mut found);
            for (grey, found) in greys.iter().zip(found) {
                assert_eq!(found.to_bits(), (f32::from(*grey) / WHITE).to_bits(), "{grey}");
            }
        }
    }
}
