//! `vae interpolate`: decodes the way from one image to another through the latent space.

use std::path::PathBuf;

use anyhow::{Result, bail};
use picture::{Align, BLACK, Canvas, Tile, WHITE};

use crate::{
    args::Source,
    image_ref::ImageRef,
    output::{ANIMATION, Output, PICTURE},
};

const STEPS_MAX: usize = 200;
/// The approximate side of an image in the picture, in pixels.
const SIDE: usize = 56;
/// The names of the rows, written to their left.
const NAMES: [&str; 2] = ["linear", "spherical"];
const GAP: usize = 6;
/// The approximate side of an image in the animation, which shows one at a time.
const GIF_SIDE: usize = 168;
/// How long a frame is shown, and the frame at either end, in hundredths of a second.
const FRAME: u16 = 8;
const REST: u16 = 60;

/// The point between two others at a given share of the way.
type Walk = fn(&[f32], &[f32], f32) -> Vec<f32>;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    source: Source,
    /// Where to begin: a class (its first test image), test:INDEX, or a PNG or JPEG file
    #[arg(long, value_name = "WHAT", allow_negative_numbers = true)]
    from: ImageRef,
    /// Where to end, in the same forms
    #[arg(long, value_name = "WHAT", allow_negative_numbers = true)]
    to: ImageRef,
    /// Images on the way, both ends included
    #[arg(long, default_value_t = 12, value_name = "N",
          value_parser = manual::whole(2..=STEPS_MAX))]
    steps: usize,
    /// The picture, a PNG file
    #[arg(long, default_value = "interpolation.png", value_name = "FILE")]
    output: PathBuf,
    /// Write an animation of the way along the sphere too, a GIF file
    #[arg(long, value_name = "FILE")]
    gif: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { source, from, to, steps, output, gif } = options;
    let output = Output::new(output, PICTURE)?;
    output.is_no_input([from, to].into_iter().filter_map(ImageRef::picture))?;
    let gif = gif.as_deref().map(|path| Output::new(path, ANIMATION)).transpose()?;
    let mut trained = source.trained()?;
    let test = source.mnist(&trained)?.test;
    let ends = [from.pixels(&trained, &test)?, to.pixels(&trained, &test)?];
    let ends = trained.unlabelled(ends.concat())?;
    let latents = trained.encode(&ends)?;
    let (from, to) = latents.mean.split_at(trained.dim());
    if from == to {
        bail!("--from and --to are the same: there is no path between them");
    }
    let way = |walk: Walk| -> Vec<f32> {
        let share = |step: usize| step as f32 / (steps - 1) as f32;
        (0..*steps).flat_map(|step| walk(from, to, share(step))).collect()
    };
    let rows = [trained.decode(&way(linear))?, trained.decode(&way(spherical))?];
    let tile = trained.tile();
    let canvas = draw(&rows, *steps, tile);
    let gif_bytes = picture::gif(&frames(&trained.decode(&way(spherical))?, *steps, tile))?;
    output.write(&canvas.png()?, &format!("{steps} steps, linear and spherical"))?;
    if let Some(gif) = gif {
        gif.write(&gif_bytes, "an animation, spherical")?;
    }
    Ok(())
}

/// A row of images for each kind of way, with its name.
fn draw(rows: &[Vec<f32>; 2], steps: usize, tile: Tile) -> Canvas {
    let zoom = tile.zoom(SIDE);
    let (height, width) = (tile.height * zoom, tile.width * zoom);
    let names = NAMES.map(Canvas::text_width).into_iter().max().unwrap_or(0) + 2 * GAP;
    let mut canvas = Canvas::new(names + steps * width + GAP, 2 * height + 3 * GAP, WHITE);
    for (row, (name, images)) in NAMES.into_iter().zip(rows).enumerate() {
        let y = GAP + row * (height + GAP);
        canvas.text(names - GAP, y + height / 2, Align::Right, BLACK, name);
        canvas.images(names, y, zoom, steps, tile, images);
    }
    canvas
}

/// The frames of the way there and back, with a longer stop at either end.
fn frames(images: &[f32], steps: usize, tile: Tile) -> Vec<(Canvas, u16)> {
    let zoom = tile.zoom(GIF_SIDE);
    let there = 0..steps;
    let back = (1..steps - 1).rev();
    let frame = |step: usize| {
        let mut canvas = Canvas::new(tile.width * zoom, tile.height * zoom, WHITE);
        let image = &images[step * tile.numbers()..][..tile.numbers()];
        canvas.image(0, 0, zoom, tile, image);
        (canvas, if step == 0 || step == steps - 1 { REST } else { FRAME })
    };
    there.chain(back).map(frame).collect()
}

/// The point on the straight line from `a` to `b`.
fn linear(a: &[f32], b: &[f32], share: f32) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| share.mul_add(b - a, *a)).collect()
}

/// The point on the great circle from `a` to `b`, so that the distance to the origin does not shrink on the way: in
/// many dimensions, nearly all of the prior's mass is at about one distance (Shoemake's slerp).
fn spherical(a: &[f32], b: &[f32], share: f32) -> Vec<f32> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let angle = (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).clamp(-1.0, 1.0).acos();
    let sine = angle.sin();
    // If the vectors are parallel or opposite, no single circle passes through both.
    if sine.is_nan() || sine < 1e-4 {
        return linear(a, b, share);
    }
    let (from, to) = (((1.0 - share) * angle).sin() / sine, (share * angle).sin() / sine);
    a.iter().zip(b).map(|(a, b)| from.mul_add(*a, to * b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_begin_and_end_at_the_ends() {
        let (a, b) = ([1.0, 0.0, 2.0], [0.5, -3.0, 1.0]);
        for walk in [linear, spherical] {
            for (share, end) in [(0.0, a), (1.0, b)] {
                let found = walk(&a, &b, share);
                assert!(found.iter().zip(end).all(|(x, y)| (x - y).abs() < 1e-6), "{found:?}");
            }
        }
    }

    #[test]
    fn the_sphere_keeps_the_distance_and_the_line_does_not() {
        let length = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>().sqrt();
        let (a, b) = ([3.0, 0.0], [0.0, 3.0]);
        for share in [0.2, 0.5, 0.9] {
            assert!((length(&spherical(&a, &b, share)) - 3.0).abs() < 1e-5);
        }
        assert!(length(&linear(&a, &b, 0.5)) < 2.2);
    }

    #[test]
    fn parallel_and_zero_ends_fall_back_to_the_line() {
        for (a, b) in [([1.0, 1.0], [2.0, 2.0]), ([1.0, 0.0], [-1.0, 0.0]), ([0.0; 2], [1.0; 2])] {
            assert_eq!(spherical(&a, &b, 0.5), linear(&a, &b, 0.5));
        }
    }
}
