//! Training that stays on the GPU: parameters, moments, gradients, the data set, the epoch's order, and a
//! table of the steps that are under way. A step is one graph. The host starts steps before it knows the
//! results of the steps before them, sends each step one line of the table, and gets the sums of its losses.

use std::{ops::Range, sync::Arc};

use data::{Batch, Stream};
use images::Images;
use model::{
    Digest, Finished, ModelError, PartialTree, Partner, Resident, STATE_VECTORS, StateView,
    StepContext, Sums, Update, WholeStep,
    cuda::{Buffer, Gpu, GpuAddress, GpuError, Graph, Pinned},
    digest::Hasher,
    resident::AHEAD,
};
use vae_options::Binarize;

use super::{
    Vae,
    digest::Digests,
    kernels::{self, Kernels, Step, Updating, squares_blocks},
    line::{LINE_WORDS, Line, Shape},
    pass::{Ends, Work},
    table::{CURSOR_WORDS, Table},
    together::Together,
};

/// The state of a run on the GPU, with the steps that advance it.
#[derive(Debug)]
pub(super) struct State {
    steps: Option<Steps>,
    pub(super) together: Option<Together>,
    /// Parameters and both moments.
    vectors: [Buffer<f32>; STATE_VECTORS],
    /// A flag, which a loss that is not finite sets, and a zero, which clears the flag.
    stopped: (Buffer<u32>, Pinned<u32>),
    /// A table of one line, for an update by a sum that comes from the host.
    line: (Buffer<u32>, Pinned<u32>),
    digests: Digests,
}

/// The recorded work of whole steps. Each step that is under way has a line of the table.
#[derive(Debug)]
struct Steps {
    plan: Plan,
    /// How many steps were begun and finished so far.
    begun: u64,
    finished: u64,
    plain: Graph,
    /// The same with the gradient's norm, by which the gradient is clipped.
    measured: Graph,
    table: Table,
    /// Memory that the graphs read and write, kept as long as these.
    _kept: (Work, Buffer<f32>, Norm, Buffer<u8>),
}

/// The properties of a step that its graphs depend on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) shape: Shape,
    /// The data set, by its place in the model's list.
    pub(super) set: usize,
    /// The number of examples in an epoch.
    pub(super) examples: usize,
    pub(super) grad_clip: Option<f64>,
}

/// Memory for the norm of a gradient.
#[derive(Debug)]
pub(super) struct Norm {
    sum: Buffer<f32>,
    factor: Buffer<f32>,
    squares: Buffer<f64>,
}

impl Norm {
    pub(super) fn new(gpu: &Gpu, length: usize) -> Result<Self, GpuError> {
        let squares = gpu.zeros(squares_blocks(length))?;
        Ok(Self { sum: gpu.zeros(length)?, factor: gpu.zeros(1)?, squares })
    }

    /// Adds up the gradients of an update, and computes the norm of the sum and the factor that clips the
    /// sum. Gives the update by that sum.
    pub(super) fn measure(
        &self,
        kernels: &Kernels,
        (step, norms): (&Step, GpuAddress),
        updating: Updating,
        grad_clip: Option<f64>,
    ) -> Result<Updating, GpuError> {
        let (sum, factor) = (self.sum.address(), self.factor.address());
        let Updating { leaves, count, merges, length, .. } = updating;
        kernels.add_up([leaves, merges, sum], count, length)?;
        let addresses = [sum, self.squares.address(), norms, factor];
        kernels.norm(step, addresses, length, grad_clip)?;
        Ok(Updating { leaves: sum, count: 1, factor, ..updating })
    }
}

impl State {
    fn new(gpu: &Gpu, length: usize) -> Result<Self, GpuError> {
        let words = CURSOR_WORDS + LINE_WORDS;
        Ok(Self {
            steps: None,
            together: None,
            vectors: [gpu.zeros(length)?, gpu.zeros(length)?, gpu.zeros(length)?],
            stopped: (gpu.zeros(1)?, gpu.pinned(1)?),
            line: (gpu.zeros(words)?, gpu.pinned(words)?),
            digests: Digests::new(gpu, length)?,
        })
    }

    pub(super) fn parameters(&self) -> GpuAddress {
        self.vectors[0].address()
    }

    /// Drops the recorded steps, because memory that they use is gone. The next step records them anew.
    pub(super) fn forget_steps(&mut self) {
        self.steps = None;
        self.together.iter_mut().for_each(Together::forget_steps);
    }

