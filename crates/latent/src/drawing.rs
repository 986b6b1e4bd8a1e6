//! Converts a person's own picture to the form of MNIST: a PNG or JPEG file of any size, a drawing or a
//! photograph of a digit. The background is subtracted (`ink.rs`); the digit is scaled to 20 x 20
//! pixels and centred by its mass in 28 x 28.
//!
//! Scaling and centring are as LeCun, Bottou, Bengio and Haffner describe them, "Gradient-based
//! learning applied to document recognition", 1998, section III.A. A picture of 28 x 28 on plain
//! black or white is taken as it is.

mod grey;
mod ink;

use std::{io::Cursor, path::Path};

use anyhow::{Context as _, Result, bail};
use image::{
    DynamicImage, GrayAlphaImage, ImageDecoder as _, ImageError, ImageFormat, ImageReader, Limits,
};

use grey::Grey;

use crate::input;

/// Pixels along a side of an MNIST image.
const SIDE: usize = 28;
const PIXELS: usize = SIDE * SIDE;
/// The longer side of a digit in its frame, in pixels.
const DIGIT: f64 = 20.0;
/// The most pixels of a picture; a larger one does not show a digit.
const PIXELS_MAX: u64 = 100 << 20;
/// The most bytes of a file that are read.
const FILE_BYTES_MAX: u64 = 512 << 20;
/// The most bytes that a decoder may take: three channels of 16 bits.
const DECODER_BYTES_MAX: u64 = 6 * PIXELS_MAX;
/// The longer side of a picture while it is processed, in pixels. A larger picture is shrunk.
const WORKING_SIDE: usize = 1024;
/// The least contrast; a picture with less is empty.
const CONTRAST_MIN: f32 = 0.1;

/// Reads a PNG or JPEG file as 784 grey levels, light on dark.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let shown = path.display();
    let image = decode(path).with_context(|| format!("cannot read the picture {shown}"))?;
    let is_opaque = image.pixels().all(|pixel| pixel.0[1] == u8::MAX);
    // Transparent pixels count as white paper; if all ink is white, as a blackboard.
    let digit =
        digit(&on(&image, 1.0)).or_else(|| if is_opaque { None } else { digit(&on(&image, 0.0)) });
    let levels = digit.with_context(|| {
        format!(
            "there is nothing on the picture {shown}: it is all of one colour, or nothing on it is \
             much darker or lighter than the rest"
        )
    })?;
    Ok(levels.into_iter().map(|level| (level.clamp(0.0, 1.0) * 255.0).round() as u8).collect())
}

fn digit(grey: &Grey) -> Option<Vec<f32>> {
    as_it_is(grey).or_else(|| ink::of(&grey.shrunk(WORKING_SIDE)).map(|ink| centre(&ink)))
}

