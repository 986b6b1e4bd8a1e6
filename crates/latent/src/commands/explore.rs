//! `vae explore`: one HTML file with the map, the network and the images, which needs nothing else.

use std::path::PathBuf;

use anyhow::{Result, bail};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use images::Images;
use serde_json::{Value, json};
use vae_options::{Architecture, Likelihood};

use crate::{
    args::Source,
    commands::map::Projection,
    output::{Output, PAGE},
    pca::Pca,
    scatter::Frame,
    trained::{Latents, Trained},
    tsne,
};

const PAGE_HTML: &str = include_str!("../explore/page.html");
const STYLE: &str = include_str!("../explore/style.css");
const NETWORK: &str = include_str!("../explore/network.js");
const PAGE_JS: &str = include_str!("../explore/page.js");

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    source: Source,
    /// The page, an HTML file
    #[arg(long, default_value = "latent.html", value_name = "FILE")]
    output: PathBuf,
    /// How the latents come into the plane
    #[arg(long, value_enum, default_value_t = Projection::Pca)]
    projection: Projection,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { source, output, projection } = options;
    let output = Output::new(output, PAGE)?;
    let mut trained = source.trained()?;
    if trained.options.architecture != Architecture::Dense {
        bail!(
            "{} has convolutions, and the page computes dense layers only: look at it by vae map, \
             vae traverse and vae interpolate",
            trained.path.display()
        );
    }
    let test = source.mnist(&trained)?.test;
    let latents = trained.encode(&test)?;
    let plane = Plane::of(&latents, *projection)?;
    let page = page(&mut trained, &test, &latents, &plane)?;
    output.write(page.as_bytes(), &format!("{} images to explore", latents.len()))
}

/// Where the images are on the map.
struct Plane {
    /// `[n, 2]`.
    places: Vec<f32>,
    /// The latents of the middle of the space and the two axes of the plane, where it has any.
    straight: Option<(Vec<f32>, Vec<Vec<f32>>)>,
    caption: &'static str,
}

impl Plane {
    fn of(latents: &Latents, projection: Projection) -> Result<Self> {
        let Latents { dim, mean, .. } = latents;
        if projection == Projection::Tsne {
            let places = tsne::embed(mean, *dim)?;
            let caption = "t-SNE: near images are near; axes and far distances mean nothing";
            return Ok(Self { places, straight: None, caption });
        }
        let pca = Pca::fit(mean, *dim, 2);
        let mut axes = pca.components.clone();
        let mut places = pca.project(mean);
        if *dim == 1 {
            // A line: the second axis has no length.
            axes.push(vec![0.0]);
            places = places.into_iter().flat_map(|x| [x, 0.0]).collect();
        }
        let origin = pca.point(&[]);
        let caption = "The two principal components of the latent means";
        Ok(Self { places, straight: Some((origin, axes)), caption })
    }
}

fn page(
    trained: &mut Trained,
    images: &Images,
    latents: &Latents,
    plane: &Plane,
) -> Result<String> {
    // At the means, as the page measures what is drawn on it.
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
    let blob = |(name, bytes): &(&str, Vec<u8>)| {
        let text = BASE64_STANDARD.encode(bytes);
        format!("<script type=\"text/plain\" id=\"{name}\">{text}</script>\n")
    };
    // Nothing in a name of a class may end the element that holds it.
    let meta = meta(trained, images, latents, plane).to_string().replace('<', "\\u003c");
    let blobs: String = blobs.iter().map(blob).collect();
    Ok(PAGE_HTML
        .replace("{{style}}", STYLE)
        .replace("{{network}}", NETWORK)
        .replace("{{page}}", PAGE_JS)
        .replace("{{meta}}", &meta)
        .replace("{{blobs}}", &blobs))
}

/// What the page needs to know beside numbers.
fn meta(trained: &Trained, images: &Images, latents: &Latents, plane: &Plane) -> Value {
    let options = &trained.options;
    let (pixels, hidden, latent) = (trained.pixels(), options.hidden_dim, latents.dim);
    let [height, width, channels] = options.image;
    let used = latents.divergence_by_dimension();
    let mut order: Vec<usize> = (0..latent).collect();
    order.sort_by(|a, b| used[*b].total_cmp(&used[*a]));
    let (middle, reach) = Frame::around(&plane.places).middle_and_reach();
    let names: Vec<String> = (0..images.label_count()).map(|label| images.class(label)).collect();
    let colour = |[r, g, b]: [u8; 3]| format!("#{r:02x}{g:02x}{b:02x}");
    let (origin, axes) = plane.straight.clone().unzip();
    json!({
        "model": format!(
            "{pixels}-{hidden}-{hidden}-{latent}, step {}, {} test images of {}",
            trained.step, latents.len(), trained.config.task.dataset.name
        ),
        "height": height, "width": width, "channels": channels,
        "latent": latent,
        "count": latents.len(),
        "gaussian": options.likelihood == Likelihood::Gaussian,
        "layers": [
            [pixels, hidden as usize], [hidden as usize, hidden as usize],
            [hidden as usize, 2 * latent], [latent, hidden as usize],
            [hidden as usize, hidden as usize], [hidden as usize, pixels],
        ],
        "middle": middle, "reach": reach,
        "caption": plane.caption,
        "origin": origin, "axes": axes,
        "order": order, "use": used,
        "names": names,
        "colours": picture::CLASSES.map(colour),
    })
}
