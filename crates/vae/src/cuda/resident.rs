//! Training that stays on the GPU: parameters, moments, gradients, the data set, and a table of the steps
//! that are under way. A step is one graph, which is started before anybody has heard of those before it,
//! and gives back the sums of its losses alone.

use data::{Batch, Stream};
use images::Images;
use model::{
    Finished, ModelError, Resident, STATE_VECTORS, StateView, StepContext, Sums, Update, WholeStep,
    cuda::{Buffer, Event, Gpu, GpuError, Graph, Pinned, Place},
    resident::AHEAD,
};
use vae_options::Binarize;

use crate::vae::TERMS;

use super::{
    Vae,
    kernels::{self, Step, Updating, squares_blocks},
    line::{LINE_WORDS, Line, Shape},
    pass::{Ends, Work},
};

/// Words before the lines of a table: the cursor, and one that is not used.
const CURSOR_WORDS: usize = 2;

/// The state of a run, and what advances it.
#[derive(Debug)]
pub(super) struct State {
    steps: Option<Steps>,
    /// Parameters and both moments.
    vectors: [Buffer<f32>; STATE_VECTORS],
    /// Not zero once a loss was not finite; and the zero that it begins with.
    stopped: (Buffer<u32>, Pinned<u32>),
    /// A table of one line, for updates by a sum that comes from the host.
    line: (Buffer<u32>, Pinned<u32>),
}

/// What whole steps are made with; each that is under way has a line of the table.
#[derive(Debug)]
struct Steps {
    plan: Plan,
    /// Steps begun and finished so far.
    begun: u64,
    finished: u64,
    plain: Graph,
    /// With the norm of the gradient, which also clips it.
    measured: Graph,
    slots: Vec<Slot>,
    table: Buffer<u32>,
    order: Buffer<u32>,
    sums: Buffer<f64>,
    norms: Buffer<f64>,
    /// What the graphs read and write beside these.
    _kept: (Work, [Buffer<f32>; 3], Buffer<f64>, Buffer<u8>),
}

/// What is the same in all steps.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Plan {
    shape: Shape,
    /// The data set, by its place in the model's list.
    set: usize,
    grad_clip: Option<f64>,
}

/// The host's side of a line of the table.
#[derive(Debug)]
struct Slot {
    line: Pinned<u32>,
    order: Pinned<u32>,
    sums: Pinned<f64>,
    norm: Pinned<f64>,
    wants_norm: bool,
    done: Event,
}

impl State {
    fn new(gpu: &Gpu, length: usize) -> Result<Self, GpuError> {
        let words = CURSOR_WORDS + LINE_WORDS;
        Ok(Self {
            steps: None,
            vectors: [gpu.zeros(length)?, gpu.zeros(length)?, gpu.zeros(length)?],
            stopped: (gpu.zeros(1)?, gpu.pinned(1)?),
            line: (gpu.zeros(words)?, gpu.pinned(words)?),
        })
    }

    pub(super) fn parameters(&self) -> Place {
        self.vectors[0].place()
    }

    /// Whole steps are prepared anew: what they were prepared with is gone.
    pub(super) fn forget_steps(&mut self) {
        self.steps = None;
    }

    fn updating(&self, (leaves, count): (Place, usize), merges: Place) -> Updating {
        Updating {
            leaves,
            count,
            merges,
            length: self.vectors[0].len(),
            state: self.vectors.each_ref().map(Buffer::place),
            factor: Place::NULL,
            stopped: Place::NULL,
        }
    }
}

