//! `vae reconstruct`: draws images above their reconstructions, each with its loss.

use std::path::PathBuf;

use anyhow::Result;
use images::Images;
use picture::{Align, BLACK, Canvas, GREY, Tile, WHITE};
use stdout::counted;

use crate::{
    args::Source,
    output::{self, Output, PICTURE},
    trained::{Latents, Loss, Trained},
};

const COLUMNS: usize = 10;
/// The approximate side of an image in the picture, and the least width of its column, in pixels.
const SIDE: usize = 56;
/// Height of a line of text below a pair.
const TEXT: usize = 16;
/// The most characters of a file's name below its picture.
const NAME_MAX: usize = 20;
/// The explanation at the foot of the picture.
const FOOT: &str = "image, reconstruction, nats";
/// Pixels between two pairs.
const GAP: usize = 6;
const COUNT_MAX: usize = 1_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    source: Source,
    /// Test images to show, from the first
    #[arg(long, default_value_t = 20, value_name = "N",
          value_parser = manual::whole(1..=COUNT_MAX))]
    count: usize,
    /// Your own pictures instead: PNG or JPEG files of any size, scaled to the model's size. For a
    /// model of MNIST, drawings or photographs of digits: the background is subtracted, and the
    /// digit is scaled and centred as in MNIST
    #[arg(long, value_name = "FILE", num_args = 1..)]
    input: Vec<PathBuf>,
    /// The picture, a PNG file
    #[arg(long, default_value = "reconstructions.png", value_name = "FILE")]
    output: PathBuf,
    /// Seed of the latents' noise
    #[arg(long, default_value_t = 0, value_parser = manual::whole(0..=u64::MAX))]
    seed: u64,
    /// Reconstruct from the latents' means, without noise, as the page of vae explore does. The
    /// losses are lower than with noise
    #[arg(long, conflicts_with = "seed")]
    mean: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { source, count, input, output, .. } = options;
    let output = Output::new(output, PICTURE)?;
    output.is_no_input(input.iter().map(PathBuf::as_path))?;
    let mut trained = source.trained()?;
    let test = source.mnist(&trained)?.test;
    let images = if input.is_empty() {
        let mut images = test.clone();
        images.truncate(*count);
        images
    } else {
        let pixels = input.iter().map(|path| trained.picture(path)).collect::<Result<Vec<_>>>()?;
        trained.unlabelled(pixels.concat())?
    };
    let (latents, z, losses) = measure(&mut trained, &images, options.noise())?;
    let names = names(input);
    let picture = draw(&images, (&trained.decode(&z)?, trained.tile()), &losses, &names);
    if input.is_empty() {
        list(&images, &losses);
    } else {
        let (.., known) = measure(&mut trained, &test, options.noise())?;
        compare(&names, &losses, &known, options.mean);
    }
    let what = format!("{} above their reconstructions", counted(latents.len() as u64, "image"));
    output.write(&picture.png()?, &what)
}

impl Options {
    /// The key of the noise; none if the means themselves are decoded.
    fn noise(&self) -> Option<u64> {
        (!self.mean).then_some(self.seed)
    }
}

/// The latents, the values that are decoded (one draw each, or the means), and the losses at these.
fn measure(
    trained: &mut Trained,
    images: &Images,
    noise: Option<u64>,
) -> Result<(Latents, Vec<f32>, Vec<Loss>)> {
    let latents = trained.encode(images)?;
    let z = match noise {
        Some(seed) => latents.draw_by_picture(images, seed),
        None => latents.mean.clone(),
    };
    let losses = trained.losses(images, &latents, &z)?;
    Ok((latents, z, losses))
}

fn list(images: &Images, losses: &[Loss]) {
    output::say("index  label    loss  reconstruction     KL");
    for (index, loss) in losses.iter().enumerate() {
        let (total, Loss { reconstruction, kl }) = (loss.total(), *loss);
        let label = images.label(index as u32).map_or("-".into(), |label| label.to_string());
        output::say(&format!("{index:5}  {label:5}  {total:6.2}  {reconstruction:14.2}  {kl:5.2}"));
    }
}

