//! tch modules as models: their parameters, their random numbers, and modules that are refused.

use autograd::{Autograd, Inputs};
use data::{Batch, Column, Columns, Domain, Stream, Values};
use model::{Adam, Device, Model, ModelError, State, StepContext};
use tch::{
    Kind, Reduction, Tensor,
    nn::{self, Module as _, ModuleT as _, Path},
};

const SIDE: usize = 8;
const COUNT: usize = 24;

/// Pictures with one bright corner, and the number of that corner.
fn corners() -> Columns {
    let picture = |index: usize| {
        let pixel = move |at: usize| {
            let corner =
                usize::from(at % SIDE >= SIDE / 2) + 2 * usize::from(at / SIDE >= SIDE / 2);
            if corner == index % 4 { 200 } else { (at * 7 + index * 13 % 50) as u8 % 50 }
        };
        (0..SIDE * SIDE).map(pixel)
    };
    let labels = (0..COUNT).map(|index| index as i64 % 4).collect();
    Columns::new(vec![
        Column::new([COUNT, 1, SIDE, SIDE], Values::Bytes((0..COUNT).flat_map(picture).collect())),
        Column::new([COUNT], Values::Integers(labels)),
    ])
    .unwrap()
}

#[derive(Debug)]
struct Net {
    conv: nn::Conv2D,
    norm: nn::GroupNorm,
    output: nn::Linear,
}

fn net(path: &Path<'_>) -> Net {
    let stride = nn::ConvConfig { stride: 2, padding: 1, ..Default::default() };
    Net {
        conv: nn::conv2d(path / "conv", 1, 8, 3, stride),
        norm: nn::group_norm(path / "norm", 2, 8, Default::default()),
        output: nn::linear(path / "output", 8 * 16, 4, Default::default()),
    }
}

fn objective(net: &Net, inputs: &Inputs<'_, Columns>) -> Vec<Tensor> {
    let [pixels, labels] = inputs.columns();
    let x = pixels.to_kind(Kind::Float) / 255.0;
    let x = net.norm.forward(&net.conv.forward(&x)).relu().flatten(1, -1);
    let logits = net.output.forward(&x.dropout(0.25, inputs.is_training()));
    let loss = logits.cross_entropy_loss::<Tensor>(&labels, None, Reduction::Sum, -100, 0.0);
    let errors = logits.argmax(-1, false).ne_tensor(&labels).sum(Kind::Float);
    vec![loss, errors]
}

fn model() -> impl Model<Data = Columns> {
    Autograd::new(Device::Cpu, net, objective).unwrap()
}

