//! `vae explore`: writes one self-contained HTML file with the map, the network and the images. The
//! page itself is in the crate `explorer`.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use images::Images;
use serde_json::{Value, json};
use stdout::counted;

use crate::{
    args::Source,
    commands::{encode::SplitArg, map::Projection},
    output::{Output, PAGE},
    pca::Pca,
    scatter::Frame,
    trained::{Latents, Trained},
    tsne,
};

/// The most images: no browser draws a larger page smoothly.
const IMAGES_MAX: usize = 70_000;
/// The most bytes of images and parameters. A browser holds the page as one string, of at most 512 MiB.
const BYTES_MAX: usize = 256 << 20;
/// How far the images of a one-dimensional model are spread across their line.
const SPREAD: f32 = 0.35;
/// The golden ratio. The fractional parts of its multiples spread points evenly.
const GOLDEN: f32 = 0.618_034;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    source: Source,
    /// The part of the data set
    #[arg(long, value_enum, default_value_t = SplitArg::Test)]
    split: SplitArg,
    /// Images to show, from the first [default: all]
    #[arg(long, value_name = "N", value_parser = manual::whole(1..=IMAGES_MAX))]
    count: Option<usize>,
    /// Projection of more than two latents to the plane
    #[arg(long, value_enum, default_value_t = Projection::Pca)]
    projection: Projection,
    /// The page, an HTML file
    #[arg(long, default_value = "latent.html", value_name = "FILE")]
    output: PathBuf,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { source, split, count, projection, output } = options;
    let output = Output::new(output, PAGE)?;
    let mut trained = source.trained()?;
    projection.check(trained.dim())?;
    let splits = source.mnist(&trained)?;
    let (mut images, name) = match split {
        SplitArg::Train => (splits.train, "training"),
        SplitArg::Test => (splits.test, "test"),
    };
    if let Some(count) = count {
        images.truncate(*count);
    }
    check_size(&trained, images.len())?;
    let latents = trained.encode(&images)?;
    let plane = Plane::of(&latents, *projection)?;
    let page = page(&mut trained, &images, name, &latents, &plane)?;
    output.write(page.as_bytes(), &format!("{} to explore", counted(latents.len() as u64, "image")))
}

/// Refuses a page that no browser would open.
fn check_size(trained: &Trained, count: usize) -> Result<()> {
    ensure!(count > 0, "there are no images to explore");
    let room = BYTES_MAX.saturating_sub(4 * trained.parameters.len());
    let most = (room / (trained.pixels() + 4 * (trained.dim() + 4))).min(IMAGES_MAX);
    ensure!(
        most > 0,
        "a model with {} parameters is too large for a page in a browser: use vae map, vae \
         traverse and vae interpolate",
        trained.parameters.len()
    );
    ensure!(
        count <= most,
        "{count} images are too many for a page in a browser: take at most {most} with --count {most}"
    );
    Ok(())
}

/// The positions of the images on the map.
struct Plane {
    /// The positions, `[n, 2]`.
    places: Vec<f32>,
    /// The latents at the centre of the map and along its two axes. None if the map is not linear (t-SNE).
    straight: Option<(Vec<f32>, [Vec<f32>; 2])>,
    caption: String,
}

impl Plane {
    fn of(latents: &Latents, projection: Projection) -> Result<Self> {
        let Latents { dim, mean, .. } = latents;
        if projection == Projection::Tsne {
            let caption = "t-SNE: near images are near; axes and far distances mean nothing. A place \
                           decodes from the latents of its nearest images.";
            let places = tsne::embed(mean, *dim)?;
            return Ok(Self { places, straight: None, caption: caption.into() });
        }
        Ok(match dim {
            1 => {
                let spread = |index: usize| SPREAD * ((index as f32 * GOLDEN).fract() - 0.5);
                let places = mean.iter().enumerate();
                let places = places.flat_map(|(index, x)| [*x, spread(index)]).collect();
                let straight = Some((vec![0.0], [vec![1.0], vec![0.0]]));
                Self { places, straight, caption: "Across: latent 0. Up: no meaning.".into() }
            }
            2 => {
                let straight = Some((vec![0.0; 2], [vec![1.0, 0.0], vec![0.0, 1.0]]));
                let caption = "Across: latent 0. Up: latent 1.".into();
                Self { places: mean.clone(), straight, caption }
            }
            _ => {
                let pca = Pca::fit(mean, *dim, 2);
                let [across, up] = [0, 1].map(|axis| 100.0 * pca.explained[axis]);
                let caption = format!(
                    "Across: 1st principal component, {across:.0} % of the variance. Up: 2nd, {up:.0} %."
                );
                let axes = [pca.components[0].clone(), pca.components[1].clone()];
                Self { places: pca.project(mean), straight: Some((pca.point(&[]), axes)), caption }
            }
        })
    }
}

fn page(
    trained: &mut Trained,
    images: &Images,
    split: &str,
    latents: &Latents,
    plane: &Plane,
) -> Result<String> {
    // The losses are taken at the means, because the page measures its drawings so.
    let losses = trained.losses(images, latents, &latents.mean)?;
    let floats =
        |values: Vec<f32>| -> Vec<u8> { values.into_iter().flat_map(f32::to_le_bytes).collect() };
    let entries = trained.codec.layout().entries();
    let parameters =
        entries.iter().flat_map(|entry| trained.parameters[entry.range.clone()].iter().copied());
    let indices = 0..images.len() as u32;
    let label = |index: u32| images.label(index).map_or(u8::MAX, |label| label.min(255) as u8);
    let blobs = [
        ("parameters", floats(parameters.collect())),
        ("places", floats(plane.places.clone())),
        ("means", floats(latents.mean.clone())),
        ("losses", floats(losses.iter().map(|loss| loss.total() as f32).collect())),
        ("divergences", floats(losses.iter().map(|loss| loss.kl as f32).collect())),
        ("labels", indices.clone().map(label).collect()),
        ("levels", indices.flat_map(|index| images.image(index).to_vec()).collect()),
    ];
    Ok(explorer::alone(&meta(trained, images, split, latents, plane), &blobs)?)
}

/// The page's data that are not large arrays.
fn meta(
    trained: &Trained,
    images: &Images,
    split: &str,
    latents: &Latents,
    plane: &Plane,
) -> Value {
    let options = &trained.options;
    let used = latents.divergence_by_dimension();
    let mut order: Vec<usize> = (0..latents.dim).collect();
    order.sort_by(|a, b| used[*b].total_cmp(&used[*a]));
    let (middle, reach) = Frame::around(&plane.places).middle_and_reach();
    let names: Vec<String> = (0..images.label_count()).map(|label| images.class(label)).collect();
    let (origin, axes) = plane.straight.clone().unzip();
    let dataset = &trained.config.task.dataset;
    let tensors = trained.codec.layout().entries().iter();
    let tensors: Vec<(&str, usize)> =
        tensors.map(|entry| (&*entry.name, entry.range.len())).collect();
    let mut meta = explorer::network(options, &tensors);
    let more = json!({
        "model": format!(
            "{} at step {}: {} of {}",
            trained.path.display(),
            trained.step,
            counted(latents.len() as u64, &format!("{split} image")),
            dataset.name
        ),
        "count": latents.len(),
        // Whether pictures are centred, as in vae reconstruct.
        "centred": trained.centres_pictures(),
        "middle": middle, "reach": reach,
        "caption": plane.caption,
        "origin": origin, "axes": axes,
        "order": order, "use": used,
        "names": names,
    });
    if let (Value::Object(meta), Value::Object(more)) = (&mut meta, more) {
        meta.extend(more);
    }
    meta
}
