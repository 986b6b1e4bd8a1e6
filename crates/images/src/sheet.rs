//! A contact sheet: some images of a set side by side, so that a person can check what was read.

use std::io::Cursor;

use image::{ImageFormat, RgbImage};

use crate::{Images, ImagesError};

/// Images in a row, and the number of rows.
const COLUMNS: u32 = 10;
const ROWS: u32 = 10;

/// The smallest side of an image on the sheet, in pixels; smaller images are enlarged.
const SIDE_MIN: u32 = 48;

/// White pixels between two images.
const GAP: u32 = 4;

/// Draws images at even distances from the whole set, as PNG.
///
/// # Errors
/// PNG cannot hold the sheet.
pub fn draw(images: &Images) -> Result<Vec<u8>, ImagesError> {
    let shape = images.shape();
    let zoom = SIDE_MIN.div_ceil(shape.height.min(shape.width)).max(1);
    let (height, width) = (shape.height * zoom + GAP, shape.width * zoom + GAP);
    let count = images.len() as u64;
    let shown = count.min(u64::from(COLUMNS * ROWS)) as u32;
    let rows = shown.div_ceil(COLUMNS).max(1);
    let mut sheet = RgbImage::new(COLUMNS * width + GAP, rows * height + GAP);
    sheet.as_flat_samples_mut().samples.fill(u8::MAX);
    for place in 0..shown {
        let image = images.image((u64::from(place) * count / u64::from(shown)) as u32);
        let (left, top) = (place % COLUMNS * width + GAP, place / COLUMNS * height + GAP);
        for y in 0..shape.height * zoom {
            for x in 0..shape.width * zoom {
                let at = ((y / zoom * shape.width + x / zoom) * shape.channels) as usize;
                let pixel = &image[at..at + shape.channels as usize];
                let rgb = [pixel[0], pixel[pixel.len() / 2], pixel[pixel.len() - 1]];
                sheet.put_pixel(left + x, top + y, image::Rgb(rgb));
            }
        }
    }
    let mut bytes = Cursor::new(Vec::new());
    sheet.write_to(&mut bytes, ImageFormat::Png).map_err(ImagesError::Sheet)?;
    Ok(bytes.into_inner())
}
