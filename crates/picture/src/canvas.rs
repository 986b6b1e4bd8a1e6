//! A canvas of RGB pixels, and the operations that draw on it.
//!
//! Parts outside the canvas are not drawn. Coordinates are pixels from the top left.

use std::convert::Infallible;

use crate::WHITE;
use embedded_graphics::{
    mono_font::{
        MonoFont,
        MonoTextStyle,
        // With the letters of western Europe, for names of files.
        iso_8859_1::{FONT_7X13, FONT_9X18_BOLD},
    },
    pixelcolor::Rgb888,
    prelude::*,
    text::{Alignment, Baseline, Text, TextStyleBuilder},
};

/// The shape of an image. Its numbers are rows from the top; a row is pixels from the left; a pixel is its channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Rows.
    pub height: usize,
    /// Pixels in a row.
    pub width: usize,
    /// Numbers of a pixel: 1 for grey, 3 for red, green and blue.
    pub channels: usize,
}

impl Tile {
    /// Numbers of an image.
    #[must_use]
    pub const fn numbers(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// The integer factor that enlarges an image to about `side` pixels.
    #[must_use]
    pub fn zoom(&self, side: usize) -> usize {
        (side / self.height.max(self.width).max(1)).max(1)
    }
}

/// Red, green, blue.
pub type Colour = [u8; 3];

/// A picture that is being drawn.
#[derive(Clone, Debug)]
pub struct Canvas {
    width: usize,
    height: usize,
    pub(crate) pixels: Vec<Colour>,
}

/// How a text is placed relative to its x coordinate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// The text begins there.
    Left,
    /// The text is centred there.
    Centre,
    /// The text ends there.
    Right,
}

impl Canvas {
    /// A canvas of one colour.
    #[must_use]
    pub fn new(width: usize, height: usize, background: Colour) -> Self {
        Self { width, height, pixels: vec![background; width * height] }
    }

    /// Pixels in a row.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    #[must_use]
    pub const fn height(&self) -> usize {
        self.height
    }

    /// Sets a pixel.
    pub fn put(&mut self, x: usize, y: usize, colour: Colour) {
        if x < self.width && y < self.height {
            self.pixels[y * self.width + x] = colour;
        }
    }

    /// Draws an image whose numbers go from 0 (dark) to 1 (light). Each pixel becomes a square with sides of `zoom`
    /// pixels.
    pub fn image(&mut self, x: usize, y: usize, zoom: usize, tile: Tile, image: &[f32]) {
        let level = |value: f32| (value.clamp(0.0, 1.0) * 255.0).round() as u8;
        let Tile { height, width, channels } = tile;
        let pixels = image.chunks_exact(channels.max(1)).take(height * width);
        for (place, pixel) in pixels.enumerate() {
            let colour = match *pixel {
                [red, green, blue] => [red, green, blue].map(level),
                [grey, ..] => [level(grey); 3],
                [] => continue,
            };
            let (row, column) = (place / width, place % width);
            self.fill(x + column * zoom, y + row * zoom, zoom, zoom, colour);
        }
    }

    /// Draws images one after the other, `columns` in a row.
    pub fn images(
        &mut self,
        x: usize,
        y: usize,
        zoom: usize,
        columns: usize,
        tile: Tile,
        images: &[f32],
    ) {
        for (index, image) in images.chunks_exact(tile.numbers().max(1)).enumerate() {
            let (row, column) = (index / columns, index % columns);
            let (x, y) = (x + column * tile.width * zoom, y + row * tile.height * zoom);
            self.image(x, y, zoom, tile, image);
        }
    }

    /// A canvas with the images in a grid that is about square.
    #[must_use]
    pub fn grid(zoom: usize, tile: Tile, images: &[f32]) -> Self {
        let count = images.len() / tile.numbers().max(1);
        let columns = count.isqrt() + usize::from(!count.is_multiple_of(count.isqrt().max(1)));
        let (columns, rows) = (columns.max(1), count.div_ceil(columns.max(1)).max(1));
        let (width, height) = (columns * tile.width * zoom, rows * tile.height * zoom);
        let mut canvas = Self::new(width, height, WHITE);
        canvas.images(0, 0, zoom, columns, tile, images);
        canvas
    }

    /// Fills a rectangle.
    pub fn fill(&mut self, x: usize, y: usize, width: usize, height: usize, colour: Colour) {
        let columns = x.min(self.width)..(x + width).min(self.width);
        for row in y.min(self.height)..(y + height).min(self.height) {
            self.pixels[row * self.width..][columns.clone()].fill(colour);
        }
    }

    /// Draws a disc with a smooth edge, `opacity` from 0 to 1.
    pub fn disc(&mut self, x: f64, y: f64, radius: f64, colour: Colour, opacity: f64) {
        let reach = radius + 1.0;
        let span = |centre: f64, max: usize| {
            let end = (centre + reach).ceil().clamp(0.0, max as f64);
            (centre - reach).floor().clamp(0.0, max as f64) as usize..end as usize
        };
        for row in span(y, self.height) {
            for column in span(x, self.width) {
                let distance = (column as f64 + 0.5 - x).hypot(row as f64 + 0.5 - y);
                let cover = opacity * (radius + 0.5 - distance).clamp(0.0, 1.0);
                let pixel = &mut self.pixels[row * self.width + column];
                for (below, above) in pixel.iter_mut().zip(colour) {
                    let (old, new) = (f64::from(*below), f64::from(above));
                    *below = (old + cover * (new - old)).round() as u8;
                }
            }
        }
    }

