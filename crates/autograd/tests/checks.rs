//! Each mistake of a task is found and named; correct networks pass.

use std::cell::Cell;

use autograd::{Autograd, Inputs};
use config::Manifest;
use data::{Column, Columns, Splits, Text, Values};
use model::{Device, Model};
use tch::{
    Kind, Reduction, Tensor,
    nn::{self, Module as _, Path},
};
use trainer::{Metric, checks, probe};

const METRICS: &[Metric] =
    &[Metric { name: "loss", unit: "nats" }, Metric { name: "errors", unit: "" }];
const CLASSES: i64 = 3;

type Given<'a, 'b> = &'a Inputs<'b, Columns>;

fn examples(count: usize) -> Columns {
    let pixels = (0..count * 64).map(|at| ((at * at * 31 + at * 7) % 256) as u8).collect();
    let labels = (0..count).map(|index| index as i64 % CLASSES).collect();
    Columns::new(vec![
        Column::new([count, 1, 8, 8], Values::Bytes(pixels)),
        Column::new([count], Values::Integers(labels)),
    ])
    .unwrap()
}

fn splits() -> Splits<Columns> {
    Splits { train: examples(12), test: examples(5) }
}

fn inputs(inputs: Given<'_, '_>) -> [Tensor; 2] {
    let [pixels, labels] = inputs.columns();
    [pixels.to_kind(Kind::Float) / 255.0, labels]
}

fn terms(logits: &Tensor, labels: &Tensor) -> Vec<Tensor> {
    let loss = logits.cross_entropy_loss::<Tensor>(labels, None, Reduction::Sum, -100, 0.0);
    vec![loss, logits.argmax(-1, false).ne_tensor(labels).sum(Kind::Float)]
}

/// The checks' verdict on a linear classifier with this objective.
fn judged(objective: impl Fn(&nn::Linear, Given<'_, '_>) -> Vec<Tensor>) -> Result<(), String> {
    let build = |path: &Path<'_>| nn::linear(path / "all", 64, CLASSES, Default::default());
    let mut model = Autograd::new(Device::Cpu, build, objective).unwrap();
    judge(&mut model)
}

fn judge(model: &mut dyn Model<Data = Columns>) -> Result<(), String> {
    checks::model(model, &splits(), METRICS, 5).map_err(|mistake| {
        let line = mistake.to_string();
        assert!(!line.contains('\n'), "{line}");
        line
    })
}

fn logits(net: &nn::Linear, given: Given<'_, '_>) -> (Tensor, Tensor) {
    let [x, labels] = inputs(given);
    (net.forward(&x.flatten(1, -1)), labels)
}

#[test]
fn a_sum_over_examples_passes() {
    judged(|net, given| {
        let (logits, labels) = logits(net, given);
        terms(&logits, &labels)
    })
    .unwrap();
}

#[test]
fn dropout_and_noise_pass() {
    judged(|net, given| {
        let [x, labels] = inputs(given);
        let x = x.flatten(1, -1).dropout(0.5, given.is_training());
        terms(&net.forward(&x), &labels)
    })
    .unwrap();
    judged(|net, given| {
        let [x, labels] = inputs(given);
        let x = x.flatten(1, -1);
        let noise = given.normals(&x.size());
        terms(&net.forward(&(x + noise)), &labels)
    })
    .unwrap();
}

#[test]
fn a_mean_is_told() {
    let message = judged(|net, given| {
        let (logits, labels) = logits(net, given);
        let mut terms = terms(&logits, &labels);
        terms[0] = logits.cross_entropy_for_logits(&labels);
        terms
    })
    .unwrap_err();
    assert!(message.contains("the term loss is a mean"), "{message}");
    let message = judged(|net, given| {
        let (logits, labels) = logits(net, given);
        let mut terms = terms(&logits, &labels);
        terms[1] = logits.argmax(-1, false).ne_tensor(&labels).mean(Kind::Float) + 1.0;
        terms
    })
    .unwrap_err();
    assert!(message.contains("the term errors is a mean"), "{message}");
}

