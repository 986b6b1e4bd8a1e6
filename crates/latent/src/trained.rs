//! A trained model: finds it, reads it, and applies it to any number of images.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use checkpoint::{Checkpoint, Directory};
use config::{RunConfig, Training};
use data::{Batch, Domain, Stream};
use images::{Images, Shape};
use model::{Isa, noise};
use picture::Tile;
use stdout::counted;
use trainer::Evaluation;
use vae::Codec;
use vae_options::VaeOptions;
use xxhash_rust::xxh3::xxh3_64;

use crate::{drawing, output, progress::Progress, threads};

/// The link to the latest run, in the folder of the runs.
const LATEST: &str = "latest";

/// The most images that go through the network together.
const BATCH: usize = 250;
/// The fewest images that go through the network together. A product of fewer rows may be computed in another way,
/// with other bits, so a picture's loss would depend on the number of pictures beside it.
const BATCH_MIN: usize = 16;

/// A model with the facts from its checkpoint.
#[derive(Debug)]
pub(crate) struct Trained {
    pub(crate) path: PathBuf,
    pub(crate) config: Training,
    pub(crate) options: VaeOptions,
    pub(crate) step: u64,
    /// The SHA-256 of the tensors, which identifies the model.
    pub(crate) sha256: String,
    pub(crate) parameters: Vec<f32>,
    pub(crate) codec: Box<dyn Codec>,
}

/// Mean and log-variance of the latents of some images, each `[n, dim]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Latents {
    pub(crate) dim: usize,
    pub(crate) mean: Vec<f32>,
    pub(crate) log_variance: Vec<f32>,
}

/// The purpose of some noise. Draws for different purposes are independent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// Latents from the prior or a mixture.
    Sample = 2,
    /// Latents of given images.
    Posterior = 3,
    /// The start of the search for a mixture.
    Mixture = 4,
}

/// The loss of one image, in nats.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Loss {
    pub(crate) reconstruction: f64,
    pub(crate) kl: f64,
}

impl Loss {
    /// The negative evidence lower bound.
    pub(crate) fn total(&self) -> f64 {
        self.reconstruction + self.kl
    }
}

impl Trained {
    /// Reads a checkpoint file, or the newest one of a run directory.
    pub(crate) fn open(place: &Path) -> Result<Self> {
        let (path, Checkpoint { metadata, tensors, sha256 }) = find(place)?;
        let foreign =
            || format!("{} is not the checkpoint of a variational autoencoder", path.display());
        let mut configuration =
            serde_json::from_str(&metadata.configuration).with_context(foreign)?;
        vae_options::upgrade(&mut configuration, images::named::mnist);
        let config: RunConfig = serde_json::from_value(configuration).with_context(foreign)?;
        config.validate().with_context(foreign)?;
        let task = &config.training.task;
        ensure!(task.name == vae_options::NAME, "{}, but of the task {}", foreign(), task.name);
        let options = VaeOptions::read(&task.options).with_context(foreign)?;
        options.validate().with_context(foreign)?;
        let settings = vae::Settings::default();
        let mut codec = vae_conv::codec(&options.model(), settings).with_context(foreign)?;
        codec.set_team(threads::team());
        codec.fix_threads(config.training.model_threads);
        let parameters = codec
            .layout()
            .gather(|name| tensors.get(name).map(|tensor| (&tensor.shape[..], &tensor.data[..])))
            .with_context(foreign)?;
        let (step, config) = (metadata.step, config.training);
        Ok(Self { path, config, options, step, sha256, parameters, codec })
    }

    /// Dimensions of the latent space.
    pub(crate) fn dim(&self) -> usize {
        self.codec.latent_dim()
    }

    /// The shape of an image.
    pub(crate) const fn shape(&self) -> Shape {
        let [height, width, channels] = self.options.image;
        Shape { height, width, channels }
    }

    /// The shape of an image, for a canvas.
    pub(crate) const fn tile(&self) -> Tile {
        let Shape { height, width, channels } = self.shape();
        Tile { height: height as usize, width: width as usize, channels: channels as usize }
    }

    /// Numbers of an image: pixels times channels.
    pub(crate) fn pixels(&self) -> usize {
        self.codec.pixels()
    }

    /// A set of images without labels, of the model's shape.
    pub(crate) fn unlabelled(&self, pixels: Vec<u8>) -> Result<Images> {
        Ok(Images::new(self.shape(), pixels, Vec::new())?)
    }

    /// Whether users' own pictures are treated as digits, that is, scaled and centred as in MNIST.
    pub(crate) fn centres_pictures(&self) -> bool {
        self.config.task.dataset.is_same_data(&images::named::mnist())
    }

    /// Reads a user's own picture as an image of the model's shape.
    pub(crate) fn picture(&self, path: &Path) -> Result<Vec<u8>> {
        if self.centres_pictures() {
            drawing::read(path)
        } else {
            Ok(images::picture(path, self.shape())?)
        }
    }

