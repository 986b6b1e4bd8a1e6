//! A person's own picture made to look like MNIST: a PNG of any size, light on dark, scaled
//! into 20 x 20 pixels and centred by its mass in 28 x 28.
//!
//! As LeCun, Bottou, Bengio and Haffner describe it, "Gradient-based learning applied to
//! document recognition", 1998, section III.A. A picture of 28 x 28 is taken as it is.

use std::{fs::File, io::BufReader, path::Path};

use anyhow::{Context as _, Result, ensure};
use data::PIXELS;
use picture::SIDE;
use png::{ColorType, Transformations};

/// The larger side of a digit in its frame.
const DIGIT: f64 = 20.0;
/// A picture with more pixels is none of a digit.
const PIXELS_MAX: usize = 100 << 20;

/// A grey picture, 0 dark to 1 light.
#[derive(Clone, Debug)]
struct Grey {
    width: usize,
    height: usize,
    pixels: Vec<f32>,
}

/// Reads a PNG file as 784 grey levels.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let grey =
        decode(path).with_context(|| format!("cannot read the picture {}", path.display()))?;
    let digit = if (grey.width, grey.height) == (SIDE, SIDE) {
        grey.pixels
    } else {
        centre(&grey)
            .with_context(|| format!("there is nothing on the picture {}", path.display()))?
    };
    Ok(digit.into_iter().map(|level| (level.clamp(0.0, 1.0) * 255.0).round() as u8).collect())
}

fn decode(path: &Path) -> Result<Grey> {
    let file = BufReader::new(File::open(path)?);
    let mut decoder = png::Decoder::new_with_limits(file, png::Limits { bytes: PIXELS_MAX });
    decoder.set_transformations(Transformations::normalize_to_color8());
    let mut reader = decoder.read_info()?;
    let size = reader.output_buffer_size().filter(|size| *size <= 4 * PIXELS_MAX);
    let mut bytes = vec![0; size.context("it is too large")?];
    let info = reader.next_frame(&mut bytes)?;
    let (width, height) = (info.width as usize, info.height as usize);
    ensure!(width * height > 0, "it has no pixels");
    let samples = info.color_type.samples();
    let pixels = bytes[..info.buffer_size()].chunks_exact(samples).map(|pixel| {
        // Transparent is as white paper.
        let level = |share: [f32; 3], alpha: u8| {
            let grey = 0.299 * share[0] + 0.587 * share[1] + 0.114 * share[2];
            let alpha = f32::from(alpha) / 255.0;
            (grey / 255.0).mul_add(alpha, 1.0 - alpha)
        };
        match (info.color_type, pixel) {
            (ColorType::GrayscaleAlpha, &[grey, alpha]) => level([f32::from(grey); 3], alpha),
            (ColorType::Rgba, &[r, g, b, alpha]) => level([r, g, b].map(f32::from), alpha),
            (ColorType::Rgb, &[r, g, b]) => level([r, g, b].map(f32::from), 255),
            _ => f32::from(pixel[0]) / 255.0,
        }
    });
    let mut grey = Grey { width, height, pixels: pixels.collect() };
    grey.invert_if_light();
    Ok(grey)
}

impl Grey {
    fn at(&self, x: usize, y: usize) -> f32 {
        self.pixels[y * self.width + x]
    }

    /// Makes ink on paper light on dark: the border tells which it is.
    fn invert_if_light(&mut self) {
        let (right, bottom) = (self.width - 1, self.height - 1);
        let rows = (0..self.height).flat_map(|y| [self.at(0, y), self.at(right, y)]);
        let columns = (0..self.width).flat_map(|x| [self.at(x, 0), self.at(x, bottom)]);
        let border: Vec<f32> = rows.chain(columns).collect();
        if border.iter().sum::<f32>() > 0.5 * border.len() as f32 {
            self.pixels.iter_mut().for_each(|level| *level = 1.0 - *level);
        }
    }

    /// The mean over a rectangle of fractional bounds: shrinking averages, growing repeats.
    fn mean(&self, [left, right]: [f64; 2], [top, bottom]: [f64; 2]) -> f64 {
        let overlap = |from: f64, to: f64, cell: usize| {
            (to.min(cell as f64 + 1.0) - from.max(cell as f64)).max(0.0)
        };
        let cells = |from: f64, to: f64, len: usize| {
            (from.max(0.0) as usize).min(len)..(to.max(0.0).ceil() as usize).min(len)
        };
        let (mut sum, mut area) = (0.0, 0.0);
        for y in cells(top, bottom, self.height) {
            for x in cells(left, right, self.width) {
                let share = overlap(left, right, x) * overlap(top, bottom, y);
                sum += share * f64::from(self.at(x, y));
                area += share;
            }
        }
        if area > 0.0 { sum / area } else { 0.0 }
    }

