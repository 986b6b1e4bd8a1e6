//! Measures the parts of a training step, on one thread or more:
//! `cargo run --release -p vae --example step -- 1`.
//!
//! Times are the fastest of many. `products` repeats only the matrix products of the gradient, on
//! vectors of the same sizes, on one thread, and adds the fastest time of each. The rest of the gradient's time is
//! elementwise work and waiting for memory.

#![allow(clippy::print_stdout, reason = "prints the measurements")]

use std::{env, error::Error, sync::Arc, time::Instant};

use data::{Batch, Domain, Stream};
use images::{Images, PIXELS};
use model::{
    Adam, Bf16, Isa, Layout, Model, State, StepContext, Team, bf16,
    gemm::{Factor, Matrix, multiply},
    noise,
};
use vae::{Settings, Vae};
use vae_options::{Architecture, Likelihood, ModelConfig, Precision};

const BATCHES: [usize; 2] = [64, 256];
const LATENT: usize = 20;
const REPEATS: u64 = 200;

fn main() -> Result<(), Box<dyn Error>> {
    let threads = env::args().nth(1).map_or(Ok(1), |threads| threads.parse())?;
    let team = Arc::new(Team::new(threads));
    println!("{threads} threads, {}", Isa::best().name());

    for images in BATCHES {
        let pixels = (0..images * PIXELS).map(|i| if i % 5 == 0 { (i % 251) as u8 } else { 0 });
        let set = Images::new(images::Shape::grey(28, 28), pixels.collect(), vec![0; images])?;
        let indices: Vec<u32> = (0..images as u32).collect();
        let batch = Batch::of(&set, &indices);
        for likelihood in [Likelihood::Bernoulli, Likelihood::Gaussian] {
            let config = ModelConfig {
                image: vae_options::MNIST_IMAGE,
                architecture: Architecture::Dense,
                hidden_dim: 400,
                latent_dim: LATENT as u32,
                likelihood,
                beta: 1.0,
            };
            profile(&team, &config, Precision::F32, &batch, |x| x)?;
            profile(&team, &config, Precision::Bf16, &batch, Bf16::from_f32)?;
        }
    }
    Ok(())
}

fn profile<T: Factor>(
    team: &Arc<Team>,
    config: &ModelConfig,
    precision: Precision,
    batch: &Batch<'_, Images>,
    element: fn(f32) -> T,
) -> Result<(), Box<dyn Error>> {
    let images = batch.len();
    let mut vae = Vae::with(config, Settings { precision, ..Default::default() })?;
    vae.set_team(Arc::clone(team));
    vae.reserve(images)?;
    let mut state = State::initial(&vae, 1);
    let mut gradient = vec![0.0; vae.layout().len()];
    let mut products = Products::new(vae.layout(), images, element);
    let mut normals = vec![0.0; images * LATENT];
    let mut weights = vec![Bf16::default(); vae.layout().len()];
    let adam = Adam::new(1e-3);
    let mut fastest = [f64::INFINITY; 4];
    for step in 0..REPEATS {
        let stream = Stream::new(1, Domain::Noise, step, 0);
        let context = StepContext::alone(stream);
        // Adam runs in between as in training, because it changes the content of the caches.
        let times = [
            time(|| vae.gradient(&state.parameters, batch, &context, &mut gradient).unwrap()),
            time(|| adam.apply_with(Isa::best(), team, &mut state, &gradient, images as u32)),
            time(|| bf16::round(Isa::best(), &state.parameters, &mut weights)),
            time(|| noise::normals(Isa::best(), stream, &mut normals)),
        ];
        products.run(&state.parameters, &mut gradient);
        adam.apply_with(Isa::best(), team, &mut state, &gradient, images as u32);
        fastest = std::array::from_fn(|i| fastest[i].min(times[i]));
    }
    let [whole, update, rounding, draw] = fastest;
    let product = products.fastest.iter().sum::<f64>();
    let rounding = if precision == Precision::Bf16 { rounding } else { 0.0 };
    let digest = (0..10).map(|_| time(|| state.digest(team))).fold(f64::INFINITY, f64::min);

    println!("{precision:?}, {config:?}, batch {images}: microseconds");
    println!("  gradient      {whole:8.1}");
    println!("    products    {product:8.1}  {:.0} GFLOP/s", products.flops() / product / 1e3);
    println!("    rounding    {rounding:8.1}  of the weights");
    println!("    noise       {draw:8.1}");
    println!("    elementwise {:8.1}", whole - product - rounding - draw);
    println!("  Adam          {update:8.1}");
    println!("  digest        {digest:8.1}");
    Ok(())
}

