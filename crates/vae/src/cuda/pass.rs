//! A batch on the GPU, from pixels to the gradients of all parameters: the order of the kernels, and
//! the addresses of their inputs and outputs. `crate::pass` does the same on a CPU.

use std::ops::Range;

use model::cuda::{Buffer, Gpu, GpuAddress, GpuError, Pinned};

use crate::network::{Linear, Network};

use super::{
    kernels::{Kernels, Sides, Step, gradient_tiles},
    line::Shape,
};

/// Words of a `Layer`, as declared in `gradients.cu`.
const LAYER_WORDS: usize = 10;

const LAYERS: usize = 6;

/// The vectors between the layers. Matrices have one row per image; from z on, one row per sample.
#[derive(Debug)]
pub(super) struct Work {
    floats: Buffer<f32>,
    doubles: Buffer<f64>,
    layers: Buffer<u32>,
}

/// The address of each vector.
#[derive(Clone, Copy, Debug)]
struct Vectors {
    x: GpuAddress,
    encoder: [GpuAddress; 2],
    stats: GpuAddress,
    deviation: GpuAddress,
    noise: GpuAddress,
    z: GpuAddress,
    decoder: [GpuAddress; 2],
    output: GpuAddress,
    terms: GpuAddress,
    d_decoder: [GpuAddress; 2],
    dz: GpuAddress,
    d_stats: GpuAddress,
    d_encoder: [GpuAddress; 2],
    weights: GpuAddress,
    losses: GpuAddress,
    ratios: GpuAddress,
    divergences: GpuAddress,
    bounds: GpuAddress,
}

/// The addresses of a batch that are not between layers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) images: GpuAddress,
    pub(super) order: GpuAddress,
    pub(super) parameters: GpuAddress,
    pub(super) gradient: GpuAddress,
    pub(super) sums: GpuAddress,
    /// Set if the loss is not finite; [`GpuAddress::NULL`] if it is not used.
    pub(super) stopped: GpuAddress,
    /// How the groups' sums are added, and how many nodes remain: see `sums.cu`.
    pub(super) merges: GpuAddress,
    pub(super) nodes: usize,
    pub(super) binarize: bool,
}

/// The kernels and addresses of a batch.
#[derive(Debug)]
pub(super) struct BatchKernels<'a> {
    network: &'a Network,
    kernels: &'a Kernels,
    step: Step,
    ends: Ends,
    vectors: Vectors,
    layers: GpuAddress,
}

/// The numbers per image in the vector of floats; `doubles` is the same for doubles.
fn floats(shape: &Shape) -> usize {
    let Shape { samples, pixels, hidden, latent, .. } = *shape;
    pixels + 4 * hidden + 5 * latent + samples * (2 * pixels + 4 * hidden + 3 * latent + 1)
}

const fn doubles(shape: &Shape) -> usize {
    2 + 2 * shape.samples
}

/// Divides memory into consecutive parts.
struct Cutter {
    next: GpuAddress,
    images: usize,
}

impl Cutter {
    fn floats(&mut self, width: usize) -> GpuAddress {
        let address = self.next;
        self.next = address.offset::<f32>(self.images * width);
        address
    }

    fn doubles(&mut self, width: usize) -> GpuAddress {
        let address = self.next;
        self.next = address.offset::<f64>(self.images * width);
        address
    }
}

impl Work {
    pub(super) fn new(gpu: &Gpu, network: &Network, shape: &Shape) -> Result<Self, GpuError> {
        let work = Self {
            floats: gpu.zeros(shape.images() * floats(shape))?,
            doubles: gpu.zeros(shape.images() * doubles(shape))?,
            layers: gpu.zeros(LAYERS * LAYER_WORDS)?,
        };
        work.write_layers(gpu, network, shape)
    }

    fn write_layers(
        mut self,
        gpu: &Gpu,
        network: &Network,
        shape: &Shape,
    ) -> Result<Self, GpuError> {
        let vectors = self.vectors(shape);
        let mut words: Pinned<u32> = gpu.pinned(LAYERS * LAYER_WORDS)?;
        let mut first_tile = 0;
        let listed = layers(network).into_iter().zip(vectors.of_layers(shape.samples));
        let lines = words.as_mut_slice()?.chunks_exact_mut(LAYER_WORDS);
        for ((layer, (d, x, rows)), line) in listed.zip(lines) {
            let [weight, bias] =
                [&layer.weight, &layer.bias].map(|range: &Range<usize>| range.start);
            line[..4].copy_from_slice(&[d.words(), x.words()].concat());
            let rest = [weight, bias, layer.outputs, layer.inputs, first_tile, rows];
            for (word, value) in line[4..].iter_mut().zip(rest) {
                *word = value as u32;
            }
            first_tile += gradient_tiles((layer.outputs, layer.inputs));
        }
        gpu.upload(&mut words, &mut self.layers)?;
        Ok(self)
    }

