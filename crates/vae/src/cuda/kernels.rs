//! The kernels of `step.cu`. Each is launched with the grid and the arguments that it declares.

#![allow(unsafe_code, reason = "starts kernels")]

use std::{ffi::CStr, sync::Arc};

use model::cuda::{Arguments, Gpu, GpuAddress, GpuError, Graph, Kernel};
use vae_options::Precision;

use super::{line::Shape, sources};

/// Threads of a block of an elementwise kernel.
const THREADS: u32 = 256;

/// Threads that add up a row together.
const LANES: usize = 16;

/// Terms of a chunk of a product, and the most chunks that a block of the small tile computes together.
const CHUNK: usize = 128;
const CHUNKS_MAX: usize = 8;

/// Threads of the small tile that compute a chunk.
const SMALL_THREADS: u32 = 64;
const SMALL_BF16_THREADS: u32 = 128;
const LARGE_THREADS: u32 = 256;

/// The rows and columns of a tile.
const SMALL: (usize, usize) = (16, 16);
const SMALL_BF16: (usize, usize) = (32, 32);
const LARGE: (usize, usize) = (128, 64);

/// The side of a tile of a weight's gradient.
const GRADIENT_TILE: usize = 64;

/// The least number of large tiles of a product; with fewer, most of a GPU would be idle, so small tiles are used.
const LARGE_TILES_MIN: usize = 64;

/// The kind of tiles that products are cut into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tiles {
    /// The kind that suits the sizes.
    #[default]
    Auto,
    /// Small tiles.
    Small,
    /// Large tiles.
    Large,
}

/// The kernels of a product, one for each kind of tile.
#[derive(Debug)]
struct Product {
    small: Kernel,
    large: Kernel,
}

/// The launch of a product.
struct Plan<'a> {
    kernel: &'a Kernel,
    blocks: usize,
    threads: u32,
}

/// The sides of a product: rows and columns of the result, and the length of its sums.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sides {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) terms: usize,
}

impl Sides {
    fn words(self) -> [u32; 3] {
        [self.rows as u32, self.columns as u32, self.terms as u32]
    }
}

#[derive(Debug)]
pub(super) struct Kernels {
    tiles: Tiles,
    precision: Precision,
    layer: Product,
    input_gradient: Product,
    bernoulli: Product,
    gaussian: Product,
    gather: Kernel,
    latent: Kernel,
    latent_gradient: Kernel,
    weigh: Kernel,
    weigh_rows: Kernel,
    samples_gradient: Kernel,
    parameter_gradients: Kernel,
    log_variance_gradient: Kernel,
    losses: Kernel,
    totals: Kernel,
    partials: Kernel,
    squares: Kernel,
    clip: Kernel,
    update: Kernel,
    advance: Kernel,
    hashes: Kernel,
}

/// The inputs and outputs of the optimizer's kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Updating {
    /// The gradients to add: `count` of them, each with `length` floats.
    pub(super) leaves: GpuAddress,
    pub(super) count: usize,
    pub(super) merges: GpuAddress,
    pub(super) length: usize,
    /// Parameters and both moments.
    pub(super) state: [GpuAddress; 3],
    /// The factor that shortens the sum; [`GpuAddress::NULL`] for none.
    pub(super) factor: GpuAddress,
    /// Set if a loss was not finite, so that nothing changes any more; [`GpuAddress::NULL`] if it is not used.
    pub(super) stopped: GpuAddress,
}

/// Floats of a block whose squares are added separately, and the threads that add them.
const SQUARES_BLOCK: usize = 1 << 14;
const SQUARES_THREADS: u32 = 32;

/// The number of blocks of a vector whose squares are added.
pub(super) const fn squares_blocks(length: usize) -> usize {
    length.div_ceil(SQUARES_BLOCK)
}

/// The first arguments of most kernels: the table, the cursor and the sizes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) table: GpuAddress,
    pub(super) cursor: GpuAddress,
    pub(super) shape: Shape,
}

