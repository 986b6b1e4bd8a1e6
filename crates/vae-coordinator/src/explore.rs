//! The latent space of a run, for the board: reads the newest checkpoint and some test images for the page of
//! the crate `explorer`. The networks compute in the browser, so this needs no libtorch.

use std::{fs, path::Path, path::PathBuf};

use anyhow::{Context as _, Result, anyhow, ensure};
use checkpoint::{CHECKPOINTS, Checkpoint, Directory};
use config::RunConfig;
use coordinator::{Exploration, Explorer, PageFile};
use data::{Files, Pass};
use images::Images;
use serde_json::{Value, json};
use vae_options::{Architecture, Binarize, VaeOptions};

/// The most bytes of parameters that are sent to a browser.
const PARAMETER_BYTES_MAX: u64 = 64 << 20;

/// The most bytes of a checkpoint beside parameters and moments.
const HEADER_BYTES_MAX: u64 = 1 << 20;

/// The number of images that a browser encodes before it shows the map, for dense and for convolutional
/// networks. Both take about two seconds.
const IMAGES: usize = 2000;
const CONV_IMAGES: usize = 300;

/// The most bytes of all these images.
const IMAGE_BYTES_MAX: usize = 16 << 20;

/// The prefixes of the names of the optimizer's moments.
const MOMENTS: [&str; 2] = ["exp_avg.", "exp_avg_sq."];

/// Shows latent spaces.
#[derive(Debug)]
pub(crate) struct LatentSpace {
    /// The folder of a run's data set, if it is not the default folder.
    pub(crate) data_dir: Option<PathBuf>,
}

impl Explorer for LatentSpace {
    fn task(&self) -> &str {
        vae_options::NAME
    }

    fn files(&self) -> Vec<PageFile> {
        let file = |file: explorer::ServedFile| {
            let explorer::ServedFile { route, kind, text } = file;
            PageFile { route, kind, text }
        };
        explorer::served().into_iter().map(file).collect()
    }

    fn open(&self, run_dir: &Path) -> Result<Exploration, String> {
        self.read(run_dir).map_err(|error| format!("{error:#}"))
    }
}

impl LatentSpace {
    fn read(&self, run_dir: &Path) -> Result<Exploration> {
        let Checkpoint { metadata, tensors, .. } = newest(&run_dir.join(CHECKPOINTS))?;
        let mut configuration = serde_json::from_str(&metadata.configuration)?;
        vae_options::upgrade(&mut configuration, images::named::mnist);
        let config: RunConfig = serde_json::from_value(configuration)?;
        let options = VaeOptions::read(&config.training.task.options)?;
        let tensors: Vec<_> = tensors
            .iter()
            .filter(|(name, _)| !MOMENTS.iter().any(|prefix| name.starts_with(prefix)))
            .collect();
        let lengths: Vec<(&str, usize)> =
            tensors.iter().map(|(name, tensor)| (&name[..], tensor.data.len())).collect();
        let values = tensors.iter().flat_map(|(_, tensor)| &tensor.data);
        let parameters: Vec<u8> = values.flat_map(|value| value.to_le_bytes()).collect();
        let images = self.images(&config, &options)?;
        let mut meta = explorer::network(&options, &lengths);
        let dataset = &config.training.task.dataset;
        let more = json!({
            "step": metadata.step,
            "model": format!(
                "The newest checkpoint, of step {}, and {} test images of {}",
                metadata.step, images.len(), dataset.name
            ),
            "count": images.len(),
            "centred": dataset.is_same_data(&images::named::mnist()),
            "names": (0..images.label_count()).map(|label| images.class(label)).collect::<Vec<_>>(),
        });
        if let (Value::Object(meta), Value::Object(more)) = (&mut meta, more) {
            meta.extend(more);
        }
        let indices = 0..images.len() as u32;
        let label = |index| images.label(index).map_or(u8::MAX, |label| label.min(255) as u8);
        let labels: Vec<u8> = indices.clone().map(label).collect();
        let levels: Vec<u8> = indices.flat_map(|index| images.image(index).to_vec()).collect();
        Ok(Exploration {
            step: metadata.step,
            meta: meta.to_string(),
            parameters: parameters.into(),
            levels: levels.into(),
            labels: labels.into(),
        })
    }

    /// The first test images, in the form in which the run uses them.
    fn images(&self, config: &RunConfig, options: &VaeOptions) -> Result<Images> {
        let (training, manifest) = (&config.training, &config.training.task.dataset);
        let usual = || data::default_dir(&manifest.name);
        let folder = self.data_dir.clone().unwrap_or_else(usual);
        let files = Files::verified(&folder, manifest).with_context(|| {
            format!("the map needs the test images of {}, which are not all here", manifest.name)
        })?;
        let mut test = images::splits(&files)?.test;
        let [height, width, channels] = options.image.map(|side| side as usize);
        let most = match options.architecture {
            Architecture::Dense => IMAGES,
            Architecture::Conv => CONV_IMAGES,
        };
        let room = IMAGE_BYTES_MAX / (height * width * channels).max(1);
        test.truncate(most.min(room).min(training.test_examples as usize));
        ensure!(!test.is_empty(), "{} has no test images for the map", manifest.name);
        Ok(match options.binarize {
            Binarize::Dynamic => test.binarized(Pass::test(training.seed)),
            _ => test,
        })
    }
}

/// The newest valid checkpoint, if it is not too large for a browser.
fn newest(folder: &Path) -> Result<Checkpoint> {
    let directory = Directory::open(folder);
    let (_, path) = directory.list()?.pop().context("this run has no checkpoint yet")?;
    let bytes = fs::metadata(&path)?.len();
    let most = 3 * PARAMETER_BYTES_MAX + HEADER_BYTES_MAX;
    ensure!(
        bytes <= most,
        "the model is too large for a browser: its checkpoint has {bytes} bytes, at most {most} are \
         sent; look at it with vae map, vae traverse and vae interpolate"
    );
    let newest = directory.newest()?.checkpoint;
    newest.map(|(_, checkpoint)| checkpoint).ok_or_else(|| anyhow!("no checkpoint verifies"))
}
