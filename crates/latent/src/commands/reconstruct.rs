//! `vae reconstruct`: images above their reconstructions, each with its loss.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::builder::RangedU64ValueParser;
use data::{Images, PIXELS};
use picture::{Align, BLACK, Canvas, GREY, SIDE, WHITE};

use crate::{
    args::Source,
    drawing,
    output::{self, Output},
    pick::unlabelled,
    trained::{Latents, Loss, Trained},
};

const COLUMNS: usize = 10;
const ZOOM: usize = 2;
const CELL: usize = SIDE * ZOOM;
/// Height of a line of text below a pair.
const TEXT: usize = 16;
/// Between pairs.
const GAP: usize = 6;
const COUNT_MAX: u64 = 1_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    source: Source,
    /// Test images to show, from the first
    #[arg(long, default_value_t = 20, value_name = "N",
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=COUNT_MAX))]
    count: usize,
    /// Pictures of your own instead, PNG files of any size: centred and scaled as MNIST does
    #[arg(long, value_name = "FILE", num_args = 1..)]
    input: Vec<PathBuf>,
    /// The picture, a PNG file
    #[arg(long, default_value = "reconstructions.png", value_name = "FILE")]
    output: PathBuf,
    /// Key of the latents' noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { source, count, input, output, seed } = options;
    let output = Output::new(output)?;
    let mut trained = source.trained()?;
    let test = source.mnist(&trained)?.test;
    let images = if input.is_empty() {
        let mut images = test.clone();
        images.truncate(*count);
        images
    } else {
        let pixels = input.iter().map(|path| drawing::read(path)).collect::<Result<Vec<_>>>()?;
        unlabelled(pixels.concat())?
    };
    let (latents, z, losses) = measure(&mut trained, &images, *seed);
    let picture = draw(&mut trained, &images, &z, &losses);
    if input.is_empty() {
        list(&images, &losses);
    } else {
        let (.., known) = measure(&mut trained, &test, *seed);
        compare(input, &losses, &known);
    }
    let what = format!("{} images above their reconstructions", latents.len());
    output.write(&picture.png()?, &what)
}

/// The latents, one draw of each, and the losses at these.
fn measure(trained: &mut Trained, images: &Images, seed: u64) -> (Latents, Vec<f32>, Vec<Loss>) {
    let latents = trained.encode(images);
    let z = latents.draw(seed);
    let losses = trained.losses(images, &latents, &z);
    (latents, z, losses)
}

fn list(images: &Images, losses: &[Loss]) {
    output::say("index  label    loss  reconstruction     KL");
    for (index, loss) in losses.iter().enumerate() {
        let (total, Loss { reconstruction, kl }) = (loss.total(), *loss);
        let label = images.label(index as u32);
        output::say(&format!("{index:5}  {label:5}  {total:6.2}  {reconstruction:14.2}  {kl:5.2}"));
    }
}

/// Says how unusual each picture is: the share of the test images with a lower loss.
fn compare(paths: &[PathBuf], losses: &[Loss], known: &[Loss]) {
    let mean = known.iter().map(Loss::total).sum::<f64>() / known.len().max(1) as f64;
    output::say(&format!("Loss of the {} test images: {mean:.2} nats on average", known.len()));
    for (path, loss) in paths.iter().zip(losses) {
        let (name, total) = (name(path), loss.total());
        let below = known.iter().filter(|known| known.total() < total).count();
        let share = 100.0 * below as f64 / known.len().max(1) as f64;
        output::say(&format!("{name}: {total:.2} nats, more unusual than {share:.1} % of them"));
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn draw(trained: &mut Trained, images: &Images, z: &[f32], losses: &[Loss]) -> Canvas {
    let reconstructions = trained.decode(z);
    let columns = COLUMNS.min(losses.len());
    let pair = 2 * CELL + TEXT + GAP;
    let rows = losses.len().div_ceil(columns);
    let width = columns * (CELL + GAP) + GAP;
    let mut canvas = Canvas::new(width, rows * pair + GAP + TEXT, WHITE);
    for (index, (reconstruction, loss)) in
        reconstructions.chunks_exact(PIXELS).zip(losses).enumerate()
    {
        let x = GAP + index % columns * (CELL + GAP);
        let y = GAP + index / columns * pair;
        let original: Vec<f32> =
            images.image(index as u32).iter().map(|level| f32::from(*level) / 255.0).collect();
        canvas.digit(x, y, ZOOM, &original);
        canvas.digit(x, y + CELL, ZOOM, reconstruction);
        let text = format!("{:.1}", loss.total());
        canvas.text(x + CELL / 2, y + 2 * CELL + TEXT / 2, Align::Centre, BLACK, &text);
    }
    let foot = canvas.height() - TEXT / 2 - 2;
    canvas.text(GAP, foot, Align::Left, GREY, "image, reconstruction, nats");
    canvas
}