impl Step {
    fn arguments(&self) -> Arguments {
        Arguments::default().address(self.table).address(self.cursor).words(&self.shape.words())
    }
}

/// Adds pointers to the arguments.
fn addresses(arguments: Arguments, addresses: &[GpuAddress]) -> Arguments {
    addresses.iter().fold(arguments, |arguments, address| arguments.address(*address))
}

/// Adds numbers to the arguments.
fn words(arguments: Arguments, words: &[u32]) -> Arguments {
    words.iter().fold(arguments, |arguments, word| arguments.word(*word))
}

/// Launches at least one thread per element.
fn elementwise(kernel: &Kernel, elements: usize, arguments: Arguments) -> Result<(), GpuError> {
    start(kernel, (elements.div_ceil(THREADS as usize), 1), THREADS, arguments)
}

fn start(
    kernel: &Kernel,
    (across, down): (usize, usize),
    threads: u32,
    mut arguments: Arguments,
) -> Result<(), GpuError> {
    // SAFETY: the methods below give the arguments that `step.cu` declares. The memory is allocated
    // (`pass.rs`) with the lengths that follow from the sizes.
    unsafe { kernel.start((across as u64, down as u64), threads, &mut arguments) }
}

/// Launches a recorded graph.
pub(super) fn launch(graph: &Graph) -> Result<(), GpuError> {
    // SAFETY: the model keeps the memory that a graph uses for longer than the graph.
    unsafe { graph.launch() }
}

