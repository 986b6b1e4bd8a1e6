//! `vae traverse`: draws one strip per latent dimension, the most used first.

use std::path::PathBuf;

use anyhow::Result;
use picture::{Align, BLACK, Canvas, GREY, WHITE};

use crate::{
    args::{LATENT_MAX, Source, number},
    image_ref::ImageRef,
    output::{Output, PICTURE},
};

const STEPS_MAX: usize = 200;
/// The smallest range; a smaller one changes no image.
const RANGE_MIN: f32 = 1e-6;
/// The approximate side of an image in the picture, and the least width of its column, in pixels.
const SIDE: usize = 56;
/// The heading above the names of the dimensions, left of their strips.
const NAMES: &str = "dimension    KL";
/// The class of the first image, if the set has this class.
const CLASS: u32 = 3;
/// The most characters of a label, so that two labels fit side by side.
const LABEL_MAX: usize = 7;
const HEAD: usize = 24;
const GAP: usize = 6;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    source: Source,
    /// The image to begin with: a class (its first test image), test:INDEX, or a PNG or JPEG file
    /// [default: 3, or the first test image where there is no class 3]
    #[arg(long, value_name = "WHAT", allow_negative_numbers = true)]
    from: Option<ImageRef>,
    /// Images per strip
    #[arg(long, default_value_t = 11, value_name = "N",
          value_parser = manual::whole(2..=STEPS_MAX))]
    steps: usize,
    /// The value that the dimension takes at either end of its strip
    #[arg(long, default_value_t = 3.0, value_name = "VALUE", value_parser = range)]
    range: f32,
    /// The picture, a PNG file
    #[arg(long, default_value = "traversal.png", value_name = "FILE")]
    output: PathBuf,
}

fn range(text: &str) -> Result<f32, String> {
    number(text, RANGE_MIN, LATENT_MAX)
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { source, from, steps, range, output } = options;
    let output = Output::new(output, PICTURE)?;
    output.is_no_input(from.as_ref().and_then(ImageRef::picture))?;
    let mut trained = source.trained()?;
    let test = source.mnist(&trained)?.test;
    let pixels = match from {
        Some(from) => from.pixels(&trained, &test)?,
        None => ImageRef::Label(CLASS)
            .pixels(&trained, &test)
            .or_else(|_| ImageRef::Index(0).pixels(&trained, &test))?,
    };
    let start = trained.encode(&trained.unlabelled(pixels)?)?.mean;
    let divergence = trained.encode(&test)?.divergence_by_dimension();
    let mut order: Vec<usize> = (0..trained.dim()).collect();
    order.sort_by(|a, b| divergence[*b].total_cmp(&divergence[*a]));

    let tile = trained.tile();
    let zoom = tile.zoom(SIDE);
    let (height, cell) = (tile.height * zoom, (tile.width * zoom).max(SIDE));
    let names = Canvas::text_width(NAMES) + 2 * GAP;
    let width = names + steps * cell + GAP;
    let mut canvas = Canvas::new(width, HEAD + order.len() * (height + GAP), WHITE);
    canvas.text(names - GAP, HEAD / 2, Align::Right, GREY, NAMES);
    let value = |step: usize| range * (2.0 * step as f32 / (steps - 1) as f32 - 1.0);
    let middle = (steps % 2 == 1).then_some(steps / 2);
    for step in [Some(0), middle, Some(steps - 1)].into_iter().flatten() {
        let x = names + step * cell + cell / 2;
        canvas.text(x, HEAD / 2, Align::Centre, GREY, &label(value(step)));
    }
    for (row, dimension) in order.iter().enumerate() {
        let mut z = start.repeat(*steps);
        for (step, z) in z.chunks_exact_mut(trained.dim()).enumerate() {
            z[*dimension] = value(step);
        }
        let y = HEAD + row * (height + GAP);
        let name = format!("{dimension:2}  {:6.2}", divergence[*dimension]);
        canvas.text(names - GAP, y + height / 2, Align::Right, BLACK, &name);
        for (step, image) in trained.decode(&z)?.chunks_exact(tile.numbers()).enumerate() {
            let x = names + step * cell + (cell - tile.width * zoom) / 2;
            canvas.image(x, y, zoom, tile, image);
        }
    }
    output.write(&canvas.png()?, &format!("{} dimensions, the most used first", order.len()))
}

fn label(value: f32) -> String {
    let plain = format!("{value:.1}");
    if plain.len() <= LABEL_MAX && value.abs() >= 0.1 || value == 0.0 {
        plain
    } else {
        format!("{value:.0e}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_fit_an_image() {
        assert_eq!(
            [-3.0, 0.0, 0.5, 0.001, -1e6, 3e38].map(label)[..],
            ["-3.0", "0.0", "0.5", "1e-3", "-1e6", "3e38"]
        );
        let widest =
            [-1e-38, -12_345.6, -99_999.9, f32::MIN].map(|value| Canvas::text_width(&label(value)));
        assert!(widest.into_iter().all(|width| width <= SIDE), "{widest:?}");
    }
}