/// Reports how unusual each picture is: the share of the test images with a lower loss.
fn compare(names: &[String], losses: &[Loss], known: &[Loss], at_mean: bool) {
    let mean = known.iter().map(Loss::total).sum::<f64>() / known.len().max(1) as f64;
    output::say(&format!(
        "Loss of the {} test images: {mean:.2} nats on average ({} in vae evaluate)",
        known.len(),
        if at_mean { "without the noise that is" } else { "other noise than" }
    ));
    for (name, loss) in names.iter().zip(losses) {
        let total = loss.total();
        let below = known.iter().filter(|known| known.total() < total).count();
        let share = 100.0 * below as f64 / known.len().max(1) as f64;
        output::say(&format!("{name}: {total:.2} nats, more unusual than {share:.1} % of them"));
    }
}

/// The names of the files, or their paths if two files have the same name.
fn names(paths: &[PathBuf]) -> Vec<String> {
    let name = |path: &PathBuf| path.file_name().unwrap_or(path.as_os_str()).to_owned();
    let is_alone = |path: &PathBuf| paths.iter().filter(|p| name(p) == name(path)).count() == 1;
    let shown = |path: &PathBuf| if is_alone(path) { name(path) } else { path.clone().into() };
    paths.iter().map(|path| shown(path).to_string_lossy().into_owned()).collect()
}

/// Shortens a name so that it fits below a picture. The end is kept, because it tells more than the beginning.
fn short(name: &str) -> String {
    let surplus = name.chars().count().saturating_sub(NAME_MAX);
    match surplus {
        0 => name.to_owned(),
        _ => format!("..{}", name.chars().skip(surplus + 2).collect::<String>()),
    }
}

/// Draws images above their reconstructions and losses, and their names below, if they have names.
fn draw(
    images: &Images,
    (reconstructions, tile): (&[f32], Tile),
    losses: &[Loss],
    names: &[String],
) -> Canvas {
    let zoom = tile.zoom(SIDE);
    let (height, width) = (tile.height * zoom, tile.width * zoom);
    let names: Vec<String> = names.iter().map(|name| short(name)).collect();
    let widest = names.iter().map(|name| Canvas::text_width(name)).max().unwrap_or(0);
    let column = SIDE.max(width).max(widest) + GAP;
    let columns = COLUMNS.min(losses.len());
    let pair = 2 * height + TEXT + if names.is_empty() { 0 } else { TEXT } + GAP;
    let rows = losses.len().div_ceil(columns);
    let whole = (columns * column).max(Canvas::text_width(FOOT) + GAP) + GAP;
    let mut canvas = Canvas::new(whole, rows * pair + GAP + TEXT, WHITE);
    for (index, (reconstruction, loss)) in
        reconstructions.chunks_exact(tile.numbers()).zip(losses).enumerate()
    {
        let middle = GAP + index % columns * column + (column - GAP) / 2;
        let (x, y) = (middle - width / 2, GAP + index / columns * pair);
        let original: Vec<f32> =
            images.image(index as u32).iter().map(|level| f32::from(*level) / 255.0).collect();
        canvas.image(x, y, zoom, tile, &original);
        canvas.image(x, y + height, zoom, tile, reconstruction);
        let below = y + 2 * height + TEXT / 2;
        canvas.text(middle, below, Align::Centre, BLACK, &format!("{:.1}", loss.total()));
        if let Some(name) = names.get(index) {
            canvas.text(middle, below + TEXT, Align::Centre, GREY, name);
        }
    }
    let foot = canvas.height() - TEXT / 2 - 2;
    canvas.text(GAP, foot, Align::Left, GREY, FOOT);
    canvas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_files_apart() {
        let paths = ["a/3.png", "b/3.png", "c/four.jpg"].map(PathBuf::from);
        assert_eq!(names(&paths), ["a/3.png", "b/3.png", "four.jpg"]);
        assert_eq!(short("0123456789.png"), "0123456789.png");
        let long = short("a-very-long-name-of-a-picture-0007.png");
        assert_eq!((long.as_str(), long.len()), ("..a-picture-0007.png", NAME_MAX));
    }
}