impl Steps {
    fn new(vae: &Vae, state: &State, plan: Plan) -> Result<Self, GpuError> {
        let Vae { gpu, network, kernels, settings, .. } = vae;
        let (shape, length) = (plan.shape, network.layout.len());
        let table: Buffer<u32> = gpu.zeros(CURSOR_WORDS + AHEAD * LINE_WORDS)?;
        let order = gpu.zeros(AHEAD * shape.images())?;
        let (sums, norms) = (gpu.zeros(AHEAD * TERMS)?, gpu.zeros(AHEAD)?);
        let (gradient, sum, factor) =
            (gpu.zeros(shape.groups * length)?, gpu.zeros(length)?, gpu.zeros(1)?);
        let (squares, mut merges) = (gpu.zeros(squares_blocks(length))?, gpu.zeros(shape.groups)?);
        gpu.copy(&merges_of(shape.groups), &mut merges)?;
        let work = Work::new(gpu, network, &shape)?;
        let cursor = table.place();
        let step = Step { cursor, table: cursor.offset::<u32>(CURSOR_WORDS), shape };
        let ends = Ends {
            images: vae.sets[plan.set].1.place(),
            order: order.place(),
            parameters: state.parameters(),
            gradient: gradient.place(),
            sums: sums.place(),
            stopped: state.stopped.0.place(),
            merges: merges.place(),
            binarize: settings.binarize != Binarize::None,
        };
        let pass = work.pass(network, kernels, step, ends);
        let record = |advance: &dyn Fn() -> Result<(), GpuError>| {
            gpu.record(|| {
                pass.forward()?;
                pass.backward()?;
                pass.totals()?;
                advance()?;
                kernels.advance(&step, AHEAD)
            })
        };
        let updating = state.updating((gradient.place(), shape.groups), merges.place());
        let updating = Updating { stopped: state.stopped.0.place(), ..updating };
        let plain = record(&|| kernels.update(&step, &updating))?;
        let of_sum = Updating { leaves: sum.place(), count: 1, factor: factor.place(), ..updating };
        let measured = record(&|| {
            let places = [gradient.place(), merges.place(), sum.place()];
            kernels.add_up(places, shape.groups, length)?;
            let places = [sum.place(), squares.place(), norms.place(), factor.place()];
            kernels.norm(&step, places, length, plan.grad_clip)?;
            kernels.update(&step, &of_sum)
        })?;
        let slots = (0..AHEAD).map(|_| Slot::new(gpu, &shape)).collect::<Result<_, _>>()?;
        let kept = (work, [gradient, sum, factor], squares, merges);
        let (begun, finished) = (0, 0);
        Ok(Self {
            plan,
            begun,
            finished,
            plain,
            measured,
            slots,
            table,
            order,
            sums,
            norms,
            _kept: kept,
        })
    }

    /// Starts a step: its line, with positions that count from its own first one, and its images.
    fn begin(
        &mut self,
        gpu: &Gpu,
        line: &Line,
        images: impl Iterator<Item = u32>,
        wants_norm: bool,
    ) -> Result<(), GpuError> {
        assert!(self.begun - self.finished < AHEAD as u64, "too many steps are under way");
        let index = (self.begun % AHEAD as u64) as usize;
        let Self { slots, table, order, plan, .. } = self;
        let (slot, room) = (&mut slots[index], plan.shape.images());
        let list = slot.order.as_mut_slice()?;
        list.iter_mut().zip(images).for_each(|(place, image)| *place = image);
        gpu.upload_part(&mut slot.order, order, index * room, room)?;
        let first = (index * room) as u32;
        let positions = (first + line.positions.0, first + line.positions.1);
        let words = Line { positions, ..*line }.words();
        slot.line.as_mut_slice()?.copy_from_slice(&words);
        gpu.upload_part(&mut slot.line, table, CURSOR_WORDS + index * LINE_WORDS, LINE_WORDS)?;
        let is_measured = wants_norm || plan.grad_clip.is_some();
        kernels::launch(if is_measured { &self.measured } else { &self.plain })?;
        gpu.download_part(&self.sums, &mut slot.sums, index * TERMS, TERMS)?;
        if wants_norm {
            gpu.download_part(&self.norms, &mut slot.norm, index, 1)?;
        }
        slot.wants_norm = wants_norm;
        slot.done.record()?;
        self.begun += 1;
        Ok(())
    }

    fn finish(&mut self) -> Result<Finished, GpuError> {
        assert!(self.finished < self.begun, "no step is under way");
        let slot = &self.slots[(self.finished % AHEAD as u64) as usize];
        slot.done.wait()?;
        self.finished += 1;
        let mut sums = Sums::default();
        sums.terms[..TERMS].copy_from_slice(slot.sums.as_slice()?);
        let norm = if slot.wants_norm { Some(slot.norm.as_slice()?[0]) } else { None };
        Ok(Finished { sums, norm })
    }
}

