//! Where the time of a training step goes, on one thread: `cargo run --release --example step`.
//!
//! Times are the fastest of many. `products` repeats the gradient's matrix products alone, on
//! vectors of the same sizes; what is left of the gradient is elementwise work.

#![allow(clippy::print_stdout, reason = "its output is the table")]

use std::{error::Error, time::Instant};

use config::{Likelihood, ModelConfig};
use data::{Batch, Domain, Images, PIXELS, Stream};
use model::{
    Adam, Isa, Layout, Model, State, Vae, blas,
    gemm::{Matrix, multiply},
    noise,
};

const BATCH: usize = 64;
const LATENT: usize = 20;
const REPEATS: u64 = 400;

fn main() -> Result<(), Box<dyn Error>> {
    let branch = blas::deterministic();
    tch::set_num_threads(1);
    println!("{}, MKL {branch}, unlocked: {}", Isa::best().name(), blas::unlocked());

    let pixels = (0..BATCH * PIXELS).map(|i| if i % 5 == 0 { (i % 251) as u8 } else { 0 });
    let images = Images::new(pixels.collect(), vec![0; BATCH])?;
    let indices: Vec<u32> = (0..BATCH as u32).collect();
    let batch = Batch { images: &images, indices: &indices };
    for likelihood in [Likelihood::Bernoulli, Likelihood::Gaussian] {
        let config =
            ModelConfig { hidden_dim: 400, latent_dim: LATENT as u32, likelihood, beta: 1.0 };
        profile(&config, &batch)?;
    }
    Ok(())
}

fn profile(config: &ModelConfig, batch: &Batch<'_>) -> Result<(), Box<dyn Error>> {
    let mut vae = Vae::new(config)?;
    vae.reserve(BATCH)?;
    let mut state = State::initial(&vae, 1);
    let mut gradient = vec![0.0; vae.layout().len()];
    let mut products = Products::new(vae.layout());
    let mut pixels = vec![0.0; BATCH * PIXELS];
    let mut normals = vec![0.0; BATCH * LATENT];
    let adam = Adam::new(1e-3);
    let mut fastest = [f64::INFINITY; 6];
    for step in 0..REPEATS {
        let stream = Stream::new(1, Domain::Noise, step, 0);
        // Adam follows both, as in training: it decides what the caches hold.
        let times = [
            time(|| vae.gradient(&state.parameters, batch, stream, &mut gradient)),
            time(|| adam.apply(&mut state, &gradient, BATCH as u32)),
            time(|| products.run(&state.parameters, &mut gradient)),
            time(|| adam.apply(&mut state, &gradient, BATCH as u32)),
            time(|| batch.gather_pixels(&mut pixels)),
            time(|| noise::normals(Isa::best(), stream, &mut normals)),
        ];
        fastest = std::array::from_fn(|i| fastest[i].min(times[i]));
    }
    let [whole, update, product, _, gather, draw] = fastest;
    let digest = (0..10).map(|_| time(|| state.digest())).fold(f64::INFINITY, f64::min);

    println!("{config:?}, batch {BATCH}: microseconds");
    println!("  gradient      {whole:8.1}");
    println!("    products    {product:8.1}  {:.0} GFLOP/s", products.flops() / product / 1e3);
    println!("    gather      {gather:8.1}");
    println!("    noise       {draw:8.1}");
    println!("    elementwise {:8.1}", whole - product - gather - draw);
    println!("  Adam          {update:8.1}");
    println!("  digest        {digest:8.1}");
    Ok(())
}

/// The matrix products of a gradient, in their order.
struct Products {
    layout: Layout,
    /// Before each layer, and after the last.
    activations: Vec<Vec<f32>>,
}

impl Products {
    fn new(layout: &Layout) -> Self {
        let weights = layout.entries().iter().filter(|entry| entry.shape.len() == 2);
        let widths = weights.map(|entry| entry.shape[1]).chain([PIXELS]);
        Self {
            layout: layout.clone(),
            activations: widths.map(|width| vec![0.5; BATCH * width]).collect(),
        }
    }

    fn run(&mut self, parameters: &[f32], gradient: &mut [f32]) {
        let weights = self.layout.entries().iter().filter(|entry| entry.shape.len() == 2);
        let weights: Vec<_> = weights.map(|e| (e.shape[0], e.shape[1], e.range.clone())).collect();
        for (layer, (outputs, inputs, range)) in weights.iter().enumerate() {
            let weight = Matrix::new(&parameters[range.clone()], *outputs, *inputs);
            let (before, after) = self.activations.split_at_mut(layer + 1);
            // The encoder's output is twice as wide as the decoder's input.
            let mut wide = vec![0.0; BATCH * outputs];
            let fits = after[0].len() == wide.len();
            let y = if fits { &mut after[0] } else { &mut wide };
            multiply(Matrix::new(&before[layer], BATCH, *inputs), weight.t(), y);
        }
        for (layer, (outputs, inputs, range)) in weights.iter().enumerate().rev() {
            let weight = Matrix::new(&parameters[range.clone()], *outputs, *inputs);
            let (before, after) = self.activations.split_at_mut(layer + 1);
            let wide = vec![0.5; BATCH * outputs];
            let dy = if after[0].len() == wide.len() { &after[0] } else { &wide };
            let dy = Matrix::new(dy, BATCH, *outputs);
            let x = Matrix::new(&before[layer], BATCH, *inputs);
            multiply(dy.t(), x, &mut gradient[range.clone()]);
            if layer > 0 {
                multiply(dy, weight, &mut before[layer]);
            }
        }
        // Otherwise the numbers would grow or vanish from one repetition to the next.
        self.activations[0].fill(0.5);
    }

    fn flops(&self) -> f64 {
        let weights = self.layout.entries().iter().filter(|entry| entry.shape.len() == 2);
        let products = [2].into_iter().chain(std::iter::repeat(3));
        weights
            .zip(products)
            .map(|(e, products)| (2 * products * BATCH * e.range.len()) as f64)
            .sum()
    }
}

/// The time of a call, in microseconds.
fn time<T>(run: impl FnOnce() -> T) -> f64 {
    let start = Instant::now();
    std::hint::black_box(run());
    start.elapsed().as_secs_f64() * 1e6
}
