//! Encodes canvases as image files, in memory.

use std::io::ErrorKind;

use gif::{Encoder, EncodingError, Frame, Repeat};

use crate::{Canvas, Colour};

/// Bytes near the beginning of every PNG file of this crate: a note that names the program. Other files rarely have it.
pub const MARK: &[u8] = b"tEXtSoftware\0Lockstep";

/// Steps of red, green and blue in the palette of an animation with colours.
const STEPS: [u16; 3] = [6, 7, 6];

/// The colours of an animation, at most 256 as in every GIF: greys, or steps of red, green and blue.
fn palette(is_grey: bool) -> Vec<u8> {
    if is_grey {
        return (0..=u8::MAX).flat_map(|grey| [grey; 3]).collect();
    }
    let [reds, greens, blues] = STEPS;
    let level = |step: u16, steps: u16| (step * 255 / (steps - 1)) as u8;
    let colour = |at: u16| {
        let (red, green, blue) = (at / (greens * blues), at / blues % greens, at % blues);
        [level(red, reds), level(green, greens), level(blue, blues)]
    };
    (0..reds * greens * blues).flat_map(colour).collect()
}

/// The index of the nearest colour in the palette.
fn place(is_grey: bool, colour: Colour) -> u8 {
    if is_grey {
        return colour[0];
    }
    let mut place = 0;
    for (level, steps) in colour.into_iter().zip(STEPS) {
        place = place * steps + (u16::from(level) * (steps - 1) + 127) / 255;
    }
    place as u8
}

impl Canvas {
    /// The picture as PNG; in greyscale if it has no colour.
    ///
    /// # Errors
    /// The format cannot hold the picture, because it has no pixels.
    pub fn png(&self) -> Result<Vec<u8>, png::EncodingError> {
        let side = |pixels| u32::try_from(pixels).unwrap_or(u32::MAX);
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, side(self.width()), side(self.height()));
        let grey = self.pixels.iter().all(|[red, green, blue]| red == green && green == blue);
        encoder.set_color(if grey { png::ColorType::Grayscale } else { png::ColorType::Rgb });
        encoder.add_text_chunk("Software".into(), "Lockstep".into())?;
        let mut writer = encoder.write_header()?;
        if grey {
            let levels: Vec<u8> = self.pixels.iter().map(|[level, ..]| *level).collect();
            writer.write_image_data(&levels)?;
        } else {
            writer.write_image_data(self.pixels.as_flattened())?;
        }
        writer.finish()?;
        Ok(bytes)
    }
}

/// An animation of canvases of one size, in greys or few colours, that repeats without end. Each canvas is shown for
/// the given time in hundredths of a second.
///
/// # Errors
/// The format cannot hold the size, or the sizes differ.
pub fn gif(frames: &[(Canvas, u16)]) -> Result<Vec<u8>, EncodingError> {
    let side = |pixels: usize| {
        u16::try_from(pixels).map_err(|_| EncodingError::Io(ErrorKind::InvalidInput.into()))
    };
    let (width, height) = match frames {
        [(first, _), ..] => (side(first.width())?, side(first.height())?),
        [] => (1, 1),
    };
    let mut bytes = Vec::new();
    let is_plain = |[red, green, blue]: &Colour| red == green && green == blue;
    let is_grey = frames.iter().all(|(canvas, _)| canvas.pixels.iter().all(is_plain));
    let mut encoder = Encoder::new(&mut bytes, width, height, &palette(is_grey))?;
    encoder.set_repeat(Repeat::Infinite)?;
    for (canvas, hundredths) in frames {
        let levels: Vec<u8> = canvas.pixels.iter().map(|colour| place(is_grey, *colour)).collect();
        let mut frame = Frame { width, height, delay: *hundredths, ..Frame::default() };
        frame.buffer = levels.into();
        encoder.write_frame(&frame)?;
    }
    drop(encoder);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CLASSES, WHITE};

    #[test]
    fn pictures_read_back_in_grey_or_colour() {
        for (colour, kind) in
            [(WHITE, png::ColorType::Grayscale), (CLASSES[0], png::ColorType::Rgb)]
        {
            let canvas = Canvas::new(5, 3, colour);
            let bytes = canvas.png().unwrap();
            assert!(bytes.windows(MARK.len()).any(|window| window == MARK));
            let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
            let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
            let info = reader.next_frame(&mut pixels).unwrap();
            assert_eq!((info.width, info.height, info.color_type), (5, 3, kind));
            assert_eq!(pixels[0], colour[0]);
        }
    }

    #[test]
    fn colours_of_an_animation_are_near() {
        let palette = palette(false);
        for colour in [[0, 0, 0], [255, 255, 255], [255, 0, 10], [100, 200, 50], [17, 119, 51]] {
            let at = 3 * usize::from(place(false, colour));
            for (level, found) in colour.into_iter().zip(&palette[at..at + 3]) {
                assert!(level.abs_diff(*found) <= 26, "{colour:?} {found}");
            }
        }
    }

    #[test]
    fn an_animation_has_its_frames() {
        let frames = [(Canvas::new(4, 4, WHITE), 10), (Canvas::new(4, 4, [0; 3]), 20)];
        let bytes = gif(&frames).unwrap();
        let mut reader = gif::DecodeOptions::new().read_info(&bytes[..]).unwrap();
        let first = reader.read_next_frame().unwrap().unwrap();
        assert_eq!((first.delay, first.buffer[0]), (10, 255));
        let second = reader.read_next_frame().unwrap().unwrap();
        assert_eq!((second.delay, second.buffer[0]), (20, 0));
        assert!(reader.read_next_frame().unwrap().is_none());
    }
}
