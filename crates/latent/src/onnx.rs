//! Encoder and decoder as ONNX: fully connected layers, ReLU between them, any batch.
//!
//! Field numbers are those of onnx.proto. The encoder takes `pixels` `[batch, numbers of an image]`, 0 to 1,
//! and gives `mean` and `log_variance` `[batch, latent]`; the decoder takes `z` and gives the
//! expected `pixels`.

use model::Model as _;
use vae_options::Likelihood;

use crate::{protobuf::Message, trained::Trained};

/// Version 8 of the format, operators of version 13: what runtimes since 2021 read.
const IR_VERSION: u64 = 8;
const OPERATORS: u64 = 13;
/// TensorProto.DataType.FLOAT and AttributeProto.AttributeType.INT.
const FLOAT: u64 = 1;
const INT: u64 = 2;

/// A graph in the making.
#[derive(Debug)]
struct Graph<'a> {
    trained: &'a Trained,
    message: Message,
}

/// The encoder as the bytes of an ONNX file.
pub(crate) fn encoder(trained: &Trained) -> Vec<u8> {
    let latent = trained.dim();
    let mut graph = Graph::new(trained, "encoder");
    graph.hidden("pixels", "encoder.0", "h1");
    graph.hidden("h1", "encoder.2", "h2");
    // Mean and log-variance are the two halves of one layer.
    graph.linear("h2", "encoder.4", 0..latent, "mean");
    graph.linear("h2", "encoder.4", latent..2 * latent, "log_variance");
    graph.finish(&[("pixels", trained.pixels())], &[("mean", latent), ("log_variance", latent)])
}

/// The decoder as the bytes of an ONNX file.
pub(crate) fn decoder(trained: &Trained) -> Vec<u8> {
    let mut graph = Graph::new(trained, "decoder");
    graph.hidden("z", "decoder.0", "h1");
    graph.hidden("h1", "decoder.2", "h2");
    graph.linear("h2", "decoder.4", 0..trained.pixels(), "output");
    match trained.options.likelihood {
        Likelihood::Bernoulli => graph.node("Sigmoid", &["output"], "pixels", &[]),
        Likelihood::Gaussian => {
            graph.tensor("zero", &[], &[0.0]);
            graph.tensor("one", &[], &[1.0]);
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

    /// A layer followed by ReLU.
    fn hidden(&mut self, input: &str, layer: &str, output: &str) {
        let rows = self.shape(layer)[0];
        let linear = format!("{output}_linear");
        self.linear(input, layer, 0..rows, &linear);
        self.node("Relu", &[&linear], output, &[]);
    }

    /// x W' + b with some rows of a layer.
    fn linear(&mut self, input: &str, layer: &str, rows: std::ops::Range<usize>, output: &str) {
        let inputs = self.shape(layer)[1];
        let (weight, bias) = (format!("{output}.weight"), format!("{output}.bias"));
        let trained = self.trained;
        let weights = &tensor(trained, &format!("{layer}.weight"));
        self.tensor(
            &weight,
            &[rows.len(), inputs],
            &weights[rows.start * inputs..rows.end * inputs],
        );
        self.tensor(&bias, &[rows.len()], &tensor(trained, &format!("{layer}.bias"))[rows]);
        self.node("Gemm", &[input, &weight, &bias], output, &[("transB", 1)]);
    }

    fn shape(&self, layer: &str) -> &'a [usize] {
        let name = format!("{layer}.weight");
        let entries = self.trained.vae.layout().entries();
        entries.iter().find(|entry| entry.name == name).map_or(&[0, 0], |entry| &entry.shape)
    }

    /// A constant.
    fn tensor(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let sides =
            shape.iter().fold(Message::default(), |message, side| message.number(1, *side as u64));
        self.add(5, &sides.number(2, FLOAT).text(8, name).bytes(9, &bytes));
    }

    fn node(&mut self, operator: &str, inputs: &[&str], output: &str, attributes: &[(&str, u64)]) {
        let node = inputs.iter().fold(Message::default(), |node, input| node.text(1, input));
        let node = node.text(2, output).text(3, output).text(4, operator);
        let node = attributes.iter().fold(node, |node, (name, value)| {
            let attribute = Message::default().text(1, name).number(3, *value).number(20, INT);
            node.message(5, &attribute)
        });
        self.add(1, &node);
    }

    /// The whole file: the graph with its inputs and outputs, `[batch, width]` each.
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

/// A tensor's values.
fn tensor<'a>(trained: &'a Trained, name: &str) -> &'a [f32] {
    let range = trained.vae.layout().range(name).unwrap_or_default();
    &trained.parameters[range]
}
