//! A small model of another kind: [`Autograd`] makes it from an objective in tch.

use autograd::Autograd;
use data::{Batch, Domain, Stream};
use images::{Images, PIXELS, Shape};
use model::{Adam, Device, Layout, Model, State, StepContext};
use tch::{Kind, Reduction, Tensor};

const CLASSES: usize = 4;

/// Each class has another quarter of the pixels white, on a grey background that varies.
fn images() -> Images {
    let image = |i: usize| {
        (0..PIXELS).map(move |p| if p / (PIXELS / CLASSES) == i % CLASSES { 255 } else { i as u8 })
    };
    let labels = (0..40).map(|i| (i % CLASSES) as u32).collect();
    Images::new(Shape::grey(28, 28), (0..40).flat_map(image).collect(), labels)
        .expect("whole images")
}

#[test]
fn a_classifier_trains() {
    // Such small products gain nothing from threads, and are much slower with them on busy cores.
    tch::set_num_threads(1);
    let layout = Layout::new([
        ("hidden.weight".to_owned(), vec![32, PIXELS]),
        ("hidden.bias".to_owned(), vec![32]),
        ("output.weight".to_owned(), vec![CLASSES, 32]),
        ("output.bias".to_owned(), vec![CLASSES]),
        ("unused".to_owned(), vec![3]),
    ]);
    let mut model = Autograd::of_layout(layout, Device::Cpu, |parameters, inputs| {
        let (indices, data) = (inputs.batch.indices, inputs.batch.data);
        let mut pixels = vec![0.0; indices.len() * PIXELS];
        Images::gather_pixels(data, indices, &mut pixels);
        let mut labels = Vec::new();
        data.gather_labels(indices, &mut labels);
        let hidden = parameters.linear("hidden", &inputs.rows(&pixels, PIXELS)).relu();
        let logits = parameters.linear("output", &hidden);
        let targets = &Tensor::from_slice(&labels);
        let loss = logits.cross_entropy_loss::<Tensor>(targets, None, Reduction::Sum, -100, 0.0);
        let correct = logits.argmax(1, false).eq_tensor(targets).sum(Kind::Float);
        vec![loss, correct, targets.ones_like().sum(Kind::Float)]
    })
    .unwrap();

    let images = images();
    let indices: Vec<u32> = (0..40).collect();
    let batch = Batch::of(&images, &indices);
    let noise = Stream::new(0, Domain::Noise, 0, 0);
    let mut state = State::initial(&model, 1);
    let mut gradient = vec![0.0; model.layout().len()];
    let before = model.evaluate(&state.parameters, &batch, noise).unwrap().terms;
    for _ in 0..100 {
        model
            .gradient(&state.parameters, &batch, &StepContext::alone(noise), &mut gradient)
            .unwrap();
        Adam::new(1e-2).apply(&mut state, &gradient, 40);
    }
    let after = model.evaluate(&state.parameters, &batch, noise).unwrap().terms;
    assert!(after[0] < 0.1 * before[0], "from {before:?} to {after:?}");
    assert_eq!(after[1..3], [40.0, 40.0]);
}