#[test]
fn a_mean_is_told_where_all_is_random() {
    let message = judged(|net, given| {
        let [x, labels] = inputs(given);
        let x = x.flatten(1, -1).dropout(0.5, true);
        let loss = net.forward(&x).cross_entropy_for_logits(&labels);
        vec![loss]
    })
    .unwrap_err();
    assert!(message.contains("is a mean"), "{message}");
    let message = judged(|net, given| {
        let [x, labels] = inputs(given);
        let x = x.flatten(1, -1).dropout(0.5, given.is_training());
        vec![net.forward(&x).cross_entropy_for_logits(&labels)]
    })
    .unwrap_err();
    assert!(message.contains("is a mean"), "{message}");
}

#[test]
fn examples_that_change_each_other_are_told() {
    let message = judged(|net, given| {
        let [x, labels] = inputs(given);
        let x = x.flatten(1, -1);
        let x = &x - x.mean_dim(0, true, Kind::Float);
        terms(&net.forward(&x), &labels)
    })
    .unwrap_err();
    assert!(message.contains("batch statistics"), "{message}");
    let message = judged(|net, given| {
        let (logits, labels) = logits(net, given);
        let mut terms = terms(&logits, &labels);
        terms[0] = &terms[0] + net.ws.square().sum(Kind::Float);
        terms
    })
    .unwrap_err();
    assert!(message.contains("added once a batch"), "{message}");
}

#[test]
fn randomness_of_its_own_is_told() {
    let calls = Cell::new(0);
    let message = judged(|net, given| {
        let (logits, labels) = logits(net, given);
        calls.set(calls.get() + 1);
        terms(&(logits + f64::from(calls.get())).relu(), &labels)
    })
    .unwrap_err();
    assert!(message.contains("computed again"), "{message}");
}

#[test]
fn what_is_not_finite_is_told() {
    let message = judged(|net, given| {
        let (logits, _) = logits(net, given);
        vec![(logits * 0.0).log().sum(Kind::Float)]
    })
    .unwrap_err();
    assert!(message.contains("the loss of the first examples is not finite"), "{message}");
    // The derivative of the square root is infinite at zero.
    let message = judged(|net, given| {
        let (logits, _) = logits(net, given);
        vec![(logits * 0.0).sqrt().sum(Kind::Float)]
    })
    .unwrap_err();
    assert!(message.contains("the gradient of the first examples is not finite"), "{message}");
}

#[test]
fn terms_without_names_are_told() {
    let message = judged(|net, given| {
        let (logits, labels) = logits(net, given);
        let mut terms = terms(&logits, &labels);
        terms.push(labels.ones_like().sum(Kind::Float));
        terms
    })
    .unwrap_err();
    assert!(message.contains("more terms than the 2"), "{message}");
}

#[test]
fn a_data_set_that_is_not_as_its_manifest_says_is_told() {
    let manifest = |train, test| Manifest { name: "mine".into(), files: Vec::new(), train, test };
    checks::data(&splits(), &manifest(12, 5)).unwrap();
    let message = checks::data(&splits(), &manifest(12, 6)).unwrap_err().to_string();
    assert!(message.contains("5 test examples, and its manifest says 6"), "{message}");
}

/// A set that claims one example more than it has.
struct Longer(Columns);

impl data::Dataset for Longer {
    fn count(&self) -> u32 {
        self.0.count() + 1
    }
}

impl data::Collate for Longer {
    fn collate(batch: &data::Batch<'_, Self>) -> Vec<Column> {
        Columns::collate(&data::Batch {
            data: &batch.data.0,
            indices: batch.indices,
            pass: batch.pass,
        })
    }
}

#[test]
fn a_set_whose_length_lies_is_told() {
    let build = |path: &Path<'_>| nn::linear(path / "all", 64, CLASSES, Default::default());
    let objective = |net: &nn::Linear, inputs: &Inputs<'_, Longer>| {
        let [pixels, labels] = inputs.columns();
        terms(&net.forward(&pixels.to_kind(Kind::Float).flatten(1, -1)), &labels)
    };
    let mut model = Autograd::new(Device::Cpu, build, objective).unwrap();
    let data = Splits { train: Longer(examples(4)), test: Longer(examples(4)) };
    let message = checks::model(&mut model, &data, METRICS, 0).unwrap_err().to_string();
    assert!(message.contains("example 4, the last of the training examples"), "{message}");
    assert!(message.contains("out of range"), "{message}");
}

#[derive(Debug)]
struct Conv {
    layers: nn::Sequential,
}

