//! Convolutional layers: those of the crate vae's `conv.rs`, in its order and with its names.
//!
//! Version 13 of the operators has neither group norm nor SiLU. A group norm is written as an instance norm of
//! the groups, then a factor and an addend for each channel. SiLU is written as x times its sigmoid.

use vae_options::conv::{GROUP, KERNEL, LAST_KERNEL, Levels, PADDING, STRIDE};

use super::{Attribute, Graph};

/// A convolution: the names of its operator and layer, its kernel's side, and its stride.
#[derive(Clone, Copy, Debug)]
struct Convolution<'a> {
    operator: &'a str,
    layer: &'a str,
    kernel: u32,
    stride: u32,
}

/// Adds the encoder without its last layer. Returns the name of the last layer's input, and the name of that layer.
pub(super) fn encoder(graph: &mut Graph<'_>, input: &str) -> (&'static str, &'static str) {
    let levels = Levels::of(graph.trained.options.image);
    let [height, width] = levels.image().sides.map(i64::from);
    reshape(graph, input, &[0, height, width, levels.image().channels.into()], "rows");
    graph.node("Transpose", &["rows"], "picture", &[("perm", Attribute::Ints(&[0, 3, 1, 2]))]);
    let mut last = "picture".to_owned();
    for (number, level) in levels.below().iter().enumerate() {
        let name = format!("encoder.{number}");
        let (operator, layer) = ("Conv", &format!("{name}.conv")[..]);
        let halving = Convolution { operator, layer, kernel: KERNEL, stride: STRIDE };
        halving.add(graph, &last, layer);
        normalise(graph, layer, &name, [level.channels, level.sides[0], level.sides[1]]);
        last = name;
    }
    graph.node("Flatten", &[&last], "features", &[("axis", Attribute::Int(1))]);
    graph.whole_linear("features", "encoder.dense", "dense");
    silu(graph, "dense", "hidden");
    ("hidden", "encoder.latent")
}

pub(super) fn decoder(graph: &mut Graph<'_>, input: &str, output: &str) {
    let levels = Levels::of(graph.trained.options.image);
    graph.whole_linear(input, "decoder.latent", "latent");
    silu(graph, "latent", "hidden");
    graph.whole_linear("hidden", "decoder.dense", "dense");
    silu(graph, "dense", "features");
    let smallest = levels.smallest();
    let [height, width] = smallest.sides.map(i64::from);
    reshape(graph, "features", &[0, smallest.channels.into(), height, width], "smallest");
    let mut last = "smallest".to_owned();
    for number in (0..levels.below().len()).rev() {
        let (above, name) = (levels.above(number), format!("decoder.{number}"));
        let (operator, layer) = ("ConvTranspose", &format!("{name}.conv")[..]);
        let doubling = Convolution { operator, layer, kernel: KERNEL, stride: STRIDE };
        doubling.add(graph, &last, layer);
        let padded = pad(graph, layer, levels.missing(number).map(i64::from));
        normalise(graph, &padded, &name, [above.channels, above.sides[0], above.sides[1]]);
        last = name;
    }
    let layer = "decoder.output";
    let convolution = Convolution { operator: "Conv", layer, kernel: LAST_KERNEL, stride: 1 };
    convolution.add(graph, &last, "picture");
    graph.node("Transpose", &["picture"], "rows", &[("perm", Attribute::Ints(&[0, 2, 3, 1]))]);
    let pixels = levels.image().numbers() as i64;
    reshape(graph, "rows", &[0, pixels], output);
}

impl Convolution<'_> {
    fn add(self, graph: &mut Graph<'_>, input: &str, output: &str) {
        let Self { operator, layer, kernel, stride } = self;
        let (weight, bias) = (format!("{layer}.weight"), format!("{layer}.bias"));
        let (weights, biases) = (graph.values(&weight), graph.values(&bias));
        graph.floats(&weight, graph.shape(layer), weights);
        graph.floats(&bias, &[biases.len()], biases);
        let attributes = [
            ("kernel_shape", Attribute::Ints(&[kernel.into(); 2])),
            ("strides", Attribute::Ints(&[stride.into(); 2])),
            ("pads", Attribute::Ints(&[PADDING.into(); 4])),
        ];
        graph.node(operator, &[input, &weight, &bias], output, &attributes);
    }
}

/// Group norm, then the activation, for a level of this shape: channels, height, width.
fn normalise(graph: &mut Graph<'_>, input: &str, name: &str, level: [u32; 3]) {
    let groups = level[0] / GROUP;
    let part = |part: &str| format!("{name}.{part}");
    let (grouped, whitened, whole) = (part("grouped"), part("whitened"), part("whole"));
    reshape(graph, input, &[0, groups.into(), -1], &grouped);
    let (one, zero) = (part("one"), part("zero"));
    graph.floats(&one, &[groups as usize], &vec![1.0; groups as usize]);
    graph.floats(&zero, &[groups as usize], &vec![0.0; groups as usize]);
    // The operator's default epsilon is also PyTorch's.
    graph.node("InstanceNormalization", &[&grouped, &one, &zero], &whitened, &[]);
    let [channels, height, width] = level.map(i64::from);
    reshape(graph, &whitened, &[0, channels, height, width], &whole);
    let (weight, bias) = (part("norm.weight"), part("norm.bias"));
    for name in [&weight, &bias] {
        graph.floats(name, &[1, level[0] as usize, 1, 1], graph.values(name));
    }
    let (scaled, moved) = (part("scaled"), part("normalised"));
    graph.node("Mul", &[&whole, &weight], &scaled, &[]);
    graph.node("Add", &[&scaled, &bias], &moved, &[]);
    silu(graph, &moved, name);
}

/// Repeats the last row and column as often as needed; returns the name of the output.
fn pad(graph: &mut Graph<'_>, input: &str, [bottom, right]: [i64; 2]) -> String {
    if [bottom, right] == [0, 0] {
        return input.to_owned();
    }
    let (pads, output) = (format!("{input}.pads"), format!("{input}.padded"));
    graph.integers(&pads, &[0, 0, 0, 0, 0, 0, bottom, right]);
    graph.node("Pad", &[input, &pads], &output, &[("mode", Attribute::Text("edge"))]);
    output
}

fn silu(graph: &mut Graph<'_>, input: &str, output: &str) {
    let sigmoid = format!("{output}.sigmoid");
    graph.node("Sigmoid", &[input], &sigmoid, &[]);
    graph.node("Mul", &[input, &sigmoid], output, &[]);
}

/// Reshapes a tensor. In `shape`, 0 keeps a side, and -1 stands for the remaining elements.
fn reshape(graph: &mut Graph<'_>, input: &str, shape: &[i64], output: &str) {
    let name = format!("{output}.shape");
    graph.integers(&name, shape);
    graph.node("Reshape", &[input, &name], output, &[]);
}