    /// The folder for files that belong to the model: the run directory, else the checkpoint's folder.
    pub(crate) fn folder(&self) -> &Path {
        let parent = self.path.parent().unwrap_or(Path::new("."));
        match parent.parent() {
            Some(run) if parent.file_name().is_some_and(|name| name == "checkpoints") => run,
            _ => parent,
        }
    }

    /// The latents of all images.
    pub(crate) fn encode(&mut self, images: &Images) -> Result<Latents> {
        let dim = self.dim();
        let len = images.len() * dim;
        let mut latents = Latents { dim, mean: vec![0.0; len], log_variance: vec![0.0; len] };
        let bar = Progress::new("Encoding", images.len());
        let Latents { mean, log_variance, .. } = &mut latents;
        let rows = mean.chunks_mut(BATCH * dim).zip(log_variance.chunks_mut(BATCH * dim));
        for (indices, (mean, log_variance)) in batches(images).zip(rows) {
            let batch = Batch::of(images, &indices);
            let mut padded = [vec![0.0; indices.len() * dim], vec![0.0; indices.len() * dim]];
            let [means, log_variances] = &mut padded;
            self.codec.encode(&self.parameters, &batch, means, log_variances)?;
            mean.copy_from_slice(&means[..mean.len()]);
            log_variance.copy_from_slice(&log_variances[..mean.len()]);
            bar.inc((mean.len() / dim) as u64);
        }
        Ok(latents)
    }

    /// The expected pixels of latents `[n, dim]`, from 0 to 1, one row per image.
    pub(crate) fn decode(&mut self, z: &[f32]) -> Result<Vec<f32>> {
        let width = self.pixels();
        let mut pixels = vec![0.0; z.len() / self.dim() * width];
        let rows = z.chunks(BATCH * self.dim()).zip(pixels.chunks_mut(BATCH * width));
        for (z, pixels) in rows {
            self.codec.decode(&self.parameters, z, pixels)?;
        }
        Ok(pixels)
    }

    /// -log p(x|z) of each image, with one latent each, in nats.
    pub(crate) fn reconstruction(&mut self, images: &Images, z: &[f32]) -> Result<Vec<f64>> {
        let mut losses = vec![0.0; images.len()];
        let rows = z.chunks(BATCH * self.dim()).zip(losses.chunks_mut(BATCH));
        for (indices, (z, losses)) in batches(images).zip(rows) {
            let batch = Batch::of(images, &indices);
            let first = &z[..z.len() / losses.len()];
            let rest = first.iter().cycle().take((indices.len() - losses.len()) * first.len());
            let z: Vec<f32> = z.iter().chain(rest).copied().collect();
            let mut padded = vec![0.0; indices.len()];
            self.codec.reconstruction(&self.parameters, &batch, &z, &mut padded)?;
            losses.copy_from_slice(&padded[..losses.len()]);
        }
        Ok(losses)
    }

    /// The mean losses of the test images, as a run reports them at the end of an epoch: the objective, the
    /// reconstruction loss and the KL divergence. With the run's own seed, these are
    /// the numbers that training printed at this step.
    pub(crate) fn test_loss(&self, test: &Images, seed: u64) -> Result<[f64; 3]> {
        let (config, model) = (&self.config, self.options.model());
        let mut codec = vae_conv::codec(&model, vae::Settings::of(&self.options))?;
        codec.set_team(threads::team());
        codec.fix_threads(config.model_threads);
        let (parameters, step, shards) = (&self.parameters, self.step, config.shards);
        let evaluation = Evaluation { test, first: 0, examples: u32::MAX, shards, seed, step };
        let tally = evaluation.tally(&mut *codec, parameters)?;
        let [loss, reconstruction, kl, ..] = tally.terms.map(|sum| sum / tally.examples as f64);
        Ok([loss, reconstruction, kl])
    }

    /// The loss of each image for the given `z`, sampled from its latents.
    pub(crate) fn losses(
        &mut self,
        images: &Images,
        latents: &Latents,
        z: &[f32],
    ) -> Result<Vec<Loss>> {
        let reconstruction = self.reconstruction(images, z)?;
        let loss =
            |(reconstruction, kl): (f64, &[f64])| Loss { reconstruction, kl: kl.iter().sum() };
        let divergences = latents.divergences();
        let divergences = divergences.chunks_exact(latents.dim);
        Ok(reconstruction.into_iter().zip(divergences).map(loss).collect())
    }
}

impl Latents {
    /// The number of images.
    pub(crate) fn len(&self) -> usize {
        self.mean.len() / self.dim.max(1)
    }

    /// KL(q(z|x) || N(0, 1)) of every image and dimension, `[n, dim]`.
    pub(crate) fn divergences(&self) -> Vec<f64> {
        let kl = |(mean, log_variance): (&f32, &f32)| {
            let (mean, log_variance) = (f64::from(*mean), f64::from(*log_variance));
            0.5 * (mean * mean + log_variance.exp() - 1.0 - log_variance)
        };
        self.mean.iter().zip(&self.log_variance).map(kl).collect()
    }