    fn vectors(&self, shape: &Shape) -> Vectors {
        let Shape { samples, pixels, hidden, latent, .. } = *shape;
        let mut cut = Cutter { next: self.floats.address(), images: shape.images() };
        let mut cut_doubles = Cutter { next: self.doubles.address(), images: shape.images() };
        Vectors {
            x: cut.floats(pixels),
            encoder: [cut.floats(hidden), cut.floats(hidden)],
            stats: cut.floats(2 * latent),
            deviation: cut.floats(latent),
            noise: cut.floats(samples * latent),
            z: cut.floats(samples * latent),
            decoder: [cut.floats(samples * hidden), cut.floats(samples * hidden)],
            output: cut.floats(samples * pixels),
            terms: cut.floats(samples * pixels),
            d_decoder: [cut.floats(samples * hidden), cut.floats(samples * hidden)],
            dz: cut.floats(samples * latent),
            d_stats: cut.floats(2 * latent),
            d_encoder: [cut.floats(hidden), cut.floats(hidden)],
            weights: cut.floats(samples),
            losses: cut_doubles.doubles(samples),
            ratios: cut_doubles.doubles(samples),
            divergences: cut_doubles.doubles(1),
            bounds: cut_doubles.doubles(1),
        }
    }

    /// The pass over a batch of this shape, in this memory.
    pub(super) fn pass<'a>(
        &self,
        network: &'a Network,
        kernels: &'a Kernels,
        step: Step,
        ends: Ends,
    ) -> BatchKernels<'a> {
        let vectors = self.vectors(&step.shape);
        BatchKernels { network, kernels, step, ends, vectors, layers: self.layers.address() }
    }
}

/// The layers, in the order of their parameters.
fn layers(network: &Network) -> [&Linear; LAYERS] {
    let ([a, b, c], [d, e, f]) = (&network.encoder, &network.decoder);
    [a, b, c, d, e, f]
}

impl Vectors {
    /// For each layer: its output's gradient, its input, and the number of rows per image.
    const fn of_layers(&self, samples: usize) -> [(GpuAddress, GpuAddress, usize); LAYERS] {
        [
            (self.d_encoder[0], self.x, 1),
            (self.d_encoder[1], self.encoder[0], 1),
            (self.d_stats, self.encoder[1], 1),
            (self.d_decoder[0], self.z, samples),
            (self.d_decoder[1], self.decoder[0], samples),
            (self.output, self.decoder[1], samples),
        ]
    }
}

