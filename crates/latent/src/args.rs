//! The commands, and the flags that they share. Each command's own flags are in its file.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use data::{Files, Splits};
use images::Images;

use crate::{
    commands::{
        dataset, decode, encode, evaluate, explore, export, fit_gmm, interpolate, map, reconstruct,
        sample, traverse,
    },
    trained::Trained,
};

/// Look into a trained variational autoencoder: sample, reconstruct, interpolate, encode,
/// evaluate, export
#[derive(Debug, Parser)]
#[command(name = "vae", version = manual::version(env!("CARGO_PKG_VERSION")), max_term_width = 100,
          arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Draw images from the prior, or from a mixture fitted to the training images' latents
    Sample(sample::Options),
    /// Show test images, or pictures of your own, above their reconstructions
    Reconstruct(reconstruct::Options),
    /// Interpolate between two images, along a line and along a sphere
    Interpolate(interpolate::Options),
    /// Show what each latent dimension does, the most used first
    Traverse(traverse::Options),
    /// Show the latent means of the test images in the plane
    Map(map::Options),
    /// Write a page that shows the latent space in a browser: hover, slide, draw
    Explore(explore::Options),
    /// Write the latents of a split as a table, and report the storage they would save
    Encode(encode::Options),
    /// Decode a table of latents to images
    Decode(decode::Options),
    /// Measure how good the model is: likelihood, use of the latents, features, diversity
    Evaluate(evaluate::Options),
    /// Fit a Gaussian mixture to the training images' latents, to sample from
    FitGmm(fit_gmm::Options),
    /// Write encoder and decoder for other programs, with a model card
    Export(export::Options),
    /// Show what is read of a data set, before training on it
    Dataset(dataset::Options),
}

/// The largest latent that is accepted. It is far outside the latents of images, and larger ones may overflow in
/// layers.
pub(crate) const LATENT_MAX: f32 = 1e6;

/// Parses a number in a range.
pub(crate) fn number(text: &str, min: f32, max: f32) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(format!("must be a number from {min} to {max}")),
    }
}

impl Command {
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Self::Sample(options) => sample::run(options),
            Self::Reconstruct(options) => reconstruct::run(options),
            Self::Interpolate(options) => interpolate::run(options),
            Self::Traverse(options) => traverse::run(options),
            Self::Map(options) => map::run(options),
            Self::Explore(options) => explore::run(options),
            Self::Encode(options) => encode::run(options),
            Self::Decode(options) => decode::run(options),
            Self::Evaluate(options) => evaluate::run(options),
            Self::FitGmm(options) => fit_gmm::run(options),
            Self::Export(options) => export::run(options),
            Self::Dataset(options) => dataset::run(options),
        }
    }
}

/// The model and the data set that a command works on.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Source {
    /// A checkpoint file, or a run directory, whose newest checkpoint is used
    #[arg(long, value_name = "PATH", default_value = "runs/latest")]
    pub(crate) checkpoint: PathBuf,
    /// Folder with the files of the run's data set [default: the user's cache]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

impl Source {
    /// The trained model.
    pub(crate) fn trained(&self) -> Result<Trained> {
        Trained::open(&self.checkpoint)
    }

    /// The data set as the run used it: the same number of images, and binarized if the run binarized them.
    pub(crate) fn mnist(&self, trained: &Trained) -> Result<Splits<Images>> {
        let Trained { config, options, .. } = trained;
        let manifest = &config.task.dataset;
        let dir = self.data_dir.clone().unwrap_or_else(|| data::default_dir(&manifest.name));
        let mut mnist = images::splits(&Files::verified(&dir, manifest)?)?;
        vae::prepare(
            &mut mnist,
            options,
            [config.train_examples, config.test_examples],
            config.seed,
        );
        Ok(mnist)
    }
}
