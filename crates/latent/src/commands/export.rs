//! `vae export`: writes encoder and decoder for other programs, with a model card.

use std::{collections::HashMap, path::PathBuf};

use anyhow::Result;
use clap::ValueEnum;
use config::Training;
use safetensors::{Dtype, tensor::TensorView};

use vae_options::{Architecture, Binarize, Likelihood, VaeOptions};

mod python;

use crate::{
    args::Source,
    onnx,
    output::{self, Output},
    trained::Trained,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    source: Source,
    /// Format of the files
    #[arg(long, value_enum, default_value_t = Format::Onnx)]
    format: Format,
    /// The folder for the files
    #[arg(long, default_value = "export", value_name = "DIR")]
    output: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// encoder.onnx and decoder.onnx, for any batch size
    Onnx,
    /// model.safetensors, with the names of the PyTorch module
    Safetensors,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let folder = &options.output;
    output::check_folder(folder)?;
    disk::try_folder(folder)?;
    let trained = options.source.trained()?;
    // All content is made before the first file is written.
    let files = match options.format {
        Format::Onnx => vec![
            ("encoder.onnx", onnx::encoder(&trained), "pixels to mean and log_variance"),
            ("decoder.onnx", onnx::decoder(&trained), "z to pixels"),
            ("README.md", card(&trained, options.format).into(), "the model card"),
        ],
        Format::Safetensors => vec![
            ("model.safetensors", state_dict(&trained)?, "a PyTorch state dict"),
            ("README.md", card(&trained, options.format).into(), "the model card"),
        ],
    };
    // Another person's file is found before the first file is written.
    files.iter().try_for_each(|(name, ..)| disk::refuse_foreign(&folder.join(name), mark(name)))?;
    output::create_folder(folder)?;
    for (name, bytes, what) in files {
        Output::inside(folder, name)?.write(&bytes, what)?;
    }
    Ok(())
}

/// Bytes that every file written under this name holds.
fn mark(name: &str) -> &'static [u8] {
    match name {
        "README.md" => b"Trained by Lockstep: ",
        "model.safetensors" => b"\"producer\":\"lockstep\"",
        // Field 2 of an ONNX model is the name of its producer.
        _ => b"\x12\x08lockstep",
    }
}

/// The parameters without the optimizer's state, by their names in PyTorch.
fn state_dict(trained: &Trained) -> Result<Vec<u8>> {
    let entries = trained.codec.layout().entries();
    let bytes: Vec<Vec<u8>> = entries
        .iter()
        .map(|entry| trained.parameters[entry.range.clone()].iter().flat_map(|v| v.to_le_bytes()))
        .map(Iterator::collect)
        .collect();
    let views = entries
        .iter()
        .zip(&bytes)
        .map(|(entry, bytes)| {
            Ok((&entry.name[..], TensorView::new(Dtype::F32, entry.shape.clone(), bytes)?))
        })
        .collect::<Result<Vec<_>>>()?;
    let metadata = HashMap::from([("producer".to_owned(), "lockstep".to_owned())]);
    Ok(safetensors::serialize(views, Some(metadata))?)
}

/// The model card, for a person who has only the exported files.
fn card(trained: &Trained, format: Format) -> String {
    let Trained { config, options, step, sha256, .. } = trained;
    let Training { seed, shards, batch_size, learning_rate, train_examples, .. } = config;
    let VaeOptions { hidden_dim, latent_dim, beta, .. } = *options;
    let (pixels, shape, set) = (trained.pixels(), trained.shape(), &config.task.dataset);
    let network = match options.architecture {
        Architecture::Dense => {
            format!(
                "{pixels}-{hidden_dim}-{hidden_dim}-{latent_dim} encoder, its mirror as decoder, ReLU"
            )
        }
        Architecture::Conv => format!(
            "{} encoder, its mirror as decoder, group norm and SiLU after each convolution",
            options.summary().trim_start_matches("VAE ")
        ),
    };
    let (likelihood, last) = match options.likelihood {
        Likelihood::Bernoulli => ("Bernoulli", "a sigmoid"),
        Likelihood::Gaussian => ("Gaussian, one learned variance", "clamping"),
    };
    let use_it = match format {
        Format::Onnx => format!(
            "`encoder.onnx` takes `pixels` [batch, {pixels}], 0 (black) to 1 (white), row by row from \
             the top, and gives `mean` and\n`log_variance` [batch, {latent_dim}]. \
             `decoder.onnx` takes `z` [batch, {latent_dim}] and gives `pixels` [batch, {pixels}],\nafter {last}. To sample, draw `z` from \
             the standard normal distribution.\n\n```python\nimport numpy, onnxruntime\n\
             decoder = onnxruntime.InferenceSession(\"decoder.onnx\")\n\
             z = numpy.random.randn(64, {latent_dim}).astype(\"float32\")\n\
             (pixels,) = decoder.run(None, {{\"z\": z}})\n```"
        ),
        Format::Safetensors => {
            let outputs = 2 * latent_dim;
            let decoder = match options.architecture {
                Architecture::Dense => python::dense(options),
                Architecture::Conv => python::conv(options),
            };
            format!(
                "```python\n{decoder}\n```\n\nThe encoder likewise, from {pixels} to {outputs}: \
                 mean, then log-variance. The decoder's output goes through {last}."
            )
        }
    };
    format!(
        "# Variational autoencoder of the images of {}\n\n\
         Trained by Lockstep: {network}; {} parameters.\n\n\
         ## Use\n\n{use_it}\n\n\
         ## Training\n\n\
         | | |\n|---|---|\n\
         | images | the first {train_examples} of the training set of {}, each {shape} |\n\
         | likelihood | {likelihood}, beta {beta} |\n\
         | pixels | {} |\n\
         | steps | {step} |\n\
         | images per step | {shards} x {batch_size} |\n\
         | optimizer | Adam, learning rate {learning_rate} |\n\
         | importance samples | {} |\n\
         | seed | {seed} |\n\
         | SHA-256 of the tensors of the checkpoint | `{sha256}` |\n\n\
         ## Limits\n\n\
         {}\n",
        set.name,
        options.model().parameters(),
        set.name,
        match options.binarize {
            Binarize::None => "grey",
            Binarize::Dynamic => "black or white, drawn anew in every epoch",
        },
        options.importance_samples,
        limits(trained),
    )
}

/// The limits of the model.
fn limits(trained: &Trained) -> String {
    let set = &trained.config.task.dataset;
    if set.is_same_data(&images::named::mnist()) {
        "It knows handwritten digits of 28 x 28 pixels, light on dark and centred by mass, and \
         nothing else: whatever it is\ngiven, it sees a digit. MNIST: Yann LeCun and Corinna \
         Cortes, CC BY-SA 3.0."
            .into()
    } else {
        format!(
            "It knows images like those of {}, {}, and nothing else: whatever it is\ngiven, it sees \
             one of these.",
            set.name,
            trained.shape()
        )
    }
}