impl BatchKernels<'_> {
    /// Computes everything from pixels to the losses and the gradient of the decoder's output.
    pub(super) fn forward(&self) -> Result<(), GpuError> {
        let Self { kernels, step, ends, vectors, .. } = self;
        kernels.gather(step, [ends.images, ends.order], ends.binarize, vectors.x)?;
        let images = step.shape.images();
        let [first, second, third] = &self.network.encoder;
        self.layer(first, vectors.x, vectors.encoder[0], images, true)?;
        self.layer(second, vectors.encoder[0], vectors.encoder[1], images, true)?;
        self.layer(third, vectors.encoder[1], vectors.stats, images, false)?;
        let Vectors { stats, deviation, noise, z, divergences, ratios, .. } = *vectors;
        kernels.latent(step, [stats, deviation, noise, z, divergences, ratios])?;
        let rows = step.shape.rows();
        let [first, second, third] = &self.network.decoder;
        self.layer(first, z, vectors.decoder[0], rows, true)?;
        self.layer(second, vectors.decoder[0], vectors.decoder[1], rows, true)?;
        self.likelihood(third)?;
        if step.shape.samples > 1 {
            let Vectors { losses, ratios, weights, bounds, output, .. } = *vectors;
            kernels.weigh(step, [losses, ratios, weights, bounds])?;
            kernels.weigh_rows(&step.shape, [weights, output])?;
        }
        Ok(())
    }

    /// Computes the sums of the batch, after [`BatchKernels::forward`].
    pub(super) fn totals(&self) -> Result<(), GpuError> {
        let Vectors { losses, divergences, bounds, .. } = self.vectors;
        let addresses = [losses, divergences, bounds, self.ends.merges];
        let Ends { nodes, sums, stopped, .. } = self.ends;
        self.kernels.totals(&self.step, addresses, nodes, [sums, stopped])
    }

    fn log_variance(&self) -> GpuAddress {
        let place = self.network.log_variance;
        place.map_or(GpuAddress::NULL, |place| self.ends.parameters.offset::<f32>(place))
    }

    fn likelihood(&self, layer: &Linear) -> Result<(), GpuError> {
        let Vectors { x, decoder: [_, h], output, terms, losses, .. } = self.vectors;
        let shape = &self.step.shape;
        let sides = Sides { rows: shape.rows(), columns: layer.outputs, terms: layer.inputs };
        let (w, bias) = self.weight_and_bias(layer);
        let log_variance = self.log_variance();
        if self.network.log_variance.is_some() {
            let addresses = [h, w, bias, log_variance, x, output, terms];
            self.kernels.gaussian(addresses, sides, shape.samples)?;
        } else {
            self.kernels.bernoulli([h, w, bias, x, output, terms], sides, shape.samples)?;
        }
        self.kernels.losses(shape, [terms, log_variance, losses])
    }

    /// Computes the gradients of all parameters from that of the decoder's output.
    pub(super) fn backward(&self) -> Result<(), GpuError> {
        let Self { kernels, step, vectors, .. } = self;
        let (images, rows) = (step.shape.images(), step.shape.rows());
        let [first, second, third] = &self.network.decoder;
        let [h1, h2] = vectors.decoder;
        let [d1, d2] = vectors.d_decoder;
        self.input_gradient(third, vectors.output, h2, d2, rows)?;
        self.input_gradient(second, d2, h1, d1, rows)?;
        self.input_gradient(first, d1, GpuAddress::NULL, vectors.dz, rows)?;
        let Vectors { dz, noise, stats, deviation, weights, d_stats, .. } = *vectors;
        if step.shape.samples > 1 {
            kernels.samples_gradient(step, [dz, noise, stats, deviation, weights, d_stats])?;
        } else {
            kernels.latent_gradient(step, [dz, noise, stats, deviation, d_stats])?;
        }
        let [_, second, third] = &self.network.encoder;
        let [h1, h2] = vectors.encoder;
        let [d1, d2] = vectors.d_encoder;
        self.input_gradient(third, d_stats, h2, d2, images)?;
        self.input_gradient(second, d2, h1, d1, images)?;
        self.parameter_gradients()
    }

    fn parameter_gradients(&self) -> Result<(), GpuError> {
        let (gradient, length) = (self.ends.gradient, self.network.layout.len());
        let sides = layers(self.network).map(|layer| (layer.outputs, layer.inputs));
        self.kernels.parameter_gradients(&self.step, self.layers, &sides, gradient, length)?;
        let Some(place) = self.network.log_variance else { return Ok(()) };
        let Vectors { losses, weights, .. } = self.vectors;
        let addresses = [self.log_variance(), losses, weights, gradient];
        self.kernels.log_variance_gradient(&self.step, addresses, place, length)
    }

    fn weight_and_bias(&self, layer: &Linear) -> (GpuAddress, GpuAddress) {
        let place = |range: &Range<usize>| self.ends.parameters.offset::<f32>(range.start);
        (place(&layer.weight), place(&layer.bias))
    }

    /// `out` = x W' + b; with `relu`, negative results become zero.
    fn layer(
        &self,
        layer: &Linear,
        x: GpuAddress,
        out: GpuAddress,
        rows: usize,
        relu: bool,
    ) -> Result<(), GpuError> {
        let (w, bias) = self.weight_and_bias(layer);
        let sides = Sides { rows, columns: layer.outputs, terms: layer.inputs };
        self.kernels.layer([x, w, bias, out], sides, relu)
    }

    /// `out` = d W, but zero at elements where `activation`, the layer's input, is not above zero.
    fn input_gradient(
        &self,
        layer: &Linear,
        d: GpuAddress,
        activation: GpuAddress,
        out: GpuAddress,
        rows: usize,
    ) -> Result<(), GpuError> {
        let (w, _) = self.weight_and_bias(layer);
        let sides = Sides { rows, columns: layer.inputs, terms: layer.outputs };
        self.kernels.input_gradient([d, w, activation, out], sides)
    }
}
