//! Canvases as bytes of image files.

use std::io::ErrorKind;

use gif::{Encoder, EncodingError, Frame, Repeat};

use crate::Canvas;

/// What every PNG file of this crate holds near its beginning, and hardly any other: a note that names its program.
pub const MARK: &[u8] = b"tEXtSoftware\0Lockstep";

/// The palette of an animation: greys, of which a GIF can have 256.
fn greys() -> Vec<u8> {
    (0..=u8::MAX).flat_map(|grey| [grey; 3]).collect()
}

impl Canvas {
    /// The picture as PNG, grey where it has no colour.
    ///
    /// # Errors
    /// Only for a picture that the format cannot hold: one without pixels.
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

/// An animation in greys of canvases of one size, each shown for as many hundredths of a
/// second as stands beside it, over and over.
///
/// # Errors
/// Sizes that the format cannot hold, or that differ.
pub fn gif(frames: &[(Canvas, u16)]) -> Result<Vec<u8>, EncodingError> {
    let side = |pixels: usize| {
        u16::try_from(pixels).map_err(|_| EncodingError::Io(ErrorKind::InvalidInput.into()))
    };
    let (width, height) = match frames {
        [(first, _), ..] => (side(first.width())?, side(first.height())?),
        [] => (1, 1),
    };
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, width, height, &greys())?;
    encoder.set_repeat(Repeat::Infinite)?;
    for (canvas, hundredths) in frames {
        let levels: Vec<u8> = canvas.pixels.iter().map(|[level, ..]| *level).collect();
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