fn conv(path: &Path<'_>) -> Conv {
    let config = nn::ConvConfig { padding: 1, stride: 2, ..Default::default() };
    let norm = nn::group_norm(path / "norm", 4, 16, Default::default());
    let layers = nn::seq()
        .add(nn::conv2d(path / "first", 1, 16, 3, config))
        .add(norm)
        .add_fn(Tensor::gelu_none)
        .add(nn::conv2d(path / "second", 16, 32, 3, config))
        .add_fn(|x| x.silu().flatten(1, -1))
        .add(nn::linear(path / "output", 128, CLASSES, Default::default()));
    Conv { layers }
}

trait GeluNone {
    fn gelu_none(&self) -> Tensor;
}

impl GeluNone for Tensor {
    fn gelu_none(&self) -> Tensor {
        self.gelu("none")
    }
}

#[test]
fn a_convolutional_network_passes() {
    let objective = |net: &Conv, given: Given<'_, '_>| {
        let [x, labels] = inputs(given);
        terms(&net.layers.forward(&x), &labels)
    };
    judge(&mut Autograd::new(Device::Cpu, conv, objective).unwrap()).unwrap();
}

const WIDTH: i64 = 32;

/// One block of attention over characters.
#[derive(Debug)]
struct Attention {
    characters: nn::Embedding,
    norms: [nn::LayerNorm; 2],
    all: nn::Linear,
    out: nn::Linear,
    head: nn::Linear,
}

fn attention(path: &Path<'_>) -> Attention {
    let norm = |name: &str| nn::layer_norm(path / name, vec![WIDTH], Default::default());
    Attention {
        characters: nn::embedding(path / "characters", 256, WIDTH, Default::default()),
        norms: [norm("before"), norm("after")],
        all: nn::linear(path / "all", WIDTH, 3 * WIDTH, Default::default()),
        out: nn::linear(path / "out", WIDTH, WIDTH, Default::default()),
        head: nn::linear(path / "head", WIDTH, 256, Default::default()),
    }
}

fn foretell(net: &Attention, inputs: &Inputs<'_, Text>) -> Vec<Tensor> {
    let [text] = inputs.columns();
    let (text, length) = (text.to_kind(Kind::Int64), text.size()[1] - 1);
    let x = net.characters.forward(&text.narrow(1, 0, length));
    let all = net.all.forward(&net.norms[0].forward(&x));
    let heads = |part: i64| {
        all.narrow(2, part * WIDTH, WIDTH).view([-1, length, 4, WIDTH / 4]).transpose(1, 2)
    };
    let (q, k, v) = (heads(0), heads(1), heads(2));
    let mixed =
        Tensor::scaled_dot_product_attention::<Tensor>(&q, &k, &v, None, 0.0, true, None, false);
    let mixed = mixed.transpose(1, 2).reshape([-1, length, WIDTH]);
    let x = x + net.out.forward(&mixed);
    let logits = net.head.forward(&net.norms[1].forward(&x)).view([-1, 256]);
    let next = text.narrow(1, 1, length).reshape([-1]);
    let nats = logits.cross_entropy_loss::<Tensor>(&next, None, Reduction::Sum, -100, 0.0);
    vec![nats / length as f64]
}

#[test]
fn a_transformer_passes() {
    let text: Vec<u8> = (0..4000_u32).map(|at| b'a' + (at * at / 7 % 26) as u8).collect();
    let data = Text::split(text, 64, 10);
    let mut model = Autograd::new(Device::Cpu, attention, foretell).unwrap();
    checks::model(&mut model, &data, &METRICS[..1], 1).unwrap();
}

#[test]
fn a_probe_tells_programs_apart() {
    let digest = |scale: f64| {
        let objective = move |net: &nn::Linear, given: Given<'_, '_>| {
            let (logits, labels) = logits(net, given);
            terms(&(logits * scale), &labels)
        };
        let build = |path: &Path<'_>| nn::linear(path / "all", 64, CLASSES, Default::default());
        let mut model = Autograd::new(Device::Cpu, build, objective).unwrap();
        probe(&mut model, &examples(12), 1).unwrap()
    };
    assert_eq!(digest(1.0), digest(1.0));
    assert_ne!(digest(1.0), digest(1.0000001));
}