    /// Bounds of what is not background: left, right, top, bottom, the ends excluded.
    fn bounds(&self) -> Option<[usize; 4]> {
        const INK: f32 = 0.1;
        let inked = |x: usize, y: usize| self.at(x, y) > INK;
        let column = |x: &usize| (0..self.height).any(|y| inked(*x, y));
        let row = |y: &usize| (0..self.width).any(|x| inked(x, *y));
        let (left, right) = ((0..self.width).find(column)?, (0..self.width).rev().find(column)?);
        let (top, bottom) = ((0..self.height).find(row)?, (0..self.height).rev().find(row)?);
        Some([left, right + 1, top, bottom + 1])
    }
}

/// The digit in its frame; nothing where the picture is empty.
fn centre(grey: &Grey) -> Option<Vec<f32>> {
    let [left, right, top, bottom] = grey.bounds()?.map(|bound| bound as f64);
    let scale = (right - left).max(bottom - top) / DIGIT;
    // Where the mass of the ink is, in the picture's pixels.
    let (mut mass, mut x_mass, mut y_mass) = (0.0, 0.0, 0.0);
    for y in top as usize..bottom as usize {
        for x in left as usize..right as usize {
            let level = f64::from(grey.at(x, y));
            mass += level;
            x_mass += level * (x as f64 + 0.5);
            y_mass += level * (y as f64 + 0.5);
        }
    }
    let middle = SIDE as f64 / 2.0;
    let (x_origin, y_origin) = (x_mass / mass - middle * scale, y_mass / mass - middle * scale);
    let digit = (0..PIXELS).map(|place| {
        let (row, column) = ((place / SIDE) as f64, (place % SIDE) as f64);
        let span = |origin: f64, cell: f64| [origin + cell * scale, origin + (cell + 1.0) * scale];
        grey.mean(span(x_origin, column), span(y_origin, row)) as f32
    });
    Some(digit.collect())
}

#[cfg(test)]
mod tests {
    use picture::{Canvas, Colour};

    use super::*;

    fn written(canvas: &Canvas) -> Result<Vec<u8>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("digit.png");
        std::fs::write(&path, canvas.png()?)?;
        read(&path)
    }

    /// A bar of ink on paper, off the middle of a large picture.
    fn bar(paper: Colour, ink: Colour) -> Canvas {
        let mut canvas = Canvas::new(300, 200, paper);
        canvas.fill(30, 20, 20, 100, ink);
        canvas
    }

    #[test]
    fn a_digit_is_scaled_to_20_pixels_and_centred() {
        for (paper, ink) in [([255; 3], [0; 3]), ([0; 3], [255; 3]), ([250, 240, 255], [20, 0, 90])]
        {
            let digit = written(&bar(paper, ink)).unwrap();
            let inked = |place: &usize| digit[*place] > 128;
            let rows: Vec<usize> = (0..PIXELS).filter(inked).map(|place| place / SIDE).collect();
            let columns: Vec<usize> = (0..PIXELS).filter(inked).map(|p| p % SIDE).collect();
            assert_eq!((rows.first(), rows.last()), (Some(&4), Some(&23)));
            assert_eq!((columns.iter().min(), columns.iter().max()), (Some(&12), Some(&15)));
        }
    }

    #[test]
    fn a_picture_of_the_right_size_is_taken_as_it_is() {
        let mut canvas = Canvas::new(SIDE, SIDE, [0; 3]);
        canvas.put(3, 2, [77; 3]);
        let digit = written(&canvas).unwrap();
        assert_eq!((digit[2 * SIDE + 3], digit.iter().map(|l| u32::from(*l)).sum()), (77, 77));
    }

    #[test]
    fn an_empty_picture_and_none_at_all_are_refused() {
        let error = written(&Canvas::new(50, 40, [255; 3])).unwrap_err();
        assert!(error.to_string().starts_with("there is nothing on the picture"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.png");
        std::fs::write(&path, "no picture").unwrap();
        assert!(format!("{:#}", read(&path).unwrap_err()).contains("text.png"));
    }
}