    pub(super) fn updating(
        &self,
        (leaves, count): (GpuAddress, usize),
        merges: GpuAddress,
    ) -> Updating {
        Updating {
            leaves,
            count,
            merges,
            length: self.vectors[0].len(),
            state: self.vectors.each_ref().map(Buffer::address),
            factor: GpuAddress::NULL,
            stopped: GpuAddress::NULL,
        }
    }
}

impl Steps {
    fn new(vae: &Vae, state: &State, plan: Plan) -> Result<Self, GpuError> {
        let Vae { gpu, network, kernels, .. } = vae;
        let (shape, length) = (plan.shape, network.layout.len());
        let table = Table::new(gpu, shape, 1, plan.examples)?;
        let (norm, gradient) = (Norm::new(gpu, length)?, gpu.zeros(shape.groups * length)?);
        let mut merges = gpu.zeros(shape.groups)?;
        gpu.copy(&PartialTree::alone(shape.groups).shards, &mut merges)?;
        let work = Work::new(gpu, network, &shape)?;
        let stopped = state.stopped.0.address();
        let ends = Ends {
            images: vae.sets[plan.set].1.address(),
            order: table.order(),
            parameters: state.parameters(),
            gradient: gradient.address(),
            sums: table.sums(),
            stopped,
            merges: merges.address(),
            nodes: 1,
            binarize: vae.settings.binarize != Binarize::None,
        };
        let step = table.step();
        let pass = work.pass(network, kernels, step, ends);
        let updating = state.updating((gradient.address(), shape.groups), merges.address());
        let updating = Updating { stopped, ..updating };
        let record = |is_measured| {
            gpu.record(|| {
                pass.forward()?;
                pass.backward()?;
                pass.totals()?;
                let mut updating = updating;
                if is_measured {
                    let place = (&step, table.norms());
                    updating = norm.measure(kernels, place, updating, plan.grad_clip)?;
                }
                kernels.update(&step, &updating)?;
                kernels.advance(&step, AHEAD)
            })
        };
        let (plain, measured) = (record(false)?, record(true)?);
        let kept = (work, gradient, norm, merges);
        Ok(Self { plan, begun: 0, finished: 0, plain, measured, table, _kept: kept })
    }

    /// Starts a step, whose images are at the line's positions in the order.
    fn begin(
        &mut self,
        gpu: &Gpu,
        line: &Line,
        order: &Arc<[u32]>,
        wants_norm: bool,
    ) -> Result<(), GpuError> {
        assert!(self.begun - self.finished < AHEAD as u64, "too many steps are under way");
        self.table.write(gpu, self.begun, line, order)?;
        let is_measured = wants_norm || self.plan.grad_clip.is_some();
        kernels::launch(if is_measured { &self.measured } else { &self.plain })?;
        self.table.read(gpu, self.begun, wants_norm)?;
        self.begun += 1;
        Ok(())
    }

    fn finish(&mut self) -> Result<Finished, GpuError> {
        assert!(self.finished < self.begun, "no step is under way");
        let (sums, norm) = self.table.wait(self.finished)?;
        self.finished += 1;
        Ok(Finished { sums: sums[0], norm })
    }
}

impl Vae {
    /// The plan of steps like this one. The last step of an epoch, which may be short, has the plan of the
    /// steps before it.
    pub(super) fn plan(
        &mut self,
        step: &WholeStep<'_, Images>,
        known: Option<Plan>,
    ) -> Result<Plan, GpuError> {
        let (first, groups) = (&step.shards[0].0, step.shards.len());
        let batch = first.len().max(known.map_or(1, |plan| plan.shape.batch));
        let shape = Shape { batch, groups, ..self.shape(batch * groups)? };
        let (set, examples) = (self.set(first.data)?, step.order.len());
        Ok(Plan { shape, set, examples, grad_clip: step.grad_clip })
    }

    /// The line of a step.
    pub(super) fn line(&self, step: &WholeStep<'_, Images>) -> Line {
        let (batch, context) = &step.shards[0];
        let Range { start, end } = step.positions();
        assert!(end <= step.order.len(), "{start}..{end} is beyond the order's end");
        Line {
            noise: context.random,
            noise_stride: 1,
            pass: batch.pass,
            positions: (start as u32, end as u32),
            beta: self.beta * self.settings.kl_weight(context),
            update: Some(step.update.numbers()),
        }
    }

