//! Writes encoder and decoder as ONNX models, for any batch size.
//!
//! Field numbers are those of onnx.proto. The encoder takes `pixels` `[batch, numbers of an image]`, 0 to 1,
//! and gives `mean` and `log_variance` `[batch, latent]`; the decoder takes `z` and gives the
//! expected `pixels`. The layers are in `dense.rs` and `conv.rs`; the parts that both use are here.

mod conv;
mod dense;

use std::ops::Range;

use vae_options::{Architecture, Likelihood};

use crate::{protobuf::Message, trained::Trained};

/// Version 8 of the format and version 13 of the operators, which runtimes since 2021 read.
const IR_VERSION: u64 = 8;
const OPERATORS: u64 = 13;
/// Element types of TensorProto.DataType.
const FLOAT: u64 = 1;
const INT64: u64 = 7;

/// The attribute of an operator.
#[derive(Clone, Copy, Debug)]
enum Attribute<'a> {
    Int(u64),
    Ints(&'a [u64]),
    Text(&'a str),
}

/// A graph that is being built.
#[derive(Debug)]
struct Graph<'a> {
    trained: &'a Trained,
    message: Message,
}

/// The encoder as the bytes of an ONNX file.
pub(crate) fn encoder(trained: &Trained) -> Vec<u8> {
    let latent = trained.dim();
    let mut graph = Graph::new(trained, "encoder");
    let (hidden, layer) = match trained.options.architecture {
        Architecture::Dense => dense::encoder(&mut graph, "pixels"),
        Architecture::Conv => conv::encoder(&mut graph, "pixels"),
    };
    // Mean and log-variance are the two halves of one layer.
    graph.linear(hidden, layer, 0..latent, "mean");
    graph.linear(hidden, layer, latent..2 * latent, "log_variance");
    graph.finish(&[("pixels", trained.pixels())], &[("mean", latent), ("log_variance", latent)])
}

/// The decoder as the bytes of an ONNX file.
pub(crate) fn decoder(trained: &Trained) -> Vec<u8> {
    let mut graph = Graph::new(trained, "decoder");
    match trained.options.architecture {
        Architecture::Dense => dense::decoder(&mut graph, "z", "output"),
        Architecture::Conv => conv::decoder(&mut graph, "z", "output"),
    }
    match trained.options.likelihood {
        Likelihood::Bernoulli => graph.node("Sigmoid", &["output"], "pixels", &[]),
        Likelihood::Gaussian => {
            graph.floats("zero", &[], &[0.0]);
            graph.floats("one", &[], &[1.0]);
            graph.node("Clip", &["output", "zero", "one"], "pixels", &[]);
        }
    }
    graph.finish(&[("z", trained.dim())], &[("pixels", trained.pixels())])
}

impl<'a> Graph<'a> {
    fn new(trained: &'a Trained, name: &str) -> Self {
        Self { trained, message: Message::default().text(2, name) }
    }

    fn add(&mut self, field: u32, part: &Message) {
        self.message = std::mem::take(&mut self.message).message(field, part);
    }

    /// x W' + b with all rows of a layer's weights.
    fn whole_linear(&mut self, input: &str, layer: &str, output: &str) {
        let rows = self.shape(layer)[0];
        self.linear(input, layer, 0..rows, output);
    }

    /// x W' + b with some rows of a layer's weights.
    fn linear(&mut self, input: &str, layer: &str, rows: Range<usize>, output: &str) {
        let inputs = self.shape(layer)[1];
        let (weight, bias) = (format!("{output}.weight"), format!("{output}.bias"));
        let weights = &self.values(&format!("{layer}.weight"));
        let part = &weights[rows.start * inputs..rows.end * inputs];
        self.floats(&weight, &[rows.len(), inputs], part);
        let biases = &self.values(&format!("{layer}.bias"));
        self.floats(&bias, &[rows.len()], &biases[rows]);
        let transposed = [("transB", Attribute::Int(1))];
        self.node("Gemm", &[input, &weight, &bias], output, &transposed);
    }

    /// The shape of a layer's weights.
    fn shape(&self, layer: &str) -> &'a [usize] {
        let name = format!("{layer}.weight");
        let entries = self.trained.codec.layout().entries();
        entries.iter().find(|entry| entry.name == name).map_or(&[0, 0], |entry| &entry.shape)
    }

    /// A tensor's values.
    fn values(&self, name: &str) -> &'a [f32] {
        let range = self.trained.codec.layout().range(name).unwrap_or_default();
        &self.trained.parameters[range]
    }

    /// Adds a constant tensor of floats.
    fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, shape, FLOAT, &bytes);
    }

    /// Adds a constant vector of integers.
    fn integers(&mut self, name: &str, values: &[i64]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, &[values.len()], INT64, &bytes);
    }

    fn constant(&mut self, name: &str, shape: &[usize], kind: u64, bytes: &[u8]) {
        let sides =
            shape.iter().fold(Message::default(), |message, side| message.number(1, *side as u64));
        self.add(5, &sides.number(2, kind).text(8, name).bytes(9, bytes));
    }

    fn node(
        &mut self,
        operator: &str,
        inputs: &[&str],
        output: &str,
        attributes: &[(&str, Attribute<'_>)],
    ) {
        let node = inputs.iter().fold(Message::default(), |node, input| node.text(1, input));
        let node = node.text(2, output).text(3, output).text(4, operator);
        let node = attributes
            .iter()
            .fold(node, |node, (name, value)| node.message(5, &value.to_message(name)));
        self.add(1, &node);
    }

    /// The bytes of the whole file: the graph with its inputs and outputs, `[batch, width]` each.
    fn finish(mut self, inputs: &[(&str, usize)], outputs: &[(&str, usize)]) -> Vec<u8> {
        for (field, values) in [(11, inputs), (12, outputs)] {
            for (name, width) in values {
                let batch = Message::default().text(2, "batch");
                let width = Message::default().number(1, *width as u64);
                let shape = Message::default().message(1, &batch).message(1, &width);
                let tensor = Message::default().number(1, FLOAT).message(2, &shape);
                let kind = Message::default().message(1, &tensor);
                self.add(field, &Message::default().text(1, name).message(2, &kind));
            }
        }
        let operators = Message::default().text(1, "").number(2, OPERATORS);
        Message::default()
            .number(1, IR_VERSION)
            .text(2, "lockstep")
            .text(3, env!("CARGO_PKG_VERSION"))
            .message(7, &self.message)
            .message(8, &operators)
            .into_bytes()
    }
}

impl Attribute<'_> {
    /// The attribute with its name and its AttributeProto.AttributeType.
    fn to_message(self, name: &str) -> Message {
        let message = Message::default().text(1, name);
        match self {
            Self::Int(value) => message.number(3, value).number(20, 2),
            Self::Text(value) => message.text(4, value).number(20, 3),
            Self::Ints(values) => values
                .iter()
                .fold(message, |message, value| message.number(8, *value))
                .number(20, 7),
        }
    }
}
