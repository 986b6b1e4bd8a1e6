//! A [`Model`] from any module and objective written in tch, on any device.
//!
//! libtorch differentiates the objective. The module's tensors are views of one flat vector, into
//! which each call copies the parameters. The gradient is copied once, from libtorch's memory.
//! This file does not know the meaning of the objective.
//!
//! libtorch's bits depend on its number of threads, so that number is set for the model and does not depend on
//! the membership ([`Model::fix_threads`]). Its random number generator is seeded before
//! each call of the objective, by the run's seed, the step and the shard.

use std::{
    fmt,
    marker::PhantomData,
    ops::{Index, Range},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use data::{Batch, Dataset, Domain, Stream};
use model::{Layout, Model, ModelError, StepContext, Sums, TERMS_MAX, Team, initialise_linear};
use tch::{
    Device, Kind, Tensor,
    nn::{Path, VarStore},
    no_grad_guard,
};

use crate::{Inputs, attempt::attempt, blas, gpus};

/// A [`Model`] of a module `N` and an objective `F`. The objective returns sums over the batch's examples
/// as scalar tensors: the loss first, at most [`TERMS_MAX`].
///
/// A panic in the module or the objective becomes an error of the method, and so does a failed operation of tch.
/// Only [`Model::initialise`] panics, because it returns no error.
pub struct Autograd<D, N, F> {
    start: Start<N>,
    module: N,
    objective: F,
    data: PhantomData<fn(&D)>,
    threads: i32,
    device: Device,
    layout: Layout,
    /// All parameters, on the device; the module's tensors are views of this tensor.
    flat: Tensor,
    /// The module's tensors, in the layout's order.
    leaves: Vec<Tensor>,
}

/// The source of the initial values.
enum Start<N> {
    /// The module's own initialisation: the module is built again.
    Built(Box<dyn Fn(&Path<'_>) -> N>),
    /// See [`initialise_linear`].
    Linear,
}

/// The tensors of a layout by name. It is the module of an objective that is a function of these tensors.
#[derive(Debug)]
pub struct Parameters {
    named: Vec<(String, Tensor)>,
}

impl<D, N, F> Autograd<D, N, F>
where
    D: Dataset,
    F: Fn(&N, &Inputs<'_, D>) -> Vec<Tensor>,
{
    /// A model of the module that `build` makes. The parameters are the variables that `build` creates,
    /// under their names, in the order of the names. `build` is called again for the initial values,
    /// with libtorch's generator seeded by the run's seed.
    ///
    /// # Errors
    ///
    /// [`ModelError::Module`] if there is no parameter, or a variable is not trained or not in
    /// single precision; [`ModelError::Libtorch`] if the device fails.
    pub fn new(
        device: model::Device,
        build: impl Fn(&Path<'_>) -> N + 'static,
        objective: F,
    ) -> Result<Self, ModelError> {
        blas::deterministic();
        let device = gpus::device(device)?;
        let (module, variables) = attempt(|| {
            // The generator belongs to the process, and another model may use it on another thread: hold its lock.
            let _seeded = seed_generator(Stream::new(0, Domain::Initial, 0, 0));
            let store = VarStore::new(device);
            (build(&store.root()), variables(&store))
        })?;
        check(&variables)?;
        let shape = |tensor: &Tensor| tensor.size().iter().map(|&side| side as usize).collect();
        let layout = Layout::new(variables.iter().map(|(name, t)| (name.clone(), shape(t))));
        let leaves = variables.into_iter().map(|(_, tensor)| tensor).collect();
        let start = Start::Built(Box::new(build));
        Self::assemble(start, module, leaves, layout, device, objective)
    }

    fn assemble(
        start: Start<N>,
        module: N,
        leaves: Vec<Tensor>,
        layout: Layout,
        device: Device,
        objective: F,
    ) -> Result<Self, ModelError> {
        let flat = attempt(|| {
            let flat = Tensor::zeros(layout.len() as i64, (Kind::Float, device));
            let _no_gradient = no_grad_guard();
            for (leaf, entry) in leaves.iter().zip(layout.entries()) {
                // `set_data` acts on all clones of a variable, so also on the module's own.
                leaf.shallow_clone().set_data(&part(&flat, &entry.range).view_as(leaf));
            }
            flat
        })?;
        let (data, threads) = (PhantomData, 1);
        Ok(Self { start, module, objective, data, threads, device, layout, flat, leaves })
    }

    /// Computes something else with the module, without a gradient. Its tensors must be on
    /// [`Autograd::device`].
    ///
    /// # Errors
    ///
    /// [`ModelError::Libtorch`] if an operation fails, [`ModelError::Panicked`] for another panic.
    ///
    /// # Panics
    ///
    /// If `parameters` has another length than the layout.
    pub fn apply<T>(
        &mut self,
        parameters: &[f32],
        operations: impl FnOnce(&N) -> T,
    ) -> Result<T, ModelError> {
        assert_eq!(parameters.len(), self.layout.len(), "parameters and layout differ in length");
        let _no_gradient = no_grad_guard();
        attempt(|| {
            self.load(parameters);
            operations(&self.module)
        })
    }

    /// The device that computes.
    pub const fn device(&self) -> Device {
        self.device
    }

    /// The module, with the parameters of the last call.
    pub const fn module(&self) -> &N {
        &self.module
    }

    /// Copies the parameters to the module's tensors.
    fn load(&mut self, parameters: &[f32]) {
        // Another model of this process may have set another number.
        if tch::get_num_threads() != self.threads {
            tch::set_num_threads(self.threads);
        }
        let _no_gradient = no_grad_guard();
        self.flat.copy_(&Tensor::from_slice(parameters));
    }

    /// Runs the objective on a batch.
    fn forward(
        &mut self,
        parameters: &[f32],
        inputs: &Inputs<'_, D>,
    ) -> Result<Vec<Tensor>, ModelError> {
        assert_eq!(parameters.len(), self.layout.len(), "parameters and layout differ in length");
        let terms = attempt(|| {
            self.load(parameters);
            let _seeded = seed_generator(inputs.random);
            (self.objective)(&self.module, inputs)
        })?;
        if !(1..=TERMS_MAX).contains(&terms.len()) {
            let count = terms.len();
            return Err(ModelError::Objective(format!(
                "{count} terms; it must return 1 to {TERMS_MAX}"
            )));
        }
        let is_scalar = |term: &&Tensor| term.size().iter().product::<i64>() == 1;
        match terms.iter().find(|term| !is_scalar(term)) {
            None => Ok(terms),
            Some(term) => Err(ModelError::Objective(format!(
                "a term of shape {:?}; it must be one number, the sum over the examples",
                term.size()
            ))),
        }
    }

    /// Runs the objective on a batch, and writes the gradient.
    fn differentiate(
        &mut self,
        parameters: &[f32],
        inputs: &Inputs<'_, D>,
        gradient: &mut [f32],
    ) -> Result<Sums, ModelError> {
        let terms = self.forward(parameters, inputs)?;
        // libtorch would end the process otherwise.
        if !terms[0].requires_grad() {
            let reason = "a loss that does not depend on the parameters, or has no derivative";
            return Err(ModelError::Objective(reason.into()));
        }
        attempt(|| {
            let parts = Tensor::run_backward(&[&terms[0]], &self.leaves, false, false);
            if self.device == Device::Cpu {
                write(&self.layout, &parts, gradient);
            } else {
                // One transfer instead of one per tensor.
                let flat = Tensor::zeros(self.layout.len() as i64, (Kind::Float, self.device));
                for (entry, part_of) in self.layout.entries().iter().zip(&parts) {
                    if part_of.defined() {
                        part(&flat, &entry.range).copy_(&part_of.reshape([-1]));
                    }
                }
                flat.to_device(Device::Cpu).copy_data(gradient, self.layout.len());
            }
            read(&terms)
        })
    }
}

impl<D, F> Autograd<D, Parameters, F>
where
    D: Dataset,
    F: Fn(&Parameters, &Inputs<'_, D>) -> Vec<Tensor>,
{
    /// A model of an objective whose parameters are the layout's tensors, with the initial values of
    /// `torch.nn.Linear` (see [`initialise_linear`]).
    ///
    /// # Errors
    ///
    /// [`ModelError::Libtorch`] if the device fails.
    pub fn of_layout(
        layout: Layout,
        device: model::Device,
        objective: F,
    ) -> Result<Self, ModelError> {
        blas::deterministic();
        let device = gpus::device(device)?;
        let leaf = |shape: &[usize]| {
            let shape: Vec<i64> = shape.iter().map(|&side| side as i64).collect();
            Tensor::zeros(&shape[..], (Kind::Float, device)).set_requires_grad(true)
        };
        let leaves: Vec<Tensor> =
            attempt(|| layout.entries().iter().map(|entry| leaf(&entry.shape)).collect())?;
        let named = layout.entries().iter().zip(&leaves);
        let named = named.map(|(entry, leaf)| (entry.name.clone(), leaf.shallow_clone())).collect();
        Self::assemble(Start::Linear, Parameters { named }, leaves, layout, device, objective)
    }
}

impl Parameters {
    /// The tensor of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.named.iter().find(|(other, _)| other == name).map(|(_, tensor)| tensor)
    }

    /// x W' + b with the tensors `layer.weight` and `layer.bias`.
    ///
    /// # Panics
    ///
    /// If there is no such layer.
    pub fn linear(&self, layer: &str, x: &Tensor) -> Tensor {
        let (weight, bias) = (format!("{layer}.weight"), format!("{layer}.bias"));
        x.linear(&self[weight.as_str()], Some(&self[bias.as_str()]))
    }
}

impl Index<&str> for Parameters {
    type Output = Tensor;

    fn index(&self, name: &str) -> &Tensor {
        self.get(name).unwrap_or_else(|| panic!("the layout has no tensor called {name}"))
    }
}

impl<D, N, F> Model for Autograd<D, N, F>
where
    D: Dataset,
    F: Fn(&N, &Inputs<'_, D>) -> Vec<Tensor>,
{
    type Data = D;

    fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Does nothing. The bits depend on the number of threads, so the team must not decide it.
    fn set_team(&mut self, _team: Arc<Team>) {}

    fn fix_threads(&mut self, threads: u32) {
        self.threads = i32::try_from(threads.max(1)).unwrap_or(i32::MAX);
    }

    /// The values of the module's own initialisation on a CPU, with the generator seeded by `seed`.
    fn initialise(&self, seed: u64, parameters: &mut [f32]) {
        assert_eq!(parameters.len(), self.layout.len(), "parameters and layout differ in length");
        let build = match &self.start {
            Start::Built(build) => build,
            Start::Linear => return initialise_linear(&self.layout, seed, parameters),
        };
        let store = VarStore::new(Device::Cpu);
        let _seeded = seed_generator(Stream::new(seed, Domain::Initial, 0, 0));
        let _module = build(&store.root());
        let variables = variables(&store);
        let names = variables.iter().map(|(name, _)| name);
        assert!(
            names.eq(self.layout.entries().iter().map(|entry| &entry.name)),
            "a module has other variables when it is built again"
        );
        let parts: Vec<Tensor> = variables.into_iter().map(|(_, tensor)| tensor).collect();
        write(&self.layout, &parts, parameters);
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
        self.differentiate(parameters, &inputs, gradient)
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
        let _no_gradient = no_grad_guard();
        let terms = self.forward(parameters, &inputs)?;
        attempt(|| read(&terms))
    }
}

impl<D, N, F> fmt::Debug for Autograd<D, N, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Autograd")
            .field("device", &self.device)
            .field("threads", &self.threads)
            .field("parameters", &self.layout.parameters())
            .finish_non_exhaustive()
    }
}

/// The variables of a store, by name.
fn variables(store: &VarStore) -> Vec<(String, Tensor)> {
    let mut variables: Vec<(String, Tensor)> = store.variables().into_iter().collect();
    variables.sort_by(|(one, _), (other, _)| one.cmp(other));
    variables
}

fn check(variables: &[(String, Tensor)]) -> Result<(), ModelError> {
    if variables.is_empty() {
        return Err(ModelError::Module("it has no parameters: create them with the path".into()));
    }
    for (name, tensor) in variables {
        if !tensor.requires_grad() {
            return Err(ModelError::Module(format!(
                "{name} is not trained, like the running statistics of batch norm: each worker would \
                 have its own; use group norm or layer norm, and keep constants out of the path"
            )));
        }
        if tensor.kind() != Kind::Float {
            let kind = tensor.kind();
            return Err(ModelError::Module(format!(
                "{name} is of kind {kind:?}; it must be Float"
            )));
        }
    }
    Ok(())
}

fn part(flat: &Tensor, range: &Range<usize>) -> Tensor {
    flat.narrow(0, range.start as i64, range.len() as i64)
}

/// Writes the tensors of a layout to its flat vector. An undefined tensor counts as zeros; the gradient of a
/// parameter that does not influence the loss is undefined.
fn write(layout: &Layout, parts: &[Tensor], flat: &mut [f32]) {
    layout.zero_padding(flat);
    for (entry, part) in layout.entries().iter().zip(parts) {
        let place = &mut flat[entry.range.clone()];
        if part.defined() {
            part.copy_data(place, place.len());
        } else {
            place.fill(0.0);
        }
    }
}

/// The values of the terms, in one transfer from the device.
fn read(terms: &[Tensor]) -> Sums {
    let value = |term: &Tensor| term.detach().to_kind(Kind::Double).reshape([]);
    let values: Vec<Tensor> = terms.iter().map(value).collect();
    let values = Tensor::stack(&values, 0).to_device(Device::Cpu);
    let mut sums = Sums::default();
    values.copy_data(&mut sums.terms, terms.len());
    sums
}

/// Seeds libtorch's generator with the last block of the stream, which nothing else uses. The
/// process has one generator; the guard keeps other threads from using it.
fn seed_generator(stream: Stream) -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    let guard = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    let [low, high, ..] = stream.block(u32::MAX);
    tch::manual_seed(i64::from(low) | i64::from(high) << 32);
    guard
}
