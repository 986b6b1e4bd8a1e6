//! Measures the parts of a training step on a GPU and the bytes copied: `gpu_times BATCH STEPS HIDDEN
//! LATENT`. Prints one JSON object. Times are in microseconds, the fastest of all steps.
//!
//! `step_us` is the whole step as in training, with several steps in flight. `graph_us` is the graph of
//! a step alone. `kernels` are its parts, timed by events that make the step slower. Bytes are those of one
//! step.

#![allow(clippy::print_stdout, reason = "prints the measurements")]

use std::{env, error::Error, sync::Arc, time::Instant};

use data::{Batch, Domain, Pass, Stream};
use images::{Images, PIXELS};
use model::{
    Adam, Isa, Resident as _, State, StepContext, WholeStep,
    cuda::{Time, Timed, Traffic},
    resident::AHEAD,
};
use vae::{Settings, cuda::Vae};
use vae_options::{Architecture, Likelihood, ModelConfig};

/// The most steps before the measured ones. The first step compiles and prepares.
const WARM_UP: u64 = AHEAD as u64;

/// Steps whose parts are timed separately.
const TIMED_STEPS: u64 = 20;

fn main() -> Result<(), Box<dyn Error>> {
    let numbers: Vec<u32> =
        env::args().skip(1).map(|number| number.parse()).collect::<Result<_, _>>()?;
    let &[batch, steps, hidden_dim, latent_dim] = &numbers[..] else {
        return Err("gpu_times BATCH STEPS HIDDEN LATENT".into());
    };
    let config = ModelConfig {
        image: vae_options::MNIST_IMAGE,
        architecture: Architecture::Dense,
        hidden_dim,
        latent_dim,
        likelihood: Likelihood::Bernoulli,
        beta: 1.0,
    };
    let batch = batch as usize;
    let pixels = (0..batch * PIXELS).map(|i| if i % 5 == 0 { (i % 251) as u8 } else { 0 });
    let set = Images::new(images::Shape::grey(28, 28), pixels.collect(), vec![0; batch])?;

    let mut vae = prepared(&config, None)?;
    let order: Arc<[u32]> = (0..set.len() as u32).collect();
    let (step_us, traffic) = whole_steps(&mut vae, &set, &order, u64::from(steps.max(1)))?;
    drop(vae);
    let timed_steps = TIMED_STEPS.min(steps.into()).max(1);
    let parts = |timed| parts(&mut prepared(&config, Some(timed))?, &set, &order, timed_steps);
    let graphs = parts(Timed::Graphs)?;
    let kernels = parts(Timed::Kernels)?;
    let graph_us = graphs.first().ok_or("the step's graph has no time")?.1;
    let listed: Vec<String> =
        kernels.iter().map(|(name, time)| format!("[\"{name}\", {time:.3}]")).collect();
    println!(
        "{{\"batch\": {batch}, \"step_us\": {step_us:.3}, \"graph_us\": {graph_us:.3}, \
         \"to_gpu_bytes\": {}, \"from_gpu_bytes\": {}, \"kernels\": [{}]}}",
        traffic.to_gpu,
        traffic.from_gpu,
        listed.join(", ")
    );
    Ok(())
}

/// A model whose state is on the GPU.
fn prepared(config: &ModelConfig, timed: Option<Timed>) -> Result<Vae, Box<dyn Error>> {
    let mut vae = Vae::new(config, Settings::default(), 0)?;
    if let Some(timed) = timed {
        vae.gpu().measure(timed);
    }
    let state = State::initial(&vae, 1);
    vae.load(state.view())?;
    Ok(vae)
}

/// Begins a step over the whole set. Each epoch has one step, and all epochs have the same order.
fn begin(vae: &mut Vae, set: &Images, order: &Arc<[u32]>, step: u64) -> Result<(), Box<dyn Error>> {
    let batch = Batch { data: set, indices: order, pass: Pass::train(1, 0) };
    let context = StepContext::alone(Stream::new(1, Domain::Noise, step, 0));
    let update = Adam::new(1e-3).update(Isa::best(), step + 1, order.len() as u32);
    let shards = &[(batch, context)];
    let whole = WholeStep { shards, order, first: 0, update, grad_clip: None, wants_norm: false };
    vae.begin(&whole)?;
    Ok(())
}

/// The microseconds of a step, with several in flight as in training, and the bytes copied per step.
fn whole_steps(
    vae: &mut Vae,
    set: &Images,
    order: &Arc<[u32]>,
    steps: u64,
) -> Result<(f64, Traffic), Box<dyn Error>> {
    let mut begun = 0;
    let mut run = |vae: &mut Vae, steps: u64| -> Result<(), Box<dyn Error>> {
        let (first, end) = (begun, begun + steps);
        let mut finished = first;
        while finished < end {
            if begun < end && begun - finished < AHEAD as u64 {
                begin(vae, set, order, begun)?;
                begun += 1;
            } else {
                vae.finish()?;
                finished += 1;
            }
        }
        Ok(())
    };
    run(vae, WARM_UP.min(steps))?;
    let (before, clock) = (vae.gpu().traffic(), Instant::now());
    run(vae, steps)?;
    let step_us = clock.elapsed().as_secs_f64() * 1e6 / steps as f64;
    let after = vae.gpu().traffic();
    let traffic = Traffic {
        to_gpu: (after.to_gpu - before.to_gpu) / steps,
        from_gpu: (after.from_gpu - before.from_gpu) / steps,
    };
    Ok((step_us, traffic))
}

/// The fastest time of each part of a step.
fn parts(
    vae: &mut Vae,
    set: &Images,
    order: &Arc<[u32]>,
    steps: u64,
) -> Result<Vec<Time>, Box<dyn Error>> {
    let mut fastest: Vec<Time> = Vec::new();
    for step in 0..steps {
        begin(vae, set, order, step)?;
        vae.finish()?;
        let times = vae.gpu().times()?.into_iter().next().ok_or("no graph was launched")?;
        if fastest.is_empty() {
            fastest = times;
        } else {
            for ((_, least), (_, time)) in fastest.iter_mut().zip(times) {
                *least = least.min(time);
            }
        }
    }
    Ok(fastest)
}