/// The matrix products of a gradient, in the order of their computation.
struct Products<T> {
    layout: Layout,
    images: usize,
    element: fn(f32) -> T,
    weights: Vec<T>,
    /// The inputs of the layers, and the output of the last layer.
    activations: Vec<Vec<T>>,
    result: Vec<f32>,
    /// The fastest time of each product, in microseconds.
    fastest: Vec<f64>,
}

impl<T: Factor> Products<T> {
    fn new(layout: &Layout, images: usize, element: fn(f32) -> T) -> Self {
        let weights = layout.entries().iter().filter(|entry| entry.shape.len() == 2);
        // The encoder's output is twice as wide as the decoder's input; one vector is used for both.
        let widths = weights.flat_map(|entry| entry.shape.clone());
        let widest = widths.max().unwrap_or_default();
        let layers = layout.entries().len() / 2;
        Self {
            layout: layout.clone(),
            images,
            element,
            weights: vec![element(0.0); layout.len()],
            activations: vec![vec![element(0.5); images * widest]; layers + 1],
            result: vec![0.0; images * widest],
            fastest: vec![f64::INFINITY; 3 * layers - 1],
        }
    }

    fn run(&mut self, parameters: &[f32], gradient: &mut [f32]) {
        for (weight, parameter) in self.weights.iter_mut().zip(parameters) {
            *weight = (self.element)(*parameter);
        }
        let Self { layout, images, weights, activations, result, fastest, .. } = self;
        let layers: Vec<_> = layout.entries().iter().filter(|e| e.shape.len() == 2).collect();
        let sides = |layer: usize| (layers[layer].shape[0], layers[layer].shape[1]);
        let weight = |layer: usize| {
            let (outputs, inputs) = sides(layer);
            Matrix::new(&weights[layers[layer].range.clone()], outputs, inputs)
        };
        let rows = |place: usize, width: usize| {
            Matrix::new(&activations[place][..*images * width], *images, width)
        };
        let mut fastest = fastest.iter_mut();
        let mut product = |a, b, out: &mut [f32]| {
            let elapsed = time(|| multiply(Isa::best(), a, b, out));
            fastest.next().into_iter().for_each(|fastest| *fastest = elapsed.min(*fastest));
        };
        for layer in 0..layers.len() {
            let (outputs, inputs) = sides(layer);
            product(rows(layer, inputs), weight(layer).t(), &mut result[..*images * outputs]);
        }
        for layer in (0..layers.len()).rev() {
            let (outputs, inputs) = sides(layer);
            let (x, dy) = (rows(layer, inputs), rows(layer + 1, outputs));
            product(dy.t(), x, &mut gradient[layers[layer].range.clone()]);
            if layer > 0 {
                product(dy, weight(layer), &mut result[..*images * inputs]);
            }
        }
    }

    fn flops(&self) -> f64 {
        let weights = self.layout.entries().iter().filter(|entry| entry.shape.len() == 2);
        let products = [2].into_iter().chain(std::iter::repeat(3));
        weights
            .zip(products)
            .map(|(e, products)| (2 * products * self.images * e.range.len()) as f64)
            .sum()
    }
}

/// The time of a call, in microseconds.
fn time<T>(run: impl FnOnce() -> T) -> f64 {
    let start = Instant::now();
    std::hint::black_box(run());
    start.elapsed().as_secs_f64() * 1e6
}
