//! `vae map`: the latent means of the test images in the plane.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Result;
use data::Images;
use picture::{Canvas, SIDE};

use crate::{
    args::Source,
    output::{self, Output},
    pca::Pca,
    scatter::{self, Frame, Points},
    trained::Latents,
};

/// Digits a side of the decoded plane.
const GRID: usize = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    source: Source,
    /// The picture, a PNG file
    #[arg(long, default_value = "map.png", value_name = "FILE")]
    output: PathBuf,
    /// Show beside the points what the plane decodes to
    #[arg(long)]
    grid: bool,
    /// Write the files of the TensorBoard embedding projector into this folder too
    #[arg(long, value_name = "DIR")]
    projector: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { source, output: picture, grid, projector } = options;
    let picture = Output::new(picture)?;
    if let Some(folder) = projector {
        output::create_folder(folder)?;
    }
    let mut trained = source.trained()?;
    let test = source.mnist(&trained)?.test;
    let latents = trained.encode(&test);
    // A plane needs two directions; the second of a line is of no length.
    let pca = Pca::fit(&latents.mean, latents.dim, 2);
    let places: Vec<f32> = match latents.dim {
        1 => latents.mean.iter().flat_map(|mean| [*mean, 0.0]).collect(),
        _ => pca.project(&latents.mean),
    };
    let labels: Vec<u8> = (0..test.len()).map(|index| test.label(index as u32)).collect();
    let explained = [0, 1].map(|axis| pca.explained.get(axis).copied().unwrap_or(0.0));
    let frame = Frame::around(&places);
    let digits = grid.then(|| {
        let z: Vec<f32> = frame.grid(GRID).iter().flat_map(|place| pca.point(place)).collect();
        trained.decode(&z)
    });
    let points = Points { places: &places, labels: &labels, explained };
    let canvas = scatter::draw(&points, frame, digits.as_ref().map(|digits| (GRID, &digits[..])));
    picture.write(&canvas.png()?, &format!("{} latent means in the plane", latents.len()))?;
    projector.as_deref().map_or(Ok(()), |folder| write_projector(folder, &test, &latents))
}

/// The files that the projector loads: vectors, labels, and a sprite of all images.
fn write_projector(folder: &Path, images: &Images, latents: &Latents) -> Result<()> {
    let mut tensors = String::new();
    for mean in latents.mean.chunks_exact(latents.dim) {
        let row: Vec<String> = mean.iter().map(f32::to_string).collect();
        let _infallible = writeln!(tensors, "{}", row.join("\t"));
    }
    let mut metadata = String::from("index\tlabel\n");
    let mut pixels = Vec::with_capacity(images.len() * SIDE * SIDE);
    for index in 0..images.len() as u32 {
        let _infallible = writeln!(metadata, "{index}\t{}", images.label(index));
        pixels.extend(images.image(index).iter().map(|level| f32::from(*level) / 255.0));
    }
    let config = format!(
        "embeddings {{\n  tensor_name: \"latent means\"\n  tensor_path: \"tensors.tsv\"\n  \
         metadata_path: \"metadata.tsv\"\n  sprite {{\n    image_path: \"sprite.png\"\n    \
         single_image_dim: {SIDE}\n    single_image_dim: {SIDE}\n  }}\n}}\n"
    );
    let write = |name: &str, bytes: &[u8], what: &str| {
        Output::new(&folder.join(name)).and_then(|output| output.write(bytes, what))
    };
    write("tensors.tsv", tensors.as_bytes(), "vectors")?;
    write("metadata.tsv", metadata.as_bytes(), "labels")?;
    write("sprite.png", &Canvas::grid(1, &pixels).png()?, "images")?;
    write("projector_config.pbtxt", config.as_bytes(), "for tensorboard --logdir")
}
