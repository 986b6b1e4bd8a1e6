//! The picture of an epoch: test images above their reconstructions, and images decoded from
//! the prior.

use anyhow::Result;
use data::{Batch, Domain, Stream};
use images::{Images, PIXELS};
use model::{Isa, noise};
use picture::{Canvas, SIDE, WHITE};
use vae::Vae;

const COLUMNS: usize = 10;
/// Rows of images decoded from the prior.
const PRIOR_ROWS: usize = 8;
/// The most images that go through the network at a time.
pub(crate) const IMAGES_MAX: usize = COLUMNS * PRIOR_ROWS;
/// Each pixel becomes a square of this many.
const ZOOM: usize = 2;
/// White pixels, before zooming, between the test rows and the prior rows.
const GAP: usize = 4;

/// The test images that every picture shows: the first of each digit.
#[derive(Debug)]
pub(crate) struct Gallery {
    images: Images,
    indices: Vec<u32>,
}

impl Gallery {
    /// Chooses from the test images; where there are too few, the picture shows fewer.
    pub(crate) fn new(test: &Images) -> Result<Self> {
        let count = u32::try_from(test.len()).unwrap_or(u32::MAX);
        let first = |digit: u32| (0..count).find(|index| test.label(*index) == Some(digit));
        let chosen: Vec<u32> = (0..=9).filter_map(first).collect();
        let pixels = chosen.iter().flat_map(|index| test.image(*index)).copied().collect();
        let indices = (0..).take(chosen.len()).collect();
        Ok(Self { images: Images::new(test.shape(), pixels, Vec::new())?, indices })
    }

    /// Draws the picture for these parameters. The latents depend on the seed alone, so that
    /// the pictures of a run can be compared.
    pub(crate) fn draw(&self, vae: &mut Vae, parameters: &[f32], seed: u64) -> Canvas {
        let batch = Batch::of(&self.images, &self.indices);
        let mut originals = vec![0.0; batch.len() * PIXELS];
        batch.data.gather_pixels(batch.indices, &mut originals);
        let mut reconstructions = vec![0.0; batch.len() * PIXELS];
        let stream = Stream::new(seed, Domain::Sample, 0, 0);
        vae.reconstruct(parameters, &batch, stream, &mut reconstructions);

        let count = COLUMNS * PRIOR_ROWS;
        let mut latents = vec![0.0; count * vae.latent_dim()];
        noise::normals(Isa::best(), Stream::new(seed, Domain::Sample, 1, 0), &mut latents);
        let mut prior = vec![0.0; count * PIXELS];
        vae.decode(parameters, &latents, &mut prior);

        let height = ((2 + PRIOR_ROWS) * SIDE + GAP) * ZOOM;
        let mut canvas = Canvas::new(COLUMNS * SIDE * ZOOM, height, WHITE);
        canvas.digits(0, 0, ZOOM, COLUMNS, &originals);
        canvas.digits(0, SIDE * ZOOM, ZOOM, COLUMNS, &reconstructions);
        canvas.digits(0, (2 * SIDE + GAP) * ZOOM, ZOOM, COLUMNS, &prior);
        canvas
    }
}
