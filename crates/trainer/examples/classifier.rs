//! Trains another model with the trainer: a small classifier of MNIST digits, alone.
//!
//! `cargo run --release -p trainer --example classifier`. To train it with others, put the collective of
//! the crate transport where `Local` is.
#![allow(clippy::print_stdout, reason = "an example shows its results")]

use std::sync::Arc;

use anyhow::Result;
use collective::{Control, Local};
use images::{Images, PIXELS, named, splits};
use model::{
    Adam, Autograd, Layout, Model as _, State,
    autograd::{Inputs, Parameters},
};
use tch::{Device, Kind, Reduction, Tensor};
use trainer::{EpochSummary, Ledger, Observer, Recipe, Settings, StepSummary, Trainer};

const SHARDS: u32 = 2;

/// Cross-entropy and errors: each summed over the images.
fn objective(parameters: &Parameters, inputs: &Inputs<'_, Images>) -> Vec<Tensor> {
    let (indices, images) = (inputs.batch.indices, inputs.batch.data);
    let mut pixels = vec![0.0; indices.len() * PIXELS];
    images.gather_pixels(indices, &mut pixels);
    let mut labels = Vec::new();
    images.gather_labels(indices, &mut labels);
    let pixels = inputs.rows(&pixels, PIXELS);
    let labels = Tensor::from_slice(&labels).to_device(inputs.device);
    let hidden = parameters.linear("hidden", &pixels).relu();
    let logits = parameters.linear("digits", &hidden);
    let loss = logits.cross_entropy_loss::<Tensor>(&labels, None, Reduction::Sum, -100, 0.0);
    let errors = logits.argmax(-1, false).ne_tensor(&labels).sum(Kind::Float);
    vec![loss, errors]
}

struct Printer;

impl Observer for Printer {
    fn control(&self) -> Control {
        Control::default()
    }

    fn stepped(&mut self, _step: &StepSummary<'_>, _state: &State, _ledger: &Ledger) {}

    fn epoch_ended(&mut self, epoch: &EpochSummary, _state: &State, _ledger: &Ledger) {
        let [loss, errors, ..] = epoch.train.means();
        let test_errors = 100.0 * epoch.test.terms[1] / epoch.test.examples as f64;
        let errors = 100.0 * errors;
        let epoch = epoch.epoch;
        println!(
            "epoch {epoch}: loss {loss:.3}, errors {errors:.1} %, test errors {test_errors:.1} %"
        );
    }
}

fn main() -> Result<()> {
    let layout = Layout::new([
        ("hidden.weight".into(), vec![128, 784]),
        ("hidden.bias".into(), vec![128]),
        ("digits.weight".into(), vec![10, 128]),
        ("digits.bias".into(), vec![10]),
    ]);
    let model = Autograd::of_layout(layout, Device::cuda_if_available(), objective)?;
    let folder = data::default_dir("mnist");
    let files = data::fetch::ensure(&folder, &named::mnist(), false, &|line| println!("{line}"))?;
    let mnist = splits(&files)?;
    let (adam, recipe) = (Adam::new(1e-3), Recipe::PLAIN);
    let settings = Settings {
        seed: 0,
        shards: SHARDS,
        batch_size: 64,
        train_examples: u32::MAX,
        test_examples: u32::MAX,
        epochs: 3,
        verify_every: 0,
        adam,
        recipe,
    };
    let mut alone = Local::new(SHARDS, model.layout().len())?;
    Trainer::new(settings, Box::new(model), Arc::new(mnist)).train(&mut alone, &mut Printer)?;
    Ok(())
}
