//! Any objective written in tch as a [`Model`], on any device.
//!
//! The objective is a function of named tensors; libtorch differentiates it. Each call copies
//! the parameters to the device and the gradient back: right for any model and for GPUs, and
//! slower than a model by hand. It does not know what the objective means.

use std::{fmt, ops::Index, sync::Arc};

use data::{Batch, PIXELS, Stream};
use tch::{Device, Kind, Tensor, no_grad};

use crate::{Isa, Layout, Model, Sums, TERMS, Team, blas, initialise_linear, noise};

/// A [`Model`] of an objective `F`, which gives the sums over the batch's images as scalar
/// tensors: the loss first, the others as the terms are named.
///
/// Its methods panic where a tch operation fails, as tch's own do.
pub struct Autograd<F> {
    layout: Layout,
    terms: [&'static str; TERMS],
    device: Device,
    objective: F,
    kl_weight: f64,
    /// All parameters on the device; the named tensors are views of it.
    flat: Tensor,
    parameters: Parameters,
}

/// The parameters by name.
#[derive(Debug)]
pub struct Parameters {
    named: Vec<(String, Tensor)>,
}

/// What an objective may look at besides the parameters.
#[derive(Debug)]
pub struct Inputs {
    /// Pixels, 0 to 1, `[n, 784]`.
    pub pixels: Tensor,
    /// Labels as 64-bit integers, `[n]`.
    pub labels: Tensor,
    /// The stream of all randomness in the step.
    pub noise: Stream,
    /// The share of a regularising part that counts.
    pub kl_weight: f64,
}

impl<F> Autograd<F>
where
    F: Fn(&Parameters, &Inputs) -> [Tensor; TERMS],
{
    /// A model whose parameters are the layout's tensors, initially as `torch.nn.Linear`
    /// has them (see [`initialise_linear`]).
    pub fn new(layout: Layout, terms: [&'static str; TERMS], device: Device, objective: F) -> Self {
        blas::deterministic();
        let flat = Tensor::zeros(layout.len() as i64, (Kind::Float, device));
        let leaf = |range: std::ops::Range<usize>, shape: &[usize]| {
            let shape: Vec<i64> = shape.iter().map(|&side| side as i64).collect();
            let view = flat.narrow(0, range.start as i64, range.len() as i64).view(&shape[..]);
            view.detach().set_requires_grad(true)
        };
        let named = layout
            .entries()
            .iter()
            .map(|entry| (entry.name.clone(), leaf(entry.range.clone(), &entry.shape)))
            .collect();
        let (parameters, kl_weight) = (Parameters { named }, 1.0);
        Self { parameters, layout, terms, device, objective, kl_weight, flat }
    }

    /// Runs the objective on a batch.
    fn forward(&mut self, parameters: &[f32], batch: &Batch<'_>, noise: Stream) -> [Tensor; TERMS] {
        assert_eq!(parameters.len(), self.layout.len(), "parameters and layout differ in length");
        no_grad(|| self.flat.copy_(&Tensor::from_slice(parameters)));
        let mut pixels = vec![0.0_f32; batch.len() * PIXELS];
        batch.gather_pixels(&mut pixels);
        let mut labels = Vec::new();
        batch.gather_labels(&mut labels);
        let inputs = Inputs {
            pixels: Tensor::from_slice(&pixels).view([-1, PIXELS as i64]).to_device(self.device),
            labels: Tensor::from_slice(&labels).to_device(self.device),
            noise,
            kl_weight: self.kl_weight,
        };
        (self.objective)(&self.parameters, &inputs)
    }
}

impl<F> Model for Autograd<F>
where
    F: Fn(&Parameters, &Inputs) -> [Tensor; TERMS],
{
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn terms(&self) -> [&'static str; TERMS] {
        self.terms
    }

    fn set_team(&mut self, team: Arc<Team>) {
        tch::set_num_threads(i32::try_from(team.threads()).unwrap_or(i32::MAX));
    }

    fn initialise(&self, seed: u64, parameters: &mut [f32]) {
        initialise_linear(&self.layout, seed, parameters);
    }

    fn set_kl_weight(&mut self, weight: f64) {
        self.kl_weight = weight;
    }

    fn gradient(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_>,
        noise: Stream,
        gradient: &mut [f32],
    ) -> Sums {
        assert_eq!(gradient.len(), self.layout.len(), "gradient and layout differ in length");
        if batch.is_empty() {
            gradient.fill(0.0);
            return Sums::default();
        }
        let terms = self.forward(parameters, batch, noise);
        let leaves: Vec<&Tensor> = self.parameters.named.iter().map(|(_, leaf)| leaf).collect();
        let gradients = Tensor::run_backward(&[&terms[0]], &leaves, false, false);
        let flat = Tensor::zeros(self.layout.len() as i64, (Kind::Float, self.device));
        for (entry, part) in self.layout.entries().iter().zip(gradients) {
            // A parameter that the loss does not depend on has no gradient: it stays zero.
            if part.defined() {
                let (start, len) = (entry.range.start as i64, entry.range.len() as i64);
                flat.narrow(0, start, len).copy_(&part.reshape([-1]));
            }
        }
        flat.to_device(Device::Cpu).copy_data(gradient, self.layout.len());
        read(&terms)
    }

    fn evaluate(&mut self, parameters: &[f32], batch: &Batch<'_>, noise: Stream) -> Sums {
        if batch.is_empty() {
            return Sums::default();
        }
        let terms = no_grad(|| self.forward(parameters, batch, noise));
        read(&terms)
    }
}

impl<F> fmt::Debug for Autograd<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Autograd")
            .field("terms", &self.terms)
            .field("device", &self.device)
            .field("parameters", &self.layout.parameters())
            .finish_non_exhaustive()
    }
}

impl Parameters {
    /// x W' + b with the tensors called `layer.weight` and `layer.bias`.
    ///
    /// # Panics
    ///
    /// Where there is no such layer.
    pub fn linear(&self, layer: &str, x: &Tensor) -> Tensor {
        let (weight, bias) = (format!("{layer}.weight"), format!("{layer}.bias"));
        x.linear(&self[weight.as_str()], Some(&self[bias.as_str()]))
    }
}

impl Index<&str> for Parameters {
    type Output = Tensor;

    fn index(&self, name: &str) -> &Tensor {
        let found = self.named.iter().find(|(other, _)| other == name);
        &found.unwrap_or_else(|| panic!("the layout has no tensor called {name}")).1
    }
}

/// The values of the terms, in one transfer from the device.
fn read(terms: &[Tensor; TERMS]) -> Sums {
    let values = terms.each_ref().map(|term| term.detach().to_kind(Kind::Double).reshape([]));
    let values = Tensor::stack(&values, 0).to_device(Device::Cpu);
    let mut sums = Sums::default();
    values.copy_data(&mut sums.terms, TERMS);
    sums
}

impl Inputs {
    /// Standard normals from the step's stream: the same numbers on every device.
    pub fn normals(&self, rows: i64, columns: i64) -> Tensor {
        let mut values = vec![0.0_f32; (rows * columns) as usize];
        noise::normals(Isa::best(), self.noise, &mut values);
        Tensor::from_slice(&values).view([rows, columns]).to_device(self.pixels.device())
    }
}
