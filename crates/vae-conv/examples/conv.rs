//! Trains the convolutional VAE on MNIST in one process, and prints its losses.
//!
//! `cargo run --release -p vae-conv --example conv -- EPOCHS`
#![allow(clippy::print_stdout, reason = "an example shows its results")]

use std::time::Instant;

use data::{Batch, Dataset as _, Domain, Pass, Schedule, Stream};
use images::named;
use model::{Adam, Device, Isa, Model, State, StepContext, Sums, Team};
use vae::Settings;
use vae_conv::conv_vae;
use vae_options::{Architecture, VaeOptions};

const BATCH: u32 = 128;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let epochs: u64 = std::env::args().nth(1).map_or(Ok(1), |text| text.parse())?;
    let folder = data::default_dir("mnist");
    let files = data::fetch::ensure(&folder, &named::mnist(), false, &|line| println!("{line}"))?;
    let mnist = images::splits(&files)?;
    let options = VaeOptions { architecture: Architecture::Conv, ..VaeOptions::default() };
    let mut model = conv_vae(&options.model(), Settings::default(), Device::Cpu)?;
    let (seed, mut state) = (0, State::initial(&model, 0));
    let schedule = Schedule::new(seed, mnist.train.count(), 1, BATCH);
    let mut gradient = vec![0.0; model.layout().len()];
    println!("{} parameters", model.layout().parameters());
    let steps = epochs * schedule.steps_per_epoch();
    for epoch in 0..epochs {
        let (order, begun, mut train) = (schedule.order(epoch), Instant::now(), Sums::default());
        for step in 0..schedule.steps_per_epoch() {
            let indices = &order[schedule.positions(step, 0)];
            let batch = Batch { data: &mnist.train, indices, pass: Pass::train(seed, epoch) };
            let random = Stream::new(seed, Domain::Noise, state.step, 0);
            let steps_per_epoch = schedule.steps_per_epoch();
            let context = StepContext { step: state.step, steps_per_epoch, steps, random };
            train += model.gradient(&state.parameters, &batch, &context, &mut gradient)?;
            let team = Team::default();
            let adam = Adam::new(1e-3);
            adam.apply_with(Isa::best(), &team, &mut state, &gradient, indices.len() as u32);
        }
        let (seconds, mut test) = (begun.elapsed().as_secs_f64(), Sums::default());
        let indices: Vec<u32> = (0..mnist.test.count()).collect();
        for indices in indices.chunks(250) {
            let batch = Batch { data: &mnist.test, indices, pass: Pass::test(seed) };
            let random = Stream::new(seed, Domain::Evaluation, state.step, indices[0]);
            test += model.evaluate(&state.parameters, &batch, random)?;
        }
        let mean = |sum: f64, count: u32| sum / f64::from(count);
        println!(
            "epoch {}: loss {:.2}, test loss {:.2}, {:.0} images/s",
            epoch + 1,
            mean(train.terms[0], mnist.train.count()),
            mean(test.terms[0], mnist.test.count()),
            f64::from(mnist.train.count()) / seconds
        );
    }
    Ok(())
}
