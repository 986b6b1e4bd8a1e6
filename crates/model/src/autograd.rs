//! Any objective written in tch as a [`Model`], on any device.
//!
//! The objective is a function of named tensors; libtorch differentiates it. Each call copies
//! the parameters to the device and the gradient back: right for any model and for GPUs, and
//! slower than a model by hand. It does not know what the objective means.

use std::{fmt, marker::PhantomData, ops::Index, sync::Arc};

use data::{Batch, Dataset, Images, PIXELS, Stream};
use tch::{Device, Kind, Tensor, no_grad_guard};

use crate::{
    Isa, Layout, Model, ModelError, StepContext, Sums, TERMS_MAX, Team, attempt::attempt, blas,
    initialise_linear, noise,
};

/// A [`Model`] of an objective `F`, which gives the sums over the batch's examples as scalar
/// tensors: the loss first, at most [`TERMS_MAX`].
///
/// An operation of tch that fails, in the objective too, is an error of the method.
pub struct Autograd<D, F> {
    layout: Layout,
    device: Device,
    objective: F,
    data: PhantomData<fn(&D)>,
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
pub struct Inputs<'a, D> {
    /// The examples.
    pub batch: &'a Batch<'a, D>,
    /// Where the sums are to be computed.
    pub device: Device,
    /// The stream of all randomness.
    pub random: Stream,
    /// Where in the run the step is; none in an evaluation, in which no schedule counts.
    pub context: Option<StepContext>,
}

impl<D, F> Autograd<D, F>
where
    D: Dataset,
    F: Fn(&Parameters, &Inputs<'_, D>) -> Vec<Tensor>,
{
    /// A model whose parameters are the layout's tensors, initially as `torch.nn.Linear`
    /// has them (see [`initialise_linear`]).
    ///
    /// # Errors
    ///
    /// [`ModelError::Libtorch`] where the device fails.
    pub fn new(layout: Layout, device: Device, objective: F) -> Result<Self, ModelError> {
        blas::deterministic();
        attempt(|| Self::build(layout, device, objective))
    }

    fn build(layout: Layout, device: Device, objective: F) -> Self {
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
        let (parameters, data) = (Parameters { named }, PhantomData);
        Self { parameters, layout, device, objective, data, flat }
    }

    /// Runs the objective on a batch.
    fn forward(&mut self, parameters: &[f32], inputs: &Inputs<'_, D>) -> Vec<Tensor> {
        assert_eq!(parameters.len(), self.layout.len(), "parameters and layout differ in length");
        {
            let _no_gradient = no_grad_guard();
            self.flat.copy_(&Tensor::from_slice(parameters));
        }
        (self.objective)(&self.parameters, inputs)
    }

    /// Runs the objective on a batch, and writes its gradient.
    fn differentiate(
        &mut self,
        parameters: &[f32],
        inputs: &Inputs<'_, D>,
        gradient: &mut [f32],
    ) -> Sums {
        let terms = self.forward(parameters, inputs);
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
}

impl<D, F> Model for Autograd<D, F>
where
    D: Dataset,
    F: Fn(&Parameters, &Inputs<'_, D>) -> Vec<Tensor>,
{
    type Data = D;

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn set_team(&mut self, team: Arc<Team>) {
        tch::set_num_threads(i32::try_from(team.threads()).unwrap_or(i32::MAX));
    }

    fn initialise(&self, seed: u64, parameters: &mut [f32]) {
        initialise_linear(&self.layout, seed, parameters);
    }

    fn gradient(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, D>,
        context: &StepContext,
        gradient: &mut [f32],
    ) -> Result<Sums, ModelError> {
        assert_eq!(gradient.len(), self.layout.len(), "gradient and layout differ in length");
        if batch.is_empty() {
            gradient.fill(0.0);
            return Ok(Sums::default());
        }
        let (device, random, context) = (self.device, context.random, Some(*context));
        let inputs = Inputs { batch, device, random, context };
        attempt(|| self.differentiate(parameters, &inputs, gradient))
    }

    fn evaluate(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, D>,
        random: Stream,
    ) -> Result<Sums, ModelError> {
        if batch.is_empty() {
            return Ok(Sums::default());
        }
        let inputs = Inputs { batch, device: self.device, random, context: None };
        attempt(|| {
            let _no_gradient = no_grad_guard();
            read(&self.forward(parameters, &inputs))
        })
    }
}

impl<D, F> fmt::Debug for Autograd<D, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Autograd")
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
fn read(terms: &[Tensor]) -> Sums {
    assert!((1..=TERMS_MAX).contains(&terms.len()), "an objective gives 1 to {TERMS_MAX} terms");
    let value = |term: &Tensor| term.detach().to_kind(Kind::Double).reshape([]);
    let values: Vec<Tensor> = terms.iter().map(value).collect();
    let values = Tensor::stack(&values, 0).to_device(Device::Cpu);
    let mut sums = Sums::default();
    values.copy_data(&mut sums.terms, terms.len());
    sums
}

impl<D> Inputs<'_, D> {
    /// Standard normals from the step's stream: the same numbers on every device.
    pub fn normals(&self, rows: i64, columns: i64) -> Tensor {
        let mut values = vec![0.0_f32; (rows * columns) as usize];
        noise::normals(Isa::best(), self.random, &mut values);
        Tensor::from_slice(&values).view([rows, columns]).to_device(self.device)
    }

    /// Numbers as rows, `[n, width]`, where the sums are to be computed.
    pub fn rows(&self, values: &[f32], width: usize) -> Tensor {
        Tensor::from_slice(values).view([-1, width as i64]).to_device(self.device)
    }
}

impl Inputs<'_, Images> {
    /// Pixels, 0 to 1, `[n, 784]`.
    pub fn pixels(&self) -> Tensor {
        let mut pixels = vec![0.0_f32; self.batch.len() * PIXELS];
        self.batch.gather_pixels(&mut pixels);
        self.rows(&pixels, PIXELS)
    }

    /// Labels as 64-bit integers, `[n]`.
    pub fn labels(&self) -> Tensor {
        let mut labels = Vec::new();
        self.batch.gather_labels(&mut labels);
        Tensor::from_slice(&labels).to_device(self.device)
    }
}