fn decode(path: &Path) -> Result<GrayAlphaImage> {
    let bytes = input::read(path, FILE_BYTES_MAX)?;
    // The format is recognised by the content, not by the name.
    let mut reader = ImageReader::new(Cursor::new(&bytes[..])).with_guessed_format()?;
    let Some(format) = reader.format() else {
        bail!("it is neither PNG nor JPEG: save it as one of these");
    };
    if format == ImageFormat::Jpeg && is_cut_off(&bytes) {
        bail!("the file ends before the picture does: copy it anew");
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(DECODER_BYTES_MAX);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(explained)?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 || pixels > PIXELS_MAX {
        bail!("it has {width} x {height} pixels");
    }
    // Telephones record how they were held, and do not rotate the pixels.
    let orientation = decoder.orientation().map_err(explained)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(explained)?;
    image.apply_orientation(orientation);
    Ok(image.into_luma_alpha8())
}

/// The picture on paper of the given level, which shows where the picture is transparent.
fn on(image: &GrayAlphaImage, paper: f32) -> Grey {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let level = |[level, alpha]: &[u8; 2]| {
        let [level, alpha] = [level, alpha].map(|value| f32::from(*value) / 255.0);
        level.mul_add(alpha, paper * (1.0 - alpha))
    };
    let pixels = image.as_raw().as_chunks::<2>().0.iter().map(level).collect();
    Grey { width, height, pixels }
}

/// Whether a JPEG file ends in the middle of its picture. A decoder fills in the rest without an error.
fn is_cut_off(jpeg: &[u8]) -> bool {
    const END: [u8; 2] = [0xff, 0xd9];
    // Starts after the mark of the file. Segments before the first one with pixels tell their length, so they are
    // skipped: a thumbnail inside them has an end marker of its own.
    let mut at = 2;
    loop {
        match jpeg.get(at..) {
            Some([0xff, 0xff, ..]) => at += 1,
            Some([0xff, 0xda, pixels @ ..]) => return !pixels.windows(2).any(|pair| pair == END),
            Some([0xff, _, high, low, ..]) => {
                at += 2 + usize::from(u16::from_be_bytes([*high, *low]));
            }
            // The decoder reports what is wrong with such a file.
            _ => return false,
        }
    }
}

fn explained(error: ImageError) -> anyhow::Error {
    match error {
        ImageError::Unsupported(error) => {
            anyhow::anyhow!("save it as an ordinary PNG or JPEG file ({error})")
        }
        error => error.into(),
    }
}

/// The levels of a picture that has the size and the background of an MNIST image, or is the negative of one.
fn as_it_is(grey: &Grey) -> Option<Vec<f32>> {
    /// Levels up to this one count as black.
    const BLACK: f32 = 0.02;
    if (grey.width, grey.height) != (SIDE, SIDE) {
        return None;
    }
    let border = grey.border_median();
    let levels: Vec<f32> = match border {
        border if border <= BLACK => grey.pixels.clone(),
        border if border >= 1.0 - BLACK => grey.pixels.iter().map(|level| 1.0 - level).collect(),
        _ => return None,
    };
    levels.iter().any(|level| *level > CONTRAST_MIN).then_some(levels)
}

/// The digit, scaled and centred in its frame.
fn centre(ink: &Grey) -> Vec<f32> {
    let [left, right, top, bottom] = ink.bounds(CONTRAST_MIN).map(|bound| bound as f64);
    let scale = (right - left).max(bottom - top).max(1.0) / DIGIT;
    // The centre of mass of the ink, in pixels of the picture.
    let (mut mass, mut x_mass, mut y_mass) = (0.0, 0.0, 0.0);
    for y in top as usize..bottom as usize {
        for x in left as usize..right as usize {
            let level = f64::from(ink.at(x, y));
            mass += level;
            x_mass += level * (x as f64 + 0.5);
            y_mass += level * (y as f64 + 0.5);
        }
    }
    let middle = SIDE as f64 / 2.0;
    let (x_origin, y_origin) = (x_mass / mass - middle * scale, y_mass / mass - middle * scale);
    let mut digit: Vec<f32> = (0..PIXELS)
        .map(|place| {
            let (row, column) = ((place / SIDE) as f64, (place % SIDE) as f64);
            let span =
                |origin: f64, cell: f64| [origin + cell * scale, origin + (cell + 1.0) * scale];
            ink.mean(span(x_origin, column), span(y_origin, row)) as f32
        })
        .collect();
    // A thin stroke covers no pixel completely, but the strokes of MNIST are bright, so the levels are scaled.
    let brightest = digit.iter().copied().fold(0.0, f32::max);
    digit.iter_mut().for_each(|level| *level /= brightest.max(f32::MIN_POSITIVE));
    digit
}

#[cfg(test)]
mod tests {
    use image::{ExtendedColorType, ImageEncoder as _, codecs::jpeg::JpegEncoder};
    use picture::{Canvas, Colour};

    use super::*;

    fn written(name: &str, bytes: &[u8]) -> Result<Vec<u8>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join(name);
        std::fs::write(&path, bytes)?;
        read(&path)
    }

    fn png(canvas: &Canvas) -> Result<Vec<u8>> {
        written("digit.png", &canvas.png()?)
    }

    /// A bar of ink on paper, away from the centre of a large picture.
    fn bar(paper: Colour, ink: Colour) -> Canvas {
        let mut canvas = Canvas::new(300, 200, paper);
        canvas.fill(30, 20, 20, 100, ink);
        canvas
    }

    /// Checks the first and last row and column of the light pixels.
    #[track_caller]
    fn assert_is_the_bar(digit: &[u8]) {
        let inked: Vec<usize> = (0..PIXELS).filter(|place| digit[*place] > 128).collect();
        let (first, last) = (inked[0] / SIDE, inked[inked.len() - 1] / SIDE);
        let columns = || inked.iter().map(|place| place % SIDE);
        assert_eq!((first, last), (4, 23));
        assert_eq!((columns().min(), columns().max()), (Some(12), Some(15)));
        // The paper is black, not grey.
        let paper = (0..PIXELS).filter(|place| !(11..=16).contains(&(place % SIDE)));
        let lightest = paper.map(|place| digit[place]).max();
        assert!(lightest < Some(10), "{lightest:?}");
    }

    #[test]
    fn a_digit_is_scaled_to_20_pixels_and_centred() {
        for (paper, ink) in [
            ([255; 3], [0; 3]),
            ([0; 3], [255; 3]),
            ([250, 240, 255], [20, 0, 90]),
            // Ink on cream paper, pencil on grey paper, chalk on a blackboard.
            ([222, 205, 160], [60, 50, 70]),
            ([150; 3], [90; 3]),
            ([40, 60, 50], [180, 190, 185]),
        ] {
            assert_is_the_bar(&png(&bar(paper, ink)).unwrap());
        }
    }

    /// Paper that is lit from one corner, with camera noise.
    fn photograph(ink: bool) -> (u32, u32, Vec<u8>) {
        let (width, height) = (600, 400);
        let mut noise = 7_u32;
        let mut pixels = Vec::new();
        for y in 0..height {
            for x in 0..width {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let grain = (noise >> 24) as f32 / 255.0 * 10.0 - 5.0;
                let light = 1.0 - 0.5 * x as f32 / 600.0 - 0.25 * y as f32 / 400.0;
                let is_inked = ink && (60..100).contains(&x) && (40..240).contains(&y);
                let reflected = if is_inked { 0.25 } else { 1.0 };
                for paper in [235.0, 222.0, 180.0] {
                    pixels.push((paper * light * reflected + grain).clamp(0.0, 255.0) as u8);
                }
            }
        }
        (width, height, pixels)
    }

    fn jpeg((width, height, pixels): (u32, u32, Vec<u8>), exif: Option<Vec<u8>>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = JpegEncoder::new_with_quality(&mut bytes, 80);
        if let Some(exif) = exif {
            encoder.set_exif_metadata(exif).unwrap();
        }
        encoder.write_image(&pixels, width, height, ExtendedColorType::Rgb8).unwrap();
        bytes
    }

    #[test]
    fn a_photograph_loses_its_paper() {
        let bytes = jpeg(photograph(true), None);
        assert_is_the_bar(&written("photo.jpg", &bytes).unwrap());
        // The format is recognised by the content, not by the name.
        assert_is_the_bar(&written("photo.png", &bytes).unwrap());
    }

    #[test]
    fn a_photograph_is_turned_as_the_camera_was_held() {
        // One entry of TIFF: orientation (0x112) 6, a turn to the right by 90 degrees.
        let tiff = b"II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let (width, height, pixels) = photograph(true);
        let mut turned = vec![0; pixels.len()];
        for (place, pixel) in pixels.chunks_exact(3).enumerate() {
            let (x, y) = (place % width as usize, place / width as usize);
            // The pixels are stored turned to the left; the entry turns them to the right again.
            let (left, below) = (y, width as usize - 1 - x);
            turned[3 * (below * height as usize + left)..][..3].copy_from_slice(pixel);
        }
        let bytes = jpeg((height, width, turned), Some(tiff.to_vec()));
        assert_is_the_bar(&written("photo.jpg", &bytes).unwrap());
    }

    #[test]
    fn a_photograph_that_is_cut_off_is_no_picture() {
        let bytes = jpeg(photograph(true), None);
        for len in [bytes.len() - 2, bytes.len() / 2] {
            let error = format!("{:#}", written("photo.jpg", &bytes[..len]).unwrap_err());
            assert!(error.contains("ends before the picture does"), "{error}");
        }
        // Some telephones append a film to the picture.
        assert_is_the_bar(&written("photo.jpg", &[&bytes[..], b"film"].concat()).unwrap());
    }

    #[test]
    fn ink_on_nothing_is_seen_in_either_colour() {
        for level in [0, 255] {
            let mut image = GrayAlphaImage::from_pixel(300, 200, image::LumaA([level, 0]));
            for (x, y) in (20..120).flat_map(|y| (30..50).map(move |x| (x, y))) {
                image.put_pixel(x, y, image::LumaA([level, 255]));
            }
            let mut bytes = Vec::new();
            image.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).unwrap();
            assert_is_the_bar(&written("ink.png", &bytes).unwrap());
        }
    }

    #[test]
    fn dust_moves_no_digit() {
        let mut canvas = bar([240; 3], [30; 3]);
        for (x, y) in [(290, 190), (150, 5), (5, 180), (200, 100)] {
            canvas.fill(x, y, 3, 3, [60; 3]);
        }
        assert_is_the_bar(&png(&canvas).unwrap());
    }

    #[test]
    fn a_thin_stroke_is_bright() {
        let mut canvas = Canvas::new(800, 800, [255; 3]);
        canvas.fill(400, 100, 4, 600, [0; 3]);
        assert_eq!(png(&canvas).unwrap().into_iter().max(), Some(255));
    }

    #[test]
    fn a_picture_of_the_right_size_is_taken_as_it_is() {
        for (background, put, expected) in [(0, 77, 77), (255, 255 - 77, 77)] {
            let mut canvas = Canvas::new(SIDE, SIDE, [background; 3]);
            canvas.put(3, 2, [put; 3]);
            let digit = png(&canvas).unwrap();
            let sum: u32 = digit.iter().map(|level| u32::from(*level)).sum();
            assert_eq!((digit[2 * SIDE + 3], sum), (expected, u32::from(expected)));
        }
    }

    #[test]
    fn empty_pictures_have_one_answer() {
        for side in [1, 5, 28, 29, 100, 2000] {
            for level in [0, 1, 128, 254, 255] {
                let error = png(&Canvas::new(side, side, [level; 3])).unwrap_err().to_string();
                let expected = "digit.png: it is all of one colour, or nothing on it is much darker or \
                                lighter than the rest";
                assert!(
                    error.starts_with("there is nothing on the picture")
                        && error.ends_with(expected),
                    "{side} {level}: {error}"
                );
            }
        }
        let error = written("paper.jpg", &jpeg(photograph(false), None)).unwrap_err().to_string();
        assert!(error.starts_with("there is nothing on the picture"), "{error}");
    }

    #[test]
    fn what_is_no_picture_is_named() {
        for bytes in
            [&b"no picture"[..], b"", b"GIF89a\x01\0\x01\0", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"]
        {
            let error = format!("{:#}", written("text.png", bytes).unwrap_err());
            assert!(
                error.contains("cannot read the picture") && error.contains("text.png"),
                "{error}"
            );
        }
        let error = format!("{:#}", written("a.png", b"no picture").unwrap_err());
        assert!(error.ends_with("it is neither PNG nor JPEG: save it as one of these"), "{error}");
    }
}
