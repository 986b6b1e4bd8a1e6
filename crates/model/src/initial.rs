//! Initial parameters as in `torch.nn.Linear`, from one stream per tensor.

use data::{Domain, Stream};

use crate::Layout;

/// Writes uniform numbers between -1/sqrt(n) and 1/sqrt(n) to every tensor
/// `X.weight` of shape `[outputs, n]` or `[outputs, n1, n2 ..]`, where n is the product, and to
/// its `X.bias`; writes zeros to all other tensors. Tensor i uses the stream (seed, initial, i).
///
/// # Panics
///
/// If the vector does not have the layout's length.
pub fn initialise_linear(layout: &Layout, seed: u64, parameters: &mut [f32]) {
    assert_eq!(parameters.len(), layout.len(), "parameters and layout differ in length");
    parameters.fill(0.0);
    for (index, entry) in layout.entries().iter().enumerate() {
        let Some(inputs) = inputs(layout, &entry.name) else { continue };
        let bound = (1.0 / (inputs as f64).sqrt()) as f32;
        let stream = Stream::new(seed, Domain::Initial, index as u64, 0);
        uniform(stream, bound, &mut parameters[entry.range.clone()]);
    }
}

/// The number of inputs of the layer that the tensor belongs to, if it belongs to a layer.
fn inputs(layout: &Layout, name: &str) -> Option<usize> {
    let layer = name.strip_suffix(".weight").or_else(|| name.strip_suffix(".bias"))?;
    let weight = layout
        .entries()
        .iter()
        .find(|entry| entry.name.strip_suffix(".weight") == Some(layer) && entry.shape.len() > 1)?;
    Some(weight.shape[1..].iter().product::<usize>().max(1))
}

/// Writes uniform numbers in [-bound, bound), on a grid of 2^24 points.
fn uniform(stream: Stream, bound: f32, out: &mut [f32]) {
    for (block, values) in out.chunks_mut(4).enumerate() {
        for (value, word) in values.iter_mut().zip(stream.block(block as u32)) {
            let unit = (word >> 8) as f32 * (1.0 / 16_777_216.0);
            *value = (2.0 * unit - 1.0) * bound;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tensor_has_the_bound_of_its_layer() {
        let layout = Layout::new([
            ("a.weight".to_owned(), vec![50, 100]),
            ("a.bias".to_owned(), vec![50]),
            ("log_variance".to_owned(), vec![1]),
            ("b.weight".to_owned(), vec![30, 5, 5]),
        ]);
        let mut parameters = vec![f32::NAN; layout.len()];
        initialise_linear(&layout, 1, &mut parameters);
        for (name, bound) in [("a.weight", 0.1_f32), ("a.bias", 0.1), ("b.weight", 0.2)] {
            let values = &parameters[layout.range(name).unwrap()];
            let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            assert!(largest <= bound && largest > 0.9 * bound, "{name}: {largest}");
            let mean = values.iter().sum::<f32>() / values.len() as f32;
            // Five standard errors; the standard deviation of a uniform number is bound / sqrt(3).
            assert!(mean.abs() < 5.0 * bound / (3.0 * values.len() as f32).sqrt(), "{name}");
        }
        let mut others = parameters.clone();
        for name in ["a.weight", "a.bias", "b.weight"] {
            others[layout.range(name).unwrap()].fill(0.0);
        }
        assert!(others.iter().all(|value| value.to_bits() == 0), "padding and log_variance");
    }

    #[test]
    fn it_depends_on_the_seed_alone() {
        let layout = Layout::new([("a.weight".to_owned(), vec![7, 3])]);
        let draw = |seed| {
            let mut parameters = vec![1.0; layout.len()];
            initialise_linear(&layout, seed, &mut parameters);
            parameters
        };
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
    }
}