    /// Records steps like this one, unless that was done before.
    fn prepare_steps(&mut self, step: &WholeStep<'_, Images>) -> Result<(), GpuError> {
        let known = self.state.as_ref().and_then(|state| state.steps.as_ref());
        let plan = self.plan(step, known.map(|steps| steps.plan))?;
        let mut state = self.state.take().expect("the state was loaded");
        state.together = None;
        if state.steps.as_ref().is_none_or(|steps| steps.plan != plan) {
            let is_idle = |steps: &Steps| steps.begun == steps.finished;
            assert!(state.steps.as_ref().is_none_or(is_idle), "steps of other sizes are under way");
            state.forget_steps();
            state.steps = Some(Steps::new(self, &state, plan)?);
        }
        self.state = Some(state);
        Ok(())
    }
}

impl Resident for Vae {
    type Data = Images;

    fn load(&mut self, view: StateView<'_>) -> Result<(), ModelError> {
        if self.state.is_none() {
            self.state = Some(State::new(&self.gpu, self.network.layout.len())?);
        }
        let Self { gpu, flat, state, .. } = self;
        let state = state.as_mut().expect("the state was made above");
        for (from, to) in view.vectors().into_iter().zip(&mut state.vectors) {
            flat.as_mut_slice()?.copy_from_slice(from);
            gpu.upload(flat, to)?;
        }
        let (stopped, zero) = &mut state.stopped;
        gpu.upload(zero, stopped)?;
        Ok(gpu.wait()?)
    }

    fn fetch(&mut self) -> Result<[Vec<f32>; STATE_VECTORS], ModelError> {
        let Self { gpu, flat, state, .. } = self;
        let state = state.as_ref().expect("the state was loaded");
        let mut vectors = [const { Vec::new() }; STATE_VECTORS];
        for (from, to) in state.vectors.iter().zip(&mut vectors) {
            gpu.download(from, flat)?;
            *to = flat.as_slice()?.to_vec();
        }
        Ok(vectors)
    }

    fn digest(&mut self, step: u64) -> Result<Option<Digest>, ModelError> {
        let Self { gpu, kernels, state, network, .. } = self;
        let State { digests, vectors, .. } = state.as_mut().expect("the state was loaded");
        let mut hasher = Hasher::new(step, network.layout.len());
        digests.add(gpu, kernels, vectors, &mut hasher)?;
        Ok(Some(hasher.digest()))
    }

    fn gradient(
        &mut self,
        batch: &Batch<'_, Images>,
        context: &StepContext,
        gradient: &mut [f32],
    ) -> Result<Sums, ModelError> {
        let kl_weight = self.settings.kl_weight(context);
        Ok(self.compute(None, batch, context.random, kl_weight, Some(gradient))?)
    }

    fn evaluate(&mut self, batch: &Batch<'_, Images>, random: Stream) -> Result<Sums, ModelError> {
        Ok(self.compute(None, batch, random, 1.0, None)?)
    }

    fn update(&mut self, update: &Update, sum: &[f32]) -> Result<(), ModelError> {
        let Self { gpu, flat, gradient, state, kernels, merges, network, registered, .. } = self;
        let state = state.as_mut().expect("the state was loaded");
        match registered {
            Some(memory) if memory.holds(sum) => memory.write(sum, gradient)?,
            _ => {
                flat.as_mut_slice()?.copy_from_slice(sum);
                gpu.upload(flat, gradient)?;
            }
        }
        let line = Line { update: Some(update.numbers()), ..Line::of_nothing() };
        let (table, words) = &mut state.line;
        words.as_mut_slice()?[CURSOR_WORDS..].copy_from_slice(&line.words());
        gpu.upload(words, table)?;
        let cursor = table.address();
        let shape = Shape::of(network, 0, 1);
        let step = Step { cursor, table: cursor.offset::<u32>(CURSOR_WORDS), shape };
        let updating = state.updating((gradient.address(), 1), merges.address());
        Ok(kernels.update(&step, &updating)?)
    }

    fn begin(&mut self, step: &WholeStep<'_, Images>) -> Result<(), ModelError> {
        self.prepare_steps(step)?;
        let line = self.line(step);
        let Self { gpu, state, .. } = self;
        let steps = state.as_mut().and_then(|state| state.steps.as_mut());
        let steps = steps.expect("the steps were prepared");
        Ok(steps.begin(gpu, &line, step.order, step.wants_norm)?)
    }

    fn finish(&mut self) -> Result<Finished, ModelError> {
        let steps = self.state.as_mut().and_then(|state| state.steps.as_mut());
        Ok(steps.expect("a step was begun").finish()?)
    }
    fn partner(&mut self) -> Option<&mut dyn Partner<Data = Images>> {
        Some(self)
    }
}
