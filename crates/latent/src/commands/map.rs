//! `vae map`: draws the latent means of the test images in the plane.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use images::Images;
use picture::{Canvas, Tile};

use crate::{
    args::Source,
    output::{self, Output, PICTURE},
    pca::Pca,
    scatter::{self, Frame, Grid, Points},
    trained::Latents,
    tsne,
};

/// Images along each side of the decoded grid.
const GRID: usize = 20;
/// The spread of the points of a row, in distances between rows.
const SPREAD: f32 = 0.7;
/// The golden ratio. The fractional parts of its multiples spread points evenly.
const GOLDEN: f32 = 0.618_034;

/// The names of the projector's files.
const CONFIG: &str = "projector_config.pbtxt";
const TENSORS: &str = "tensors.tsv";
const METADATA: &str = "metadata.tsv";
const SPRITE: &str = "sprite.png";

/// Bytes in every configuration that this command writes.
const MARK: &[u8] = b"# Written by vae map.";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    source: Source,
    /// The picture, a PNG file
    #[arg(long, default_value = "map.png", value_name = "FILE")]
    output: PathBuf,
    /// Projection of more than two latents to the plane
    #[arg(long, value_enum, default_value_t = Projection::Pca)]
    projection: Projection,
    /// Show a grid of decoded images beside the points
    #[arg(long)]
    grid: bool,
    /// Write the files of the TensorBoard embedding projector into this folder too
    #[arg(long, value_name = "DIR")]
    projector: Option<PathBuf>,
}

/// How latents are projected to the plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Projection {
    /// Two principal components: linear, so that each place of the plane can be decoded
    Pca,
    /// t-SNE: similar images are neighbours, and groups are clearer; axes and distances between
    /// groups have no meaning
    Tsne,
}

impl Projection {
    /// Refuses t-SNE for a model with one or two latents, which are shown as they are.
    pub(crate) fn check(self, dim: usize) -> Result<()> {
        ensure!(
            dim > 2 || self == Self::Pca,
            "the map of a model with latent dimension {dim} shows the latents as they are: leave \
             out --projection tsne"
        );
        Ok(())
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { source, output: picture, projection, grid, projector } = options;
    ensure!(
        !grid || *projection == Projection::Pca,
        "a place on a t-SNE map stands for no latents, so that --grid has nothing to decode: leave \
         out --grid, or say --projection pca"
    );
    let picture = Output::new(picture, PICTURE)?;
    if let Some(folder) = projector {
        output::check_folder(folder)?;
        refuse_foreign(folder)?;
        output::create_folder(folder)?;
        disk::try_folder(folder)?;
    }
    let mut trained = source.trained()?;
    projection.check(trained.dim())?;
    let test = source.mnist(&trained)?.test;
    let latents = trained.encode(&test)?;
    let label = |index: usize| test.label(index as u32).unwrap_or_default();
    let labels: Vec<u32> = (0..test.len()).map(label).collect();
    let names: Vec<String> = (0..test.label_count()).map(|label| test.class(label)).collect();
    let view = match projection {
        Projection::Pca => View::of(&latents, &labels, names.len()),
        Projection::Tsne => View::of_neighbours(&latents)?,
    };
    let grid = grid.then(|| trained.decode(&view.z)).transpose()?;
    let grid = grid.as_ref().map(|digits| Grid {
        side: GRID,
        digits,
        tile: trained.tile(),
        caption: &view.grid,
    });
    let points =
        Points { places: &view.places, labels: &labels, names: &names, caption: &view.axes };
    let canvas = scatter::draw(&points, view.frame, grid);
    picture.write(&canvas.png()?, &format!("{} latent means in the plane", latents.len()))?;
    projector
        .as_deref()
        .map_or(Ok(()), |folder| write_projector(folder, &test, trained.tile(), &latents))
}

/// The positions of the latent means in the picture, and the latents of its grid.
struct View {
    /// The positions, `[n, 2]`.
    places: Vec<f32>,
    frame: Frame,
    axes: String,
    /// The latents of the grid's images.
    z: Vec<f32>,
    grid: String,
}

impl View {
    /// One latent is shown along a line; two latents are the axes; of more latents, two principal components are the
    /// axes.
    fn of(latents: &Latents, labels: &[u32], classes: usize) -> Self {
        let Latents { dim, mean, .. } = latents;
        if *dim == 1 {
            return Self::of_one(mean, labels, classes);
        }
        let pca = (*dim > 2).then(|| Pca::fit(mean, *dim, 2));
        let places = pca.as_ref().map_or_else(|| mean.clone(), |pca| pca.project(mean));
        let frame = Frame::around(&places);
        let point =
            |place: &[f32; 2]| pca.as_ref().map_or_else(|| place.to_vec(), |pca| pca.point(place));
        let z = frame.grid(GRID).iter().flat_map(point).collect();
        let axes = match &pca {
            None => "across: latent 0; up: latent 1".to_owned(),
            Some(pca) => {
                let [across, up] =
                    [0, 1].map(|axis| 100.0 * pca.explained.get(axis).copied().unwrap_or(0.0));
                format!(
                    "across: 1st principal component, {across:.0} % of the variance; up: 2nd, \
                     {up:.0} %"
                )
            }
        };
        Self { places, frame, grid: axes.clone(), axes, z }
    }