    /// Writes small text with its middle at height `y`.
    pub fn text(&mut self, x: usize, y: usize, align: Align, colour: Colour, text: &str) {
        self.write(x, y, align, colour, text, &FONT_7X13);
    }

    /// Writes large text with its middle at height `y`.
    pub fn heading(&mut self, x: usize, y: usize, align: Align, colour: Colour, text: &str) {
        self.write(x, y, align, colour, text, &FONT_9X18_BOLD);
    }

    /// Pixels that small text takes in a row.
    #[must_use]
    pub fn text_width(text: &str) -> usize {
        text.chars().count() * FONT_7X13.character_size.width as usize
    }

    fn write(
        &mut self,
        x: usize,
        y: usize,
        align: Align,
        colour: Colour,
        text: &str,
        font: &MonoFont<'_>,
    ) {
        let alignment = match align {
            Align::Left => Alignment::Left,
            Align::Centre => Alignment::Center,
            Align::Right => Alignment::Right,
        };
        let style = TextStyleBuilder::new().alignment(alignment).baseline(Baseline::Middle).build();
        let [red, green, blue] = colour;
        let font = MonoTextStyle::new(font, Rgb888::new(red, green, blue));
        let place = Point::new(coordinate(x), coordinate(y));
        match Text::with_text_style(text, place, font, style).draw(self) {
            Ok(_) => {}
            Err(never) => match never {},
        }
    }
}

fn coordinate(pixels: usize) -> i32 {
    i32::try_from(pixels).unwrap_or(i32::MAX)
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        let side = |pixels| u32::try_from(pixels).unwrap_or(u32::MAX);
        Size::new(side(self.width), side(self.height))
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I>(&mut self, pixels: I) -> Result<(), Infallible>
    where
        I: IntoIterator<Item = Pixel<Rgb888>>,
    {
        for Pixel(place, colour) in pixels {
            if let (Ok(x), Ok(y)) = (usize::try_from(place.x), usize::try_from(place.y)) {
                self.put(x, y, [colour.r(), colour.g(), colour.b()]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BLACK, WHITE};

    const DIGIT: Tile = Tile { height: 28, width: 28, channels: 1 };

    #[test]
    fn what_lies_outside_is_not_drawn() {
        let mut canvas = Canvas::new(30, 20, WHITE);
        canvas.fill(25, 15, 100, 100, BLACK);
        canvas.image(20, 10, 3, DIGIT, &[1.0; 784]);
        canvas.disc(-5.0, 40.0, 9.0, BLACK, 1.0);
        canvas.disc(f64::NAN, 1e300, 9.0, BLACK, 1.0);
        canvas.text(28, 19, Align::Left, BLACK, "outside");
        canvas.put(30, 0, BLACK);
        assert_eq!(canvas.pixels.len(), 600);
        assert_eq!((canvas.pixels[0], canvas.pixels[24 + 9 * 30]), (WHITE, WHITE));
    }

    #[test]
    fn text_has_the_width_that_is_said() {
        const TEXT: &str = "spherical \u{e9}\u{df}";
        let width = Canvas::text_width(TEXT);
        assert_eq!(width, 12 * 7);
        for (align, x, left) in
            [(Align::Left, 50, 50), (Align::Right, 50 + width, 50), (Align::Centre, 100, 58)]
        {
            let mut canvas = Canvas::new(200, 20, WHITE);
            canvas.text(x, 10, align, BLACK, TEXT);
            let inked = |x: &usize| (0..20).any(|y| canvas.pixels[y * 200 + x] == BLACK);
            let (first, last) = ((0..200).find(inked).unwrap(), (0..200).rfind(inked).unwrap());
            assert!(first >= left && last <= left + width, "{align:?} {first} {last}");
            assert!(last - first > width - 7, "{align:?} {first} {last}");
        }
    }

    #[test]
    fn images_go_row_by_row() {
        let mut canvas = Canvas::new(2 * 28 * 2, 2 * 28 * 2, WHITE);
        let digits: Vec<f32> = (0..3).flat_map(|n| vec![n as f32 / 2.0; 784]).collect();
        canvas.images(0, 0, 2, 2, DIGIT, &digits);
        let at = |x: usize, y: usize| canvas.pixels[y * 112 + x];
        assert_eq!((at(0, 0), at(56, 0), at(55, 55)), ([0; 3], [128; 3], [0; 3]));
        assert_eq!((at(0, 56), at(56, 56)), (WHITE, WHITE));
    }

    #[test]
    fn images_of_any_shape_keep_their_colours() {
        let tile = Tile { height: 1, width: 2, channels: 3 };
        let canvas = Canvas::grid(2, tile, &[1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
        assert_eq!((canvas.width(), canvas.height()), (4, 2));
        assert_eq!((canvas.pixels[1], canvas.pixels[6]), ([255, 0, 0], [0, 0, 255]));
        assert_eq!((tile.numbers(), tile.zoom(56), tile.zoom(1)), (6, 28, 1));
    }

    #[test]
    fn a_disc_covers_its_middle_and_shades_its_edge() {
        let mut canvas = Canvas::new(11, 11, WHITE);
        canvas.disc(5.5, 5.5, 3.0, BLACK, 1.0);
        assert_eq!(canvas.pixels[5 * 11 + 5], BLACK);
        assert_eq!(canvas.pixels[0], WHITE);
        assert!(canvas.pixels.iter().any(|[red, _, _]| (60..200).contains(red)));
    }
}
