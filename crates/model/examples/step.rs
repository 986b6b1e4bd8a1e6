//! Where the time of a training step goes, on one thread: `cargo run --release --example step`.
//!
//! Times are medians; `products` repeats the step's matrix products alone, and what is left
//! of the gradient is elementwise work, gathering and noise.

#![allow(clippy::print_stdout, reason = "its output is the table")]

use std::time::Instant;

use config::{Likelihood, ModelConfig};
use data::{Batch, Domain, Images, PIXELS, Stream};
use model::{
    Adam, Isa, Model, State, Vae, blas,
    gemm::{Matrix, multiply},
    noise,
};

const HIDDEN: usize = 400;
const LATENT: usize = 20;
const BATCH: usize = 64;
const REPEATS: usize = 400;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let branch = blas::deterministic();
    tch::set_num_threads(1);
    println!("{}, MKL {branch}, unlocked: {}", Isa::best().name(), blas::unlocked());

    let pixels = (0..BATCH * PIXELS).map(|i| if i % 5 == 0 { (i % 251) as u8 } else { 0 });
    let images = Images::new(pixels.collect(), vec![0; BATCH])?;
    let indices: Vec<u32> = (0..BATCH as u32).collect();
    let batch = Batch { images: &images, indices: &indices };
    for likelihood in [Likelihood::Bernoulli, Likelihood::Gaussian] {
        let config = ModelConfig {
            hidden_dim: HIDDEN as u32,
            latent_dim: LATENT as u32,
            likelihood,
            beta: 1.0,
        };
        profile(&config, &batch)?;
    }
    Ok(())
}

fn profile(config: &ModelConfig, batch: &Batch<'_>) -> Result<(), model::ModelError> {
    let mut vae = Vae::new(config)?;
    vae.reserve(batch.len())?;
    let mut state = State::initial(&vae, 1);
    let mut gradient = vec![0.0; vae.layout().len()];
    let adam = Adam::new(1e-3);
    let stream = |step: u64| Stream::new(1, Domain::Noise, step, 0);

    let whole = median(|step| {
        vae.gradient(&state.parameters, batch, stream(step), &mut gradient);
    });
    let (products, flops) = products();
    let mut pixels = vec![0.0; BATCH * PIXELS];
    let gather = median(|_| batch.gather_pixels(&mut pixels));
    let mut normals = vec![0.0; BATCH * LATENT];
    let draw = median(|step| noise::normals(Isa::best(), stream(step), &mut normals));
    let mut apply = |images| median(|_| adam.apply(&mut state, &gradient, images));
    let (update, short_update) = (apply(BATCH as u32), apply(BATCH as u32 - 1));
    let digest = median(|_| {
        std::hint::black_box(state.digest());
    });

    println!("{:?}, hidden {HIDDEN}, latent {LATENT}, batch {BATCH}; us", config.likelihood);
    println!("  gradient      {whole:8.1}");
    println!("    products    {products:8.1}  {:.0} GFLOP/s", flops / products / 1e3);
    println!("    gather      {gather:8.1}");
    println!("    noise       {draw:8.1}");
    println!("    elementwise {:8.1}", whole - products - gather - draw);
    println!("  Adam          {update:8.1}  (images no power of two: {short_update:.1})");
    println!("  digest        {digest:8.1}");
    Ok(())
}

/// The time of the step's matrix products alone, and their floating-point operations.
fn products() -> (f64, f64) {
    let layers = [
        (PIXELS, HIDDEN, false),
        (HIDDEN, HIDDEN, true),
        (HIDDEN, 2 * LATENT, true),
        (LATENT, HIDDEN, true),
        (HIDDEN, HIDDEN, true),
        (HIDDEN, PIXELS, true),
    ];
    let numbers = |len: usize| (0..len).map(|i| (i % 17) as f32 * 0.1 - 0.8).collect::<Vec<_>>();
    let mut vectors: Vec<_> = layers
        .iter()
        .map(|(inputs, outputs, _)| {
            let [x, y, w] = [BATCH * inputs, BATCH * outputs, inputs * outputs].map(numbers);
            (x, y, w, numbers(inputs * outputs))
        })
        .collect();
    let mut flops = 0.0;
    let time = median(|_| {
        flops = 0.0;
        for ((x, y, w, dw), &(inputs, outputs, has_input_gradient)) in
            vectors.iter_mut().zip(&layers)
        {
            multiply(Matrix::new(x, BATCH, inputs), Matrix::new(w, outputs, inputs).t(), y);
            multiply(Matrix::new(y, BATCH, outputs).t(), Matrix::new(x, BATCH, inputs), dw);
            if has_input_gradient {
                multiply(Matrix::new(y, BATCH, outputs), Matrix::new(w, outputs, inputs), x);
                // Repeated products grow without bound: infinities must not set in.
                x.fill(0.1);
            }
            let products = if has_input_gradient { 3 } else { 2 };
            flops += (2 * products * BATCH * inputs * outputs) as f64;
        }
    });
    (time, flops)
}

/// The median time of a call, in microseconds.
fn median(mut run: impl FnMut(u64)) -> f64 {
    let mut times: Vec<f64> = (0..REPEATS as u64)
        .map(|step| {
            let start = Instant::now();
            run(step);
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