    /// The mean KL divergence of each dimension.
    pub(crate) fn divergence_by_dimension(&self) -> Vec<f64> {
        let mut sums = vec![0.0; self.dim];
        for row in self.divergences().chunks_exact(self.dim) {
            sums.iter_mut().zip(row).for_each(|(sum, kl)| *sum += kl);
        }
        sums.into_iter().map(|sum| sum / self.len().max(1) as f64).collect()
    }

    /// One draw for every image; it depends on the seed and the image's index.
    pub(crate) fn draw(&self, seed: u64) -> Vec<f32> {
        let noise = normals(seed, Purpose::Posterior, 0, self.mean.len());
        let moments = self.mean.iter().zip(&self.log_variance);
        moments.zip(noise).map(|((mean, lv), noise)| mean + (0.5 * lv).exp() * noise).collect()
    }

    /// One draw for every image; it depends on the seed and the image's pixels.
    pub(crate) fn draw_by_picture(&self, images: &Images, seed: u64) -> Vec<f32> {
        let mut z = Vec::with_capacity(self.mean.len());
        let mut noise = vec![0.0; self.dim];
        let moments =
            self.mean.chunks_exact(self.dim).zip(self.log_variance.chunks_exact(self.dim));
        for (index, (mean, log_variance)) in moments.enumerate() {
            noise::normals(
                Isa::best(),
                picture_stream(seed, images.image(index as u32)),
                &mut noise,
            );
            let values = mean.iter().zip(log_variance).zip(&noise);
            z.extend(values.map(|((mean, lv), noise)| mean + (0.5 * lv).exp() * noise));
        }
        z
    }
}

/// The random stream of a picture. It depends on the seed and the pixels only, so that the same picture
/// always has the same loss, whatever its index.
fn picture_stream(seed: u64, image: &[u8]) -> Stream {
    let hash = xxh3_64(image);
    // The key holds the purpose and 48 bits of the hash; the index holds the other 16 bits.
    let key = hash << 16 >> 8 | Purpose::Posterior as u64;
    Stream::new(seed, Domain::Sample, key, (hash >> 48) as u32)
}

/// Standard normal numbers; equal arguments give equal numbers.
pub(crate) fn normals(seed: u64, purpose: Purpose, index: u32, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    let stream = Stream::new(seed, Domain::Sample, purpose as u64, index);
    noise::normals(Isa::best(), stream, &mut values);
    values
}

/// The indices of all images in batches. A batch that is too short is filled up with copies of its first
/// image.
fn batches(images: &Images) -> impl Iterator<Item = Vec<u32>> + use<> {
    let count = images.len();
    (0..count).step_by(BATCH).map(move |start| {
        let rows = BATCH.min(count - start);
        let place = |row: usize| if row < rows { start + row } else { start };
        (0..rows.max(BATCH_MIN)).map(|row| place(row) as u32).collect()
    })
}

/// The run to use instead of `runs/latest` if that has no checkpoint: the newest run that has a checkpoint, if
/// any.
fn instead_of_latest(place: &Path) -> Option<PathBuf> {
    let is_latest = place.file_name().is_some_and(|name| name == LATEST);
    if !is_latest || checkpoint::has_checkpoint(place) {
        return None;
    }
    let run = checkpoint::newest_run(place.parent()?)?;
    let (shown, latest) = (run.display(), place.display());
    output::complain(&format!(
        "{latest} has no checkpoint: taking {shown}, the newest run that has one"
    ));
    Some(run)
}

/// The checkpoint at a path, or the newest checkpoint in a folder that verifies.
fn find(place: &Path) -> Result<(PathBuf, Checkpoint)> {
    let instead = instead_of_latest(place);
    let place = instead.as_deref().unwrap_or(place);
    let shown = place.display();
    if !place.exists() {
        bail!("there is no {shown}: train a model first, or name one with --checkpoint");
    }
    if !place.is_dir() {
        return Ok((place.into(), checkpoint::read(place)?));
    }
    let inside = place.join("checkpoints");
    let folder = if inside.is_dir() { inside } else { place.into() };
    let newest = Directory::open(&folder).newest()?;
    for (_, why) in &newest.damaged {
        output::complain(&format!("warning: {}", why.skipped()));
    }
    let (path, checkpoint) = newest.checkpoint.ok_or_else(|| match newest.damaged.len() {
        0 => anyhow!("there is no checkpoint in {}: name one with --checkpoint", folder.display()),
        n => anyhow!(
            "{} in {}, and none is whole: restore one from a copy, or name another with --checkpoint",
            counted(n as u64, "checkpoint"),
            folder.display()
        ),
    })?;
    let path = without_link(&path, place);
    output::note_taken(&path);
    Ok((path, checkpoint))
}

/// A checkpoint's path in a run, with the run's own name instead of a link to it such as `runs/latest`.
fn without_link(checkpoint: &Path, run: &Path) -> PathBuf {
    let target = run.read_link().ok().zip(run.parent());
    let inside = checkpoint.strip_prefix(run).ok();
    match target.zip(inside) {
        Some(((target, runs), inside)) => runs.join(target).join(inside),
        None => checkpoint.into(),
    }
}
