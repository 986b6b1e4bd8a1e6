//! A contact sheet: some images of a set side by side, so that a person sees what is read.

use image::{ImageFormat, RgbImage};

use crate::{ImagesError, Part, Source};

/// Images in a row, and rows.
const COLUMNS: u32 = 10;
const ROWS: u32 = 10;

/// Pixels that a side has at least on the sheet; small images are enlarged.
const SIDE_MIN: u32 = 48;

/// White pixels between images.
const GAP: u32 = 4;

/// Draws images from all over the part that is learned from, as PNG.
///
/// # Errors
/// An image that cannot be read.
pub fn draw(source: &Source) -> Result<Vec<u8>, ImagesError> {
    let shape = source.shape();
    let zoom = SIDE_MIN.div_ceil(shape.height.min(shape.width)).max(1);
    let (height, width) = (shape.height * zoom + GAP, shape.width * zoom + GAP);
    let count = source.count(Part::Train).unwrap_or_default();
    let shown = count.min(u64::from(COLUMNS * ROWS));
    let rows = (shown as u32).div_ceil(COLUMNS).max(1);
    let mut sheet = RgbImage::new(COLUMNS * width + GAP, rows * height + GAP);
    sheet.as_flat_samples_mut().samples.fill(u8::MAX);
    let (mut index, mut drawn) = (0, 0);
    source.each(Part::Train, &mut |example| {
        // As many as are shown, at even distances.
        if drawn < shown && index * shown >= drawn * count {
            let place = drawn as u32;
            let (left, top) = (place % COLUMNS * width + GAP, place / COLUMNS * height + GAP);
            for y in 0..shape.height * zoom {
                for x in 0..shape.width * zoom {
                    let at = ((y / zoom * shape.width + x / zoom) * shape.channels) as usize;
                    let pixel = &example.pixels[at..at + shape.channels as usize];
                    let rgb = [pixel[0], pixel[pixel.len() / 2], pixel[pixel.len() - 1]];
                    sheet.put_pixel(left + x, top + y, image::Rgb(rgb));
                }
            }
            drawn += 1;
        }
        index += 1;
        Ok(())
    })?;
    let mut bytes = std::io::Cursor::new(Vec::new());
    sheet
        .write_to(&mut bytes, ImageFormat::Png)
        .map_err(|error| ImagesError::file(source.path(), format!("no contact sheet: {error}")))?;
    Ok(bytes.into_inner())
}
