//! The picture of an epoch: test images above their reconstructions, and images decoded from
//! the prior.

use std::{
    fs::{self, File},
    io::BufWriter,
    path::Path,
};

use anyhow::{Context as _, Result};
use data::{Batch, Domain, Images, PIXELS, Stream};
use model::{Isa, Vae, noise};

const SIDE: usize = 28;
const COLUMNS: usize = 10;
/// Rows of images decoded from the prior.
const PRIOR_ROWS: usize = 8;
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

/// A grey picture.
#[derive(Debug)]
pub(crate) struct Picture {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Gallery {
    /// Chooses from the test images; where there are too few, the picture shows fewer.
    pub(crate) fn new(test: &Images) -> Result<Self> {
        let count = u32::try_from(test.len()).unwrap_or(u32::MAX);
        let first = |digit: u8| (0..count).find(|index| test.label(*index) == digit);
        let chosen: Vec<u32> = (0..=9).filter_map(first).collect();
        let pixels = chosen.iter().flat_map(|index| test.image(*index)).copied().collect();
        let labels = chosen.iter().map(|index| test.label(*index)).collect();
        let indices = (0..).take(chosen.len()).collect();
        Ok(Self { images: Images::new(pixels, labels)?, indices })
    }

    /// Draws the picture for these parameters. The latents depend on the seed alone, so that
    /// the pictures of a run can be compared.
    pub(crate) fn draw(&self, vae: &mut Vae, parameters: &[f32], seed: u64) -> Picture {
        let batch = Batch { images: &self.images, indices: &self.indices };
        let mut originals = vec![0.0; batch.len() * PIXELS];
        batch.gather_pixels(&mut originals);
        let mut reconstructions = vec![0.0; batch.len() * PIXELS];
        let stream = Stream::new(seed, Domain::Sample, 0, 0);
        vae.reconstruct(parameters, &batch, stream, &mut reconstructions);

        let count = COLUMNS * PRIOR_ROWS;
        let mut latents = vec![0.0; count * vae.latent_dim()];
        noise::normals(Isa::best(), Stream::new(seed, Domain::Sample, 1, 0), &mut latents);
        let mut prior = vec![0.0; count * PIXELS];
        vae.decode(parameters, &latents, &mut prior);

        let mut picture =
            Picture::white(COLUMNS * SIDE * ZOOM, ((2 + PRIOR_ROWS) * SIDE + GAP) * ZOOM);
        picture.put_rows(0, &originals);
        picture.put_rows(SIDE, &reconstructions);
        picture.put_rows(2 * SIDE + GAP, &prior);
        picture
    }
}

impl Picture {
    fn white(width: usize, height: usize) -> Self {
        Self { width, height, pixels: vec![u8::MAX; width * height] }
    }

    /// Puts images, `[n, 784]` from 0 to 1, in rows from `top` (before zooming) on.
    fn put_rows(&mut self, top: usize, images: &[f32]) {
        for (index, image) in images.chunks_exact(PIXELS).enumerate() {
            let (row, column) = (index / COLUMNS, index % COLUMNS);
            for (place, value) in image.iter().enumerate() {
                let (y, x) = (place / SIDE, place % SIDE);
                let grey = (value.clamp(0.0, 1.0) * 255.0).round() as u8;
                self.put(column * SIDE + x, top + row * SIDE + y, grey);
            }
        }
    }

    fn put(&mut self, x: usize, y: usize, grey: u8) {
        for line in y * ZOOM..(y + 1) * ZOOM {
            let start = line * self.width + x * ZOOM;
            self.pixels[start..start + ZOOM].fill(grey);
        }
    }

    /// Writes the picture as a PNG file, complete or not at all.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let beside = path.with_extension("png.tmp");
        self.encode(&beside)
            .and_then(|()| Ok(fs::rename(&beside, path)?))
            .inspect_err(|_| {
                // What is left of the attempt goes; the error says what happened.
                let _gone = fs::remove_file(&beside);
            })
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn encode(&self, path: &Path) -> Result<()> {
        let file = BufWriter::new(File::create(path)?);
        let (width, height) = (u32::try_from(self.width)?, u32::try_from(self.height)?);
        let mut encoder = png::Encoder::new(file, width, height);
        encoder.set_color(png::ColorType::Grayscale);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        writer.finish()?;
        Ok(())
    }
}