fn stream(step: u64) -> Stream {
    Stream::new(3, Domain::Noise, step, 0)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn a_module_trains() {
    let (set, mut model) = (corners(), model());
    let names: Vec<&str> = model.layout().entries().iter().map(|e| &e.name[..]).collect();
    let sorted =
        ["conv.bias", "conv.weight", "norm.bias", "norm.weight", "output.bias", "output.weight"];
    assert_eq!(names, sorted);
    let indices: Vec<u32> = (0..COUNT as u32).collect();
    let batch = Batch::of(&set, &indices);
    let mut state = State::initial(&model, 1);
    let mut gradient = vec![f32::NAN; model.layout().len()];
    let before = model.evaluate(&state.parameters, &batch, stream(0)).unwrap();
    for step in 0..60 {
        let context = StepContext { step, ..StepContext::alone(stream(step)) };
        model.gradient(&state.parameters, &batch, &context, &mut gradient).unwrap();
        Adam::new(1e-2).apply(&mut state, &gradient, COUNT as u32);
    }
    let after = model.evaluate(&state.parameters, &batch, stream(0)).unwrap();
    assert!(after.terms[0] < 0.1 * before.terms[0], "from {before:?} to {after:?}");
    assert_eq!(after.terms[1], 0.0);
}

#[test]
fn randomness_is_that_of_the_step_and_of_the_seed() {
    let (set, mut model) = (corners(), model());
    let batch = Batch::of(&set, &[0, 1, 2, 5]);
    let length = model.layout().len();
    let initial = |seed| {
        let mut parameters = vec![f32::NAN; length];
        model.initialise(seed, &mut parameters);
        parameters
    };
    let parameters = initial(7);
    assert_eq!(bits(&parameters), bits(&initial(7)));
    assert_ne!(bits(&parameters), bits(&initial(8)));
    assert!(parameters.iter().all(|value| value.is_finite()));
    let mut gradient = |step| {
        let mut gradient = vec![0.0; length];
        let context = StepContext::alone(stream(step));
        model.gradient(&parameters, &batch, &context, &mut gradient).unwrap();
        bits(&gradient)
    };
    let first = gradient(1);
    assert_ne!(first, gradient(2));
    assert_eq!(first, gradient(1));
}

#[test]
fn an_empty_batch_has_no_gradient() {
    let (set, mut model) = (corners(), model());
    let parameters = State::initial(&model, 0).parameters;
    let mut gradient = vec![f32::NAN; parameters.len()];
    let context = StepContext::alone(stream(0));
    let sums = model.gradient(&parameters, &Batch::of(&set, &[]), &context, &mut gradient).unwrap();
    assert_eq!((sums.terms, bits(&gradient)), ([0.0; 8], vec![0; parameters.len()]));
}

fn refused<N: 'static>(build: impl Fn(&Path<'_>) -> N + 'static) -> String {
    let nothing = |_: &N, _: &Inputs<'_, Columns>| Vec::new();
    Autograd::new(Device::Cpu, build, nothing).unwrap_err().to_string()
}

#[test]
fn a_module_that_workers_would_not_agree_on_is_refused() {
    let batch_norm = refused(|path| nn::batch_norm2d(path / "norm", 4, Default::default()));
    assert!(batch_norm.contains("norm.running_mean is not trained"), "{batch_norm}");
    assert!(refused(|_| ()).contains("no parameters"));
    let double = refused(|path| {
        let zeros = Tensor::zeros([2], (Kind::Double, tch::Device::Cpu));
        path.add("wide", zeros.set_requires_grad(true), true)
    });
    assert!(double.contains("wide is of kind Double"), "{double}");
    let broken = refused(|path| path.zeros("negative", &[-1]));
    assert!(broken.contains("libtorch") && !broken.contains('\n'), "{broken}");
}

#[test]
fn an_objective_that_gives_no_sums_is_an_error() {
    let set = corners();
    let message = |terms: fn(&Tensor, &Tensor) -> Vec<Tensor>| {
        let build = |path: &Path<'_>| nn::linear(path / "all", 64, 4, Default::default());
        let mut model =
            Autograd::new(Device::Cpu, build, move |net, inputs: &Inputs<'_, Columns>| {
                let [pixels, labels] = inputs.columns();
                let x = pixels.to_kind(Kind::Float).flatten(1, -1);
                terms(&net.forward_t(&x, inputs.is_training()), &labels)
            })
            .unwrap();
        let parameters = State::initial(&model, 0).parameters;
        let mut gradient = vec![0.0; parameters.len()];
        let (batch, context) = (Batch::of(&set, &[0, 1]), StepContext::alone(stream(0)));
        let result = model.gradient(&parameters, &batch, &context, &mut gradient);
        let error: ModelError = result.unwrap_err();
        error.to_string()
    };
    assert!(message(|_, _| Vec::new()).contains("0 terms"));
    assert!(message(|logits, _| vec![logits.shallow_clone()]).contains("shape [2, 4]"));
    let own = message(|_, _| panic!("no such label"));
    assert!(own.contains("no such label") && own.contains("module.rs"), "{own}");
    assert!(message(|_, labels| vec![labels.sum(Kind::Float)]).contains("does not depend"));
    let shapes = message(|logits, _| vec![logits.matmul(logits).sum(Kind::Float)]);
    assert!(shapes.contains("shapes cannot be multiplied"), "{shapes}");
}
