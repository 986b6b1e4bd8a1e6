//! Fully connected layers with ReLU between them.

use super::Graph;

/// Adds the encoder without its last layer. Returns the name of the last layer's input, and the name of that layer.
pub(super) fn encoder(graph: &mut Graph<'_>, input: &str) -> (&'static str, &'static str) {
    hidden(graph, input, "encoder.0", "h1");
    hidden(graph, "h1", "encoder.2", "h2");
    ("h2", "encoder.4")
}

pub(super) fn decoder(graph: &mut Graph<'_>, input: &str, output: &str) {
    hidden(graph, input, "decoder.0", "h1");
    hidden(graph, "h1", "decoder.2", "h2");
    graph.whole_linear("h2", "decoder.4", output);
}

/// A layer followed by ReLU.
fn hidden(graph: &mut Graph<'_>, input: &str, layer: &str, output: &str) {
    let linear = format!("{output}_linear");
    graph.whole_linear(input, layer, &linear);
    graph.node("Relu", &[&linear], output, &[]);
}
