//! Converts one picture file to the bytes of an example.

use std::path::Path;

use image::{
    DynamicImage, GenericImageView as _, ImageDecoder as _, ImageReader, Limits, Rgba,
    imageops::FilterType,
};

use crate::{ImagesError, Shape};

/// The longest side in pixels of a picture that is opened.
const SIDE_MAX: u32 = 1 << 15;

/// The most memory in bytes that one picture may take.
const MEMORY_MAX: u64 = 1 << 30;

/// The file name extensions of pictures.
pub(crate) const ENDINGS: [&str; 3] = ["png", "jpg", "jpeg"];

/// What the header of a picture tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) height: u32,
    pub(crate) width: u32,
    pub(crate) has_colour: bool,
}

/// Reads a picture's header.
pub(crate) fn probe(path: &Path) -> Result<Probe, ImagesError> {
    let decoder = reader(path)?.into_decoder().map_err(|error| unreadable(path, &error))?;
    let (width, height) = decoder.dimensions();
    Ok(Probe { height, width, has_colour: decoder.color_type().has_color() })
}

/// Reads a PNG or JPEG file in the given shape: scaled until it covers the shape, then cropped equally on both sides.
/// Transparent pixels are blended with white.
///
/// # Errors
/// The file is not a picture, is truncated, or is too large. The error names the file.
pub fn read(path: &Path, shape: Shape) -> Result<Vec<u8>, ImagesError> {
    let mut decoder = reader(path)?.into_decoder().map_err(|error| unreadable(path, &error))?;
    let orientation = decoder.orientation().map_err(|error| unreadable(path, &error))?;
    let picture = DynamicImage::from_decoder(decoder).map_err(|error| unreadable(path, &error))?;
    let mut picture = opaque(picture);
    picture.apply_orientation(orientation);
    if picture.dimensions() != (shape.width, shape.height) {
        picture = picture.resize_to_fill(shape.width, shape.height, FilterType::Triangle);
    }
    Ok(if shape.channels == 1 {
        picture.into_luma8().into_raw()
    } else {
        picture.into_rgb8().into_raw()
    })
}

fn reader(path: &Path) -> Result<ImageReader<std::io::BufReader<std::fs::File>>, ImagesError> {
    let reader = ImageReader::open(path).map_err(ImagesError::io("open", path))?;
    // The format is recognised by the content, not by the name.
    let mut reader = reader.with_guessed_format().map_err(ImagesError::io("read", path))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(MEMORY_MAX);
    reader.limits(limits);
    Ok(reader)
}

/// Blends the picture with a white background.
fn opaque(picture: DynamicImage) -> DynamicImage {
    if !picture.color().has_alpha() {
        return picture;
    }
    let over_white = |level: u8, alpha: u8| {
        let (level, alpha) = (u32::from(level), u32::from(alpha));
        ((level * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    let mut pixels = picture.into_rgba8();
    for Rgba([red, green, blue, alpha]) in pixels.pixels_mut() {
        for level in [red, green, blue] {
            *level = over_white(*level, *alpha);
        }
        *alpha = u8::MAX;
    }
    pixels.into()
}

fn unreadable(path: &Path, error: &image::ImageError) -> ImagesError {
    ImagesError::file(path, format!("this picture cannot be read: {error}"))
}
