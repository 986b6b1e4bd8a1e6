//! A transformer that learns a text byte by byte: `cargo run --release -- train --text FILE`.

use lockstep::tch::nn::{self, Module};
use lockstep::tch::{Kind, Reduction, Tensor};
use lockstep::{
    Autograd, Device, Error, Files, Inputs, Manifest, Metric, Splits, Task, TaskModel, Text,
};
use serde::{Deserialize, Serialize};

const LENGTH: i64 = 64;
const HEADS: i64 = 4;

#[derive(Clone, clap::Args, Serialize, Deserialize)]
struct Options {
    /// File with the text
    #[arg(long)]
    text: String,
    /// Length of the vector for each byte; a multiple of four
    #[arg(long, default_value_t = 64)]
    width: i64,
    /// Number of transformer blocks
    #[arg(long, default_value_t = 2)]
    blocks: i64,
}

fn block(path: &nn::Path, width: i64) -> impl Module + use<> {
    let norm = |name| nn::layer_norm(path / name, vec![width], Default::default());
    let linear = |name, a, b| nn::linear(path / name, a * width, b * width, Default::default());
    let (norms, heads, out) = ([norm("1"), norm("2")], linear("heads", 1, 3), linear("out", 1, 1));
    let wide = nn::seq().add(linear("wide", 1, 4)).add_fn(|x| x.gelu("none"));
    let mlp = wide.add(linear("narrow", 4, 1));
    nn::func(move |x| {
        let all = heads.forward(&norms[0].forward(x)).view([-1, LENGTH, 3, HEADS, width / HEADS]);
        let [q, k, v] = [0, 1, 2].map(|part| all.select(2, part).transpose(1, 2));
        let (attend, no_mask) = (Tensor::scaled_dot_product_attention, None::<&Tensor>);
        let seen = attend(&q, &k, &v, no_mask, 0.0, true, None, false).transpose(1, 2);
        let x = x + out.forward(&seen.reshape([-1, LENGTH, width]));
        &x + mlp.forward(&norms[1].forward(&x))
    })
}

fn net(path: &nn::Path, Options { width, blocks, .. }: &Options) -> nn::Sequential {
    let bytes = nn::embedding(path / "bytes", 256, *width, Default::default());
    let places = path.randn("places", &[LENGTH, *width], 0.0, 0.02);
    let input = nn::seq().add_fn(move |x| bytes.forward(x) + &places);
    let blocks = (0..*blocks).fold(input, |net, i| net.add(block(&(path / i), *width)));
    let norm = nn::layer_norm(path / "norm", vec![*width], Default::default());
    blocks.add(norm).add(nn::linear(path / "next", *width, 256, Default::default()))
}

struct Writer;
impl Task for Writer {
    const NAME: &'static str = "transformer";
    const REVISION: u32 = 1;
    const METRICS: &'static [Metric] = &[Metric { name: "loss", unit: "nats" }];
    type Options = Options;
    type Data = Text;
    fn manifest(options: &Options) -> Result<Manifest, Error> {
        let file = lockstep::local(options.text.as_ref())?;
        let (train, test) = Text::counts(file.bytes, LENGTH as u32, 10);
        Ok(Manifest { name: "text".into(), files: vec![file], train, test })
    }
    fn data(_: &Options, files: &Files) -> Result<Splits<Text>, Error> {
        let text = std::fs::read(files.path(&files.manifest().files[0].name)?)?;
        Ok(Text::split(text, LENGTH as u32, 10))
    }
    fn model(options: &Options, device: Device) -> Result<TaskModel<Self>, Error> {
        let options = options.clone();
        let objective = |net: &nn::Sequential, inputs: &Inputs<Text>| {
            let [text] = inputs.columns().map(|bytes| bytes.to_kind(Kind::Int64));
            let (x, next) = (text.narrow(1, 0, LENGTH), text.narrow(1, 1, LENGTH).reshape([-1]));
            let logits = net.forward(&x).view([-1, 256]);
            let nats = logits.cross_entropy_loss::<Tensor>(&next, None, Reduction::Sum, -100, 0.0);
            vec![nats / LENGTH as f64] // The mean over a piece's bytes, summed over the pieces.
        };
        Ok(Box::new(Autograd::new(device, move |path| net(path, &options), objective)?))
    }
}

fn main() -> std::process::ExitCode {
    lockstep::main::<Writer>()
}
