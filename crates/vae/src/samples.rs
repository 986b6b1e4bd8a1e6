//! The picture of an epoch: test images above their reconstructions, and below them images decoded from
//! the prior.

use data::{Batch, Domain, Pass, Stream};
use images::Images;
use model::{Isa, noise};
use picture::{Canvas, Tile, WHITE};
use trainer::{Artifacts, task::Error};
use vae_options::Binarize;

use crate::Codec;

const COLUMNS: usize = 10;
/// Rows of images decoded from the prior.
const PRIOR_ROWS: usize = 8;
/// The most images that go through the network together.
const IMAGES_MAX: usize = COLUMNS * PRIOR_ROWS;
/// The approximate side of an image in the picture, in pixels.
const SIDE: usize = 56;
/// White pixels, before zooming, between the test rows and the prior rows.
const GAP: usize = 4;

/// Draws the picture. The latents depend on the seed alone, so that the pictures of a run can be
/// compared.
pub(crate) fn draw(
    codec: &mut dyn Codec,
    binarize: Binarize,
    context: &Artifacts<'_, Images>,
) -> Result<Canvas, Error> {
    let Artifacts { parameters, seed, .. } = *context;
    codec.reserve(IMAGES_MAX)?;
    let images = chosen(context.test, binarize, seed)?;
    let indices: Vec<u32> = (0..).take(images.len()).collect();
    let batch = Batch::of(&images, &indices);
    let mut originals = vec![0.0; batch.len() * codec.pixels()];
    images.gather_pixels(&indices, &mut originals);
    let mut reconstructions = vec![0.0; batch.len() * codec.pixels()];
    let stream = Stream::new(seed, Domain::Sample, 0, 0);
    codec.reconstruct(parameters, &batch, stream, &mut reconstructions)?;

    let count = COLUMNS * PRIOR_ROWS;
    let mut latents = vec![0.0; count * codec.latent_dim()];
    noise::normals(Isa::best(), Stream::new(seed, Domain::Sample, 1, 0), &mut latents);
    let mut prior = vec![0.0; count * codec.pixels()];
    codec.decode(parameters, &latents, &mut prior)?;

    let shape = images.shape();
    let [height, width, channels] =
        [shape.height, shape.width, shape.channels].map(|size| size as usize);
    let tile = Tile { height, width, channels };
    let zoom = tile.zoom(SIDE);
    let rows = ((2 + PRIOR_ROWS) * height + GAP) * zoom;
    let mut canvas = Canvas::new(COLUMNS * width * zoom, rows, WHITE);
    canvas.images(0, 0, zoom, COLUMNS, tile, &originals);
    canvas.images(0, height * zoom, zoom, COLUMNS, tile, &reconstructions);
    canvas.images(0, (2 * height + GAP) * zoom, zoom, COLUMNS, tile, &prior);
    Ok(canvas)
}

/// The test images that every picture shows, as the model sees them: the first image of each class, as far
/// as they fit, or the first images of a set without labels. If there are too few, the picture
/// shows fewer.
fn chosen(test: &Images, binarize: Binarize, seed: u64) -> Result<Images, Error> {
    let count = u32::try_from(test.len()).unwrap_or(u32::MAX);
    let first = |class: u32| (0..count).find(|index| test.label(*index) == Some(class));
    let indices: Vec<u32> = if test.is_labelled() {
        (0..test.label_count()).filter_map(first).take(COLUMNS).collect()
    } else {
        (0..count).take(COLUMNS).collect()
    };
    let bytes = test.shape().bytes();
    let mut pixels = vec![0; indices.len() * bytes];
    for (index, image) in indices.iter().zip(pixels.chunks_exact_mut(bytes)) {
        match binarize {
            Binarize::None => image.copy_from_slice(test.image(*index)),
            Binarize::Dynamic => test.binarize(*index, Pass::test(seed), image),
        }
    }
    Ok(Images::new(test.shape(), pixels, Vec::new())?)
}