    /// The positions by t-SNE. Its plane cannot be decoded, so there is no grid.
    fn of_neighbours(latents: &Latents) -> Result<Self> {
        let places = tsne::embed(&latents.mean, latents.dim)?;
        let frame = Frame::around(&places);
        let axes = "t-SNE: near images are near; axes and far distances mean nothing".into();
        Ok(Self { places, frame, axes, z: Vec::new(), grid: String::new() })
    }

    fn of_one(mean: &[f32], labels: &[u32], classes: usize) -> Self {
        let frame = Frame::of_rows(mean, classes);
        let spread = |index: usize| SPREAD * ((index as f32 * GOLDEN).fract() - 0.5);
        let rows = mean.iter().zip(labels).enumerate();
        let places =
            rows.flat_map(|(index, (x, label))| [*x, *label as f32 + spread(index)]).collect();
        let z = frame.line(GRID);
        let (low, high) = (z[0], z[z.len() - 1]);
        let grid = format!("latent 0 from {low:.2} (top left), row by row, to {high:.2}");
        Self { places, frame, axes: "across: latent 0; up: a row for each class".into(), z, grid }
    }
}

/// Refuses a folder that holds another program's files under the projector's names. The tables have no mark of their
/// own, but the configuration beside them has one.
fn refuse_foreign(folder: &Path) -> Result<()> {
    if disk::holds(&folder.join(CONFIG), MARK) {
        return Ok(());
    }
    let names = [CONFIG, TENSORS, METADATA, SPRITE];
    Ok(names.iter().try_for_each(|name| disk::refuse_foreign(&folder.join(name), MARK))?)
}

/// Writes the files that the projector loads: vectors, labels, and a sprite of all images.
fn write_projector(folder: &Path, images: &Images, tile: Tile, latents: &Latents) -> Result<()> {
    let mut tensors = String::new();
    for mean in latents.mean.chunks_exact(latents.dim) {
        let row: Vec<String> = mean.iter().map(f32::to_string).collect();
        let _infallible = writeln!(tensors, "{}", row.join("\t"));
    }
    let mut metadata = String::from("index\tlabel\n");
    let mut pixels = Vec::with_capacity(images.len() * tile.numbers());
    for index in 0..images.len() as u32 {
        let _infallible = writeln!(
            metadata,
            "{index}\t{}",
            images.label(index).map_or("-".into(), |label| images.class(label))
        );
        pixels.extend(images.image(index).iter().map(|level| f32::from(*level) / 255.0));
    }
    let config = format!(
        "# Written by vae map.\nembeddings {{\n  tensor_name: \"latent means\"\n  tensor_path: \
         \"{TENSORS}\"\n  metadata_path: \"{METADATA}\"\n  sprite {{\n    image_path: \"{SPRITE}\"\n    \
         single_image_dim: {}\n    single_image_dim: {}\n  }}\n}}\n",
        tile.width, tile.height
    );
    let write = |name: &str, bytes: &[u8], what: &str| {
        Output::inside(folder, name).and_then(|output| output.write(bytes, what))
    };
    // The configuration comes first, because its mark shows that the other files belong to this program.
    write(CONFIG, config.as_bytes(), "for tensorboard --logdir")?;
    write(TENSORS, tensors.as_bytes(), "vectors")?;
    write(METADATA, metadata.as_bytes(), "labels")?;
    write(SPRITE, &Canvas::grid(1, tile, &pixels).png()?, "images")
}
