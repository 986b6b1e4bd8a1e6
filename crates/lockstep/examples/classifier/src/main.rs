//! A classifier of Fashion-MNIST: `cargo run --release -- train --workers 2 --spawn`.

use lockstep::{
    Autograd, Device, Error, Files, Inputs, Manifest, Metric, Splits, Task, TaskModel,
    images::{self, Images, named},
    tch::{
        Kind, Reduction, Tensor,
        nn::{self, Module},
    },
};
use serde::{Deserialize, Serialize};

#[derive(Clone, clap::Args, Serialize, Deserialize)]
struct Options {
    /// Channels of the first convolution
    #[arg(long, default_value_t = 16)]
    channels: i64,
    /// Dropout: share of the features that a training step leaves out
    #[arg(long, default_value_t = 0.25)]
    dropout: f64,
}

#[derive(Debug)]
struct Net {
    features: nn::Sequential,
    classes: nn::Linear,
}

fn net(path: &nn::Path, channels: i64) -> Net {
    let halving = nn::ConvConfig { stride: 2, padding: 1, ..Default::default() };
    let features = nn::seq()
        .add(nn::conv2d(path / "conv1", 1, channels, 3, halving))
        .add(nn::group_norm(path / "norm1", channels / 8, channels, Default::default()))
        .add_fn(Tensor::relu)
        .add(nn::conv2d(path / "conv2", channels, 2 * channels, 3, halving))
        .add(nn::group_norm(path / "norm2", channels / 8, 2 * channels, Default::default()))
        .add_fn(|x| x.relu().flatten(1, -1));
    let classes = nn::linear(path / "classes", 2 * channels * 49, 10, Default::default());
    Net { features, classes }
}

struct Clothes;

impl Task for Clothes {
    const NAME: &'static str = "classifier";
    const REVISION: u32 = 1;
    const EXAMPLE: &'static str = "image";
    const METRICS: &'static [Metric] =
        &[Metric { name: "loss", unit: "nats" }, Metric { name: "errors", unit: "" }];
    type Options = Options;
    type Data = Images;

    fn manifest(_: &Options) -> Result<Manifest, Error> {
        Ok(named::fashion_mnist())
    }

    fn data(_: &Options, files: &Files) -> Result<Splits<Images>, Error> {
        Ok(images::splits(files)?)
    }

    fn model(options: &Options, device: Device) -> Result<TaskModel<Self>, Error> {
        let Options { channels, dropout } = *options;
        let objective = move |net: &Net, inputs: &Inputs<Images>| {
            let [pixels, labels] = inputs.columns();
            let pixels = pixels.permute([0, 3, 1, 2]).to_kind(Kind::Float) / 255.0;
            let features = net.features.forward(&pixels).dropout(dropout, inputs.is_training());
            let logits = net.classes.forward(&features);
            let loss =
                logits.cross_entropy_loss::<Tensor>(&labels, None, Reduction::Sum, -100, 0.0);
            let errors = logits.argmax(-1, false).ne_tensor(&labels).sum(Kind::Float);
            vec![loss, errors]
        };
        Ok(Box::new(Autograd::new(device, move |path| net(path, channels), objective)?))
    }
}

fn main() -> std::process::ExitCode {
    lockstep::main::<Clothes>()
}