impl Slot {
    fn new(gpu: &Gpu, shape: &Shape) -> Result<Self, GpuError> {
        Ok(Self {
            line: gpu.pinned(LINE_WORDS)?,
            order: gpu.pinned(shape.images())?,
            sums: gpu.pinned(TERMS)?,
            norm: gpu.pinned(1)?,
            wants_norm: false,
            done: gpu.event()?,
        })
    }
}

impl Vae {
    /// Sees to it that such steps can be begun.
    fn prepare_steps(&mut self, step: &WholeStep<'_, Images>) -> Result<(), GpuError> {
        let (first, groups) = (&step.shards[0].0, step.shards.len());
        let known = self.state.as_ref().and_then(|state| state.steps.as_ref());
        // The last step of an epoch may be short.
        let batch = first.len().max(known.map_or(0, |steps| steps.plan.shape.batch));
        let shape = Shape { batch, groups, ..self.shape(batch * groups)? };
        let plan = Plan { shape, set: self.set(first.data)?, grad_clip: step.grad_clip };
        let mut state = self.state.take().expect("the state was loaded");
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
        let state = state.as_mut().expect("it was made");
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
        let Self { gpu, flat, gradient, state, kernels, merges, network, .. } = self;
        let state = state.as_mut().expect("the state was loaded");
        flat.as_mut_slice()?.copy_from_slice(sum);
        gpu.upload(flat, gradient)?;
        let line = Line { update: Some(update.numbers()), ..Line::of_nothing() };
        let (table, words) = &mut state.line;
        words.as_mut_slice()?[CURSOR_WORDS..].copy_from_slice(&line.words());
        gpu.upload(words, table)?;
        let cursor = table.place();
        let shape = Shape::of(network, 0, 1);
        let step = Step { cursor, table: cursor.offset::<u32>(CURSOR_WORDS), shape };
        let updating = state.updating((gradient.place(), 1), merges.place());
        Ok(kernels.update(&step, &updating)?)
    }

    fn begin(&mut self, step: &WholeStep<'_, Images>) -> Result<(), ModelError> {
        self.prepare_steps(step)?;
        let (batch, context) = &step.shards[0];
        let examples: usize = step.shards.iter().map(|(batch, _)| batch.len()).sum();
        let line = Line {
            noise: context.random,
            noise_stride: 1,
            visit: batch.visit,
            positions: (0, examples as u32),
            beta: self.beta * self.settings.kl_weight(context),
            update: Some(step.update.numbers()),
        };
        let images = step.shards.iter().flat_map(|(batch, _)| batch.indices.iter().copied());
        let Self { gpu, state, .. } = self;
        let steps = state.as_mut().and_then(|state| state.steps.as_mut());
        let steps = steps.expect("they were prepared");
        Ok(steps.begin(gpu, &line, images, step.wants_norm)?)
    }

    fn finish(&mut self) -> Result<Finished, ModelError> {
        let steps = self.state.as_mut().and_then(|state| state.steps.as_mut());
        Ok(steps.expect("a step was begun").finish()?)
    }
}

/// How often the two uppermost sums are added after each leaf of the tree, which splits a range at the
/// largest power of two below its length.
fn merges_of(leaves: usize) -> Vec<u8> {
    fn split(merges: &mut [u8]) {
        let [_, .., last] = merges else { return };
        *last += 1;
        let (left, right) = merges.split_at_mut(merges.len().next_power_of_two() / 2);
        split(left);
        split(right);
    }
    let mut merges = vec![0; leaves];
    split(&mut merges);
    merges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_added_from_a_stack() {
        assert_eq!(merges_of(1), [0]);
        assert_eq!(merges_of(2), [0, 1]);
        assert_eq!(merges_of(3), [0, 1, 1]);
        assert_eq!(merges_of(4), [0, 1, 0, 2]);
        assert_eq!(merges_of(7), [0, 1, 0, 2, 0, 1, 2]);
    }
}