/// The names of the kernels that are products, small and large.
struct Names {
    layer: [&'static CStr; 2],
    input_gradient: [&'static CStr; 2],
    bernoulli: [&'static CStr; 2],
    gaussian: [&'static CStr; 2],
    parameter_gradients: &'static CStr,
}

impl Names {
    const fn of(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self {
                layer: [c"layer_small", c"layer_large"],
                input_gradient: [c"input_gradient_small", c"input_gradient_large"],
                bernoulli: [c"bernoulli_small", c"bernoulli_large"],
                gaussian: [c"gaussian_small", c"gaussian_large"],
                parameter_gradients: c"parameter_gradients",
            },
            Precision::Bf16 => Self {
                layer: [c"layer_bf16_small", c"layer_bf16_large"],
                input_gradient: [c"input_gradient_bf16_small", c"input_gradient_bf16_large"],
                bernoulli: [c"bernoulli_bf16_small", c"bernoulli_bf16_large"],
                gaussian: [c"gaussian_bf16_small", c"gaussian_bf16_large"],
                parameter_gradients: c"bf16_gradients",
            },
        }
    }
}

impl Kernels {
    pub(super) fn load(gpu: &Gpu, tiles: Tiles, precision: Precision) -> Result<Self, GpuError> {
        let module = Arc::new(gpu.load(sources::image(gpu.capability())?)?);
        let kernel = |name| module.kernel(name);
        let product = |[small, large]: [&'static CStr; 2]| -> Result<_, GpuError> {
            Ok(Product { small: kernel(small)?, large: kernel(large)? })
        };
        let Names { layer, input_gradient, bernoulli, gaussian, parameter_gradients } =
            Names::of(precision);
        Ok(Self {
            tiles,
            precision,
            layer: product(layer)?,
            input_gradient: product(input_gradient)?,
            bernoulli: product(bernoulli)?,
            gaussian: product(gaussian)?,
            gather: kernel(c"gather")?,
            latent: kernel(c"latent")?,
            latent_gradient: kernel(c"latent_gradient")?,
            weigh: kernel(c"weigh")?,
            weigh_rows: kernel(c"weigh_rows")?,
            samples_gradient: kernel(c"samples_gradient")?,
            parameter_gradients: kernel(parameter_gradients)?,
            log_variance_gradient: kernel(c"log_variance_gradient")?,
            losses: kernel(c"losses")?,
            totals: kernel(c"totals")?,
            partials: kernel(c"partials")?,
            squares: kernel(c"squares")?,
            clip: kernel(c"clip")?,
            update: kernel(c"update")?,
            advance: kernel(c"advance")?,
            hashes: kernel(c"hashes")?,
        })
    }

    fn plan<'a>(&self, product: &'a Product, sides: Sides) -> Plan<'a> {
        let tiles = |(rows, columns)| sides.rows.div_ceil(rows) * sides.columns.div_ceil(columns);
        let is_large = match self.tiles {
            Tiles::Auto => tiles(LARGE) >= LARGE_TILES_MIN,
            Tiles::Small => false,
            Tiles::Large => true,
        };
        if is_large {
            return Plan { kernel: &product.large, blocks: tiles(LARGE), threads: LARGE_THREADS };
        }
        let chunks = sides.terms.div_ceil(CHUNK).clamp(1, CHUNKS_MAX) as u32;
        let (small, threads) = match self.precision {
            Precision::F32 => (SMALL, chunks * SMALL_THREADS),
            Precision::Bf16 => (SMALL_BF16, SMALL_BF16_THREADS),
        };
        Plan { kernel: &product.small, blocks: tiles(small), threads }
    }

    fn multiply(
        &self,
        product: &Product,
        sides: Sides,
        arguments: Arguments,
    ) -> Result<(), GpuError> {
        let Plan { kernel, blocks, threads } = self.plan(product, sides);
        start(kernel, (blocks, 1), threads, arguments)
    }

    /// `out` = x w' + bias; with `relu`, negative results become zero.
    pub(super) fn layer(
        &self,
        [x, w, bias, out]: [GpuAddress; 4],
        sides: Sides,
        relu: bool,
    ) -> Result<(), GpuError> {
        let arguments = addresses(Arguments::default(), &[x, w, bias, out]);
        let arguments = words(arguments, &sides.words()).word(relu.into());
        self.multiply(&self.layer, sides, arguments)
    }

    /// `out` = d w, but zero at elements where `activation` is not above zero.
    pub(super) fn input_gradient(
        &self,
        [d, w, activation, out]: [GpuAddress; 4],
        sides: Sides,
    ) -> Result<(), GpuError> {
        let arguments = addresses(Arguments::default(), &[d, w, activation, out]);
        self.multiply(&self.input_gradient, sides, words(arguments, &sides.words()))
    }

    /// Computes the last layer and the terms of -log p(x|z).
    pub(super) fn bernoulli(
        &self,
        [h, w, bias, x, gradient, terms]: [GpuAddress; 6],
        sides: Sides,
        samples: usize,
    ) -> Result<(), GpuError> {
        let arguments = addresses(Arguments::default(), &[h, w, bias, x, gradient, terms]);
        let arguments = words(arguments, &sides.words()).word(samples as u32);
        self.multiply(&self.bernoulli, sides, arguments)
    }

    /// As [`Kernels::bernoulli`], for the Gaussian likelihood.
    pub(super) fn gaussian(
        &self,
        [h, w, bias, log_variance, x, gradient, terms]: [GpuAddress; 7],
        sides: Sides,
        samples: usize,
    ) -> Result<(), GpuError> {
        let list = [h, w, bias, log_variance, x, gradient, terms];
        let arguments = words(addresses(Arguments::default(), &list), &sides.words());
        self.multiply(&self.gaussian, sides, arguments.word(samples as u32))
    }

    pub(super) fn gather(
        &self,
        step: &Step,
        [images, order]: [GpuAddress; 2],
        binarize: bool,
        x: GpuAddress,
    ) -> Result<(), GpuError> {
        let arguments =
            addresses(step.arguments(), &[images, order]).word(binarize.into()).address(x);
        let fours = step.shape.images() * step.shape.pixels.div_ceil(4);
        elementwise(&self.gather, fours, arguments)
    }

    pub(super) fn latent(
        &self,
        step: &Step,
        [stats, deviation, noise, z, divergences, ratios]: [GpuAddress; 6],
    ) -> Result<(), GpuError> {
        let list = [stats, deviation, noise, z, divergences, ratios];
        elementwise(&self.latent, step.shape.images() * LANES, addresses(step.arguments(), &list))
    }

    pub(super) fn latent_gradient(
        &self,
        step: &Step,
        [dz, noise, stats, deviation, d_stats]: [GpuAddress; 5],
    ) -> Result<(), GpuError> {
        let arguments = addresses(step.arguments(), &[dz, noise, stats, deviation, d_stats]);
        let elements = step.shape.images() * step.shape.latent;
        elementwise(&self.latent_gradient, elements, arguments)
    }

    pub(super) fn weigh(
        &self,
        step: &Step,
        [losses, ratios, weights, bounds]: [GpuAddress; 4],
    ) -> Result<(), GpuError> {
        let arguments = addresses(step.arguments(), &[losses, ratios, weights, bounds]);
        elementwise(&self.weigh, step.shape.images(), arguments)
    }

    pub(super) fn weigh_rows(
        &self,
        shape: &Shape,
        [weights, gradient]: [GpuAddress; 2],
    ) -> Result<(), GpuError> {
        let arguments = Arguments::default().words(&shape.words());
        let arguments = addresses(arguments, &[weights, gradient]);
        elementwise(&self.weigh_rows, shape.rows() * shape.pixels, arguments)
    }

    pub(super) fn samples_gradient(
        &self,
        step: &Step,
        [dz, noise, stats, deviation, weights, d_stats]: [GpuAddress; 6],
    ) -> Result<(), GpuError> {
        let arguments =
            addresses(step.arguments(), &[dz, noise, stats, deviation, weights, d_stats]);
        let elements = step.shape.images() * step.shape.latent;
        elementwise(&self.samples_gradient, elements, arguments)
    }

    /// `layers` are the words that `Work` writes for each layer; `sides` are the outputs and inputs of each layer.
    pub(super) fn parameter_gradients(
        &self,
        step: &Step,
        layers: GpuAddress,
        sides: &[(usize, usize)],
        gradient: GpuAddress,
        length: usize,
    ) -> Result<(), GpuError> {
        let tiles: usize = sides.iter().map(|sides| gradient_tiles(*sides)).sum();
        let widest = sides.iter().map(|(outputs, _)| *outputs).max().unwrap_or_default();
        let bias_blocks = widest.div_ceil(THREADS as usize);
        let arguments =
            step.arguments().address(layers).word(tiles as u32).word(bias_blocks as u32);
        let arguments = arguments.address(gradient).word(length as u32);
        let blocks = (tiles + sides.len() * bias_blocks, step.shape.groups);
        start(&self.parameter_gradients, blocks, THREADS, arguments)
    }

    pub(super) fn log_variance_gradient(
        &self,
        step: &Step,
        [log_variance, losses, weights, gradient]: [GpuAddress; 4],
        place: usize,
        length: usize,
    ) -> Result<(), GpuError> {
        let arguments = addresses(step.arguments(), &[log_variance, losses, weights, gradient]);
        let arguments = arguments.word(place as u32).word(length as u32);
        start(&self.log_variance_gradient, (step.shape.groups, 1), 1, arguments)
    }

    /// `log_variance` is [`GpuAddress::NULL`] for the Bernoulli likelihood.
    pub(super) fn losses(
        &self,
        shape: &Shape,
        [terms, log_variance, losses]: [GpuAddress; 3],
    ) -> Result<(), GpuError> {
        let arguments = addresses(Arguments::default(), &[terms, log_variance, losses]);
        let arguments = words(arguments, &[shape.rows() as u32, shape.pixels as u32]);
        elementwise(&self.losses, shape.rows() * LANES, arguments)
    }

    /// Adds the sums of all groups along the tree that `merges` describes, up to `nodes` nodes.
    pub(super) fn totals(
        &self,
        step: &Step,
        [losses, divergences, bounds, merges]: [GpuAddress; 4],
        nodes: usize,
        [sums, stopped]: [GpuAddress; 2],
    ) -> Result<(), GpuError> {
        let arguments = addresses(step.arguments(), &[losses, divergences, bounds, merges]);
        let arguments = addresses(arguments.word(nodes as u32), &[sums, stopped]);
        start(&self.totals, (1, 1), THREADS, arguments)
    }

    /// Adds `count` gradients along the tree and writes one sum per node to `sums`.
    pub(super) fn add_up(
        &self,
        [gradients, merges, sums]: [GpuAddress; 3],
        count: usize,
        length: usize,
    ) -> Result<(), GpuError> {
        let arguments = addresses(Arguments::default(), &[gradients, merges]);
        let arguments = words(arguments, &[count as u32, length as u32]).address(sums);
        elementwise(&self.partials, length, arguments)
    }

    /// Computes the norm of `sum`, and the factor that shortens it to the allowed norm, if there is one.
    pub(super) fn norm(
        &self,
        step: &Step,
        [sum, blocks, norms, factor]: [GpuAddress; 4],
        length: usize,
        allowed: Option<f64>,
    ) -> Result<(), GpuError> {
        let count = squares_blocks(length);
        let arguments = Arguments::default().address(sum).word(length as u32).address(blocks);
        start(&self.squares, (count, 1), SQUARES_THREADS, arguments)?;
        let allowed = allowed.unwrap_or(f64::NAN).to_bits();
        let arguments =
            Arguments::default().address(step.table).address(step.cursor).address(blocks);
        let arguments = arguments.word(count as u32);
        let arguments = arguments.words(&[allowed as u32, (allowed >> 32) as u32]);
        start(&self.clip, (1, 1), 1, addresses(arguments, &[norms, factor]))
    }

    /// Moves the cursor to the next of `lines` lines of the table.
    pub(super) fn advance(&self, step: &Step, lines: usize) -> Result<(), GpuError> {
        let arguments = Arguments::default().address(step.cursor).word(lines as u32);
        start(&self.advance, (1, 1), 1, arguments)
    }

    /// Hashes `blocks` blocks of a vector.
    pub(super) fn hashes(
        &self,
        [vector, keys, hashes]: [GpuAddress; 3],
        length: usize,
        blocks: usize,
    ) -> Result<(), GpuError> {
        const TOGETHER: usize = 4;
        const HASHES_THREADS: u32 = 32;
        let arguments = Arguments::default().address(vector).word(length as u32).address(keys);
        let arguments = arguments.word(blocks as u32).address(hashes);
        start(&self.hashes, (blocks.div_ceil(TOGETHER), 1), HASHES_THREADS, arguments)
    }

    /// Adds the gradients along the tree, and applies Adam.
    pub(super) fn update(&self, step: &Step, updating: &Updating) -> Result<(), GpuError> {
        let Updating { leaves, count, merges, length, state, factor, stopped } = *updating;
        let arguments = Arguments::default().address(step.table).address(step.cursor);
        let arguments = addresses(arguments, &[leaves, merges]);
        let arguments = words(arguments, &[count as u32, length as u32]);
        let arguments = addresses(addresses(arguments, &state), &[factor, stopped]);
        elementwise(&self.update, length, arguments)
    }
}

/// The number of tiles of a weight's gradient, for a layer with these outputs and inputs.
pub(super) const fn gradient_tiles((outputs, inputs): (usize, usize)) -> usize {
    outputs.div_ceil(GRADIENT_TILE) * inputs.div_ceil(GRADIENT_TILE)
}
