//! The picture of an epoch: test images above their reconstructions, and images decoded from
//! the prior.

use anyhow::Result;
use data::{Batch, Domain, Stream};
use images::Images;
use model::{Isa, noise};
use picture::{Canvas, Tile, WHITE};
use vae::Vae;

const COLUMNS: usize = 10;
/// Rows of images decoded from the prior.
const PRIOR_ROWS: usize = 8;
/// The most images that go through the network at a time.
pub(crate) const IMAGES_MAX: usize = COLUMNS * PRIOR_ROWS;
/// Pixels of a side of an image in the picture, about.
const SIDE: usize = 56;
/// White pixels, before zooming, between the test rows and the prior rows.
const GAP: usize = 4;

/// The test images that every picture shows: the first of each class, as far as there is room, or
/// the first of a set without labels.
#[derive(Debug)]
pub(crate) struct Gallery {
    images: Images,
    indices: Vec<u32>,
}

impl Gallery {
    /// Chooses from the test images; where there are too few, the picture shows fewer.
    pub(crate) fn new(test: &Images) -> Result<Self> {
        let count = u32::try_from(test.len()).unwrap_or(u32::MAX);
        let first = |class: u32| (0..count).find(|index| test.label(*index) == Some(class));
        let chosen: Vec<u32> = if test.is_labelled() {
            (0..test.label_count()).filter_map(first).take(COLUMNS).collect()
        } else {
            (0..count).take(COLUMNS).collect()
        };
        let pixels = chosen.iter().flat_map(|index| test.image(*index)).copied().collect();
        let indices = (0..).take(chosen.len()).collect();
        Ok(Self { images: Images::new(test.shape(), pixels, Vec::new())?, indices })
    }

    /// Draws the picture for these parameters. The latents depend on the seed alone, so that
    /// the pictures of a run can be compared.
    pub(crate) fn draw(&self, vae: &mut Vae, parameters: &[f32], seed: u64) -> Canvas {
        let batch = Batch::of(&self.images, &self.indices);
        let mut originals = vec![0.0; batch.len() * vae.pixels()];
        batch.data.gather_pixels(batch.indices, &mut originals);
        let mut reconstructions = vec![0.0; batch.len() * vae.pixels()];
        let stream = Stream::new(seed, Domain::Sample, 0, 0);
        vae.reconstruct(parameters, &batch, stream, &mut reconstructions);

        let count = COLUMNS * PRIOR_ROWS;
        let mut latents = vec![0.0; count * vae.latent_dim()];
        noise::normals(Isa::best(), Stream::new(seed, Domain::Sample, 1, 0), &mut latents);
        let mut prior = vec![0.0; count * vae.pixels()];
        vae.decode(parameters, &latents, &mut prior);

        let shape = self.images.shape();
        let [height, width, channels] =
            [shape.height, shape.width, shape.channels].map(|size| size as usize);
        let tile = Tile { height, width, channels };
        let zoom = tile.zoom(SIDE);
        let rows = ((2 + PRIOR_ROWS) * height + GAP) * zoom;
        let mut canvas = Canvas::new(COLUMNS * width * zoom, rows, WHITE);
        canvas.images(0, 0, zoom, COLUMNS, tile, &originals);
        canvas.images(0, height * zoom, zoom, COLUMNS, tile, &reconstructions);
        canvas.images(0, (2 * height + GAP) * zoom, zoom, COLUMNS, tile, &prior);
        canvas
    }
}
