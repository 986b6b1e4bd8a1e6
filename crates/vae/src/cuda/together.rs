//! Steps that several members make together, each on its own GPU. A first graph computes this member's
//! partials. Where the GPUs exchange partials, a second graph adds up those of all members and advances the
//! state. Otherwise the partials go to the host, which sends their sum back.

use std::sync::Arc;

use images::Images;
use model::{
    DeviceMemory, HostMemory, ModelError, PartialTree, Partner, Sums, WholeStep,
    cuda::{Buffer, Gpu, GpuAddress, GpuError, Graph},
    resident::AHEAD,
};

use vae_options::Binarize;

use super::{
    Vae,
    kernels::{self, Updating},
    line::Line,
    pass::{Ends, Work},
    resident::{Norm, Plan, State},
    table::Table,
};

/// Where the members' partials meet.
#[derive(Debug)]
pub(super) struct Together {
    tree: PartialTree,
    /// A gradient for each node, in shard order. The exchange writes those of the other members.
    partials: Arc<Buffer<f32>>,
    merges: Buffer<u8>,
    steps: Option<Steps>,
}

/// The recorded work of steps.
#[derive(Debug)]
struct Steps {
    plan: Plan,
    /// Steps that have advanced the state so far.
    advanced: u64,
    contribute: Graph,
    advance: Option<Advance>,
    table: Table,
    /// Memory that the graphs read and write, kept as long as these.
    _kept: (Work, Buffer<f32>, Buffer<u8>),
}

/// The recorded work that adds up all partials and advances the state.
#[derive(Debug)]
struct Advance {
    plain: Graph,
    /// The same with the gradient's norm, by which the gradient is clipped.
    measured: Graph,
    _norm: Norm,
}

impl Together {
    fn new(gpu: &Gpu, tree: &PartialTree, length: usize) -> Result<Self, GpuError> {
        let mut merges = gpu.zeros(tree.partials.len())?;
        gpu.copy(&tree.partials, &mut merges)?;
        let partials = Arc::new(gpu.zeros(tree.partials.len().max(tree.own.len()) * length)?);
        Ok(Self { tree: tree.clone(), partials, merges, steps: None })
    }

    pub(super) fn forget_steps(&mut self) {
        self.steps = None;
    }
}

impl Steps {
    fn new(vae: &Vae, state: &State, together: &Together, plan: Plan) -> Result<Self, GpuError> {
        let Vae { gpu, network, kernels, .. } = vae;
        let Together { tree, partials, merges, .. } = together;
        let (shape, length) = (plan.shape, network.layout.len());
        let table = Table::new(gpu, shape, tree.own.len(), plan.examples)?;
        let own = partials.address().offset::<f32>(tree.own.start * length);
        // Where this member adds no two shards, the shards' gradients are its partials.
        let are_partials = tree.own.len() == shape.groups;
        let room = if are_partials { 0 } else { shape.groups * length };
        let (gradients, mut shards) = (gpu.zeros(room)?, gpu.zeros(shape.groups)?);
        gpu.copy(&tree.shards, &mut shards)?;
        let work = Work::new(gpu, network, &shape)?;
        let ends = Ends {
            images: vae.sets[plan.set].1.address(),
            order: table.order(),
            parameters: state.parameters(),
            gradient: if are_partials { own } else { gradients.address() },
            sums: table.sums(),
            // The members see together that a loss is not finite.
            stopped: GpuAddress::NULL,
            merges: shards.address(),
            nodes: tree.own.len(),
            binarize: vae.settings.binarize != Binarize::None,
        };
        let step = table.step();
        let pass = work.pass(network, kernels, step, ends);
        let contribute = gpu.record(|| {
            pass.forward()?;
            pass.backward()?;
            pass.totals()?;
            if are_partials {
                return Ok(());
            }
            kernels.add_up([gradients.address(), shards.address(), own], shape.groups, length)
        })?;
        let advance = if tree.partials.is_empty() {
            None
        } else {
            let updating =
                state.updating((partials.address(), tree.partials.len()), merges.address());
            Some(Advance::new(vae, &table, updating, plan.grad_clip)?)
        };
        let kept = (work, gradients, shards);
        Ok(Self { plan, advanced: 0, contribute, advance, table, _kept: kept })
    }

    fn contribute(&mut self, gpu: &Gpu, line: &Line, order: &Arc<[u32]>) -> Result<(), GpuError> {
        self.table.write(gpu, self.advanced, line, order)?;
        kernels::launch(&self.contribute)?;
        self.table.read(gpu, self.advanced, false)
    }

    fn advance(&mut self, gpu: &Gpu, wants_norm: bool) -> Result<Option<f64>, GpuError> {
        let is_measured = wants_norm || self.plan.grad_clip.is_some();
        let graphs = self.advance.as_ref().expect("all partials meet on this GPU");
        kernels::launch(if is_measured { &graphs.measured } else { &graphs.plain })?;
        let norm = if wants_norm { Some(self.table.norm(gpu, self.advanced)?) } else { None };
        self.advanced += 1;
        Ok(norm)
    }
}

impl Advance {
    fn new(
        vae: &Vae,
        table: &Table,
        updating: Updating,
        grad_clip: Option<f64>,
    ) -> Result<Self, GpuError> {
        let Vae { gpu, kernels, .. } = vae;
        let (step, norm) = (table.step(), Norm::new(gpu, updating.length)?);
        let plain = gpu.record(|| {
            kernels.update(&step, &updating)?;
            kernels.advance(&step, AHEAD)
        })?;
        let measured = gpu.record(|| {
            let place = (&step, table.norms());
            let updating = norm.measure(kernels, place, updating, grad_clip)?;
            kernels.update(&step, &updating)?;
            kernels.advance(&step, AHEAD)
        })?;
        Ok(Self { plain, measured, _norm: norm })
    }
}

impl Vae {
    /// Records steps like this one, unless that was done before.
    fn prepare_together(&mut self, step: &WholeStep<'_, Images>) -> Result<(), GpuError> {
        let known = self.state.as_ref().and_then(|state| state.together.as_ref());
        let known = known.and_then(|together| together.steps.as_ref()).map(|steps| steps.plan);
        let plan = self.plan(step, known)?;
        let mut state = self.state.take().expect("the state was loaded");
        let mut together = state.together.take().expect("the members have met");
        if together.steps.as_ref().is_none_or(|steps| steps.plan != plan) {
            together.forget_steps();
            together.steps = Some(Steps::new(self, &state, &together, plan)?);
        }
        state.together = Some(together);
        self.state = Some(state);
        Ok(())
    }

    fn together(&mut self) -> (&Gpu, &mut Steps) {
        let Self { gpu, state, .. } = self;
        let together = state.as_mut().and_then(|state| state.together.as_mut());
        let steps = together.and_then(|together| together.steps.as_mut());
        (gpu, steps.expect("a step was contributed to"))
    }
}

impl Partner for Vae {
    type Data = Images;

    fn meet(&mut self, tree: &PartialTree) -> Result<Arc<dyn DeviceMemory>, ModelError> {
        let Self { gpu, state, network, .. } = self;
        let state = state.as_mut().expect("the state was loaded");
        // The memory of an earlier meeting is freed first.
        state.forget_steps();
        state.together = None;
        let together = state.together.insert(Together::new(gpu, tree, network.layout.len())?);
        Ok(Arc::clone(&together.partials) as _)
    }

    fn contribute(&mut self, step: &WholeStep<'_, Images>) -> Result<(), ModelError> {
        self.prepare_together(step)?;
        let line = self.line(step);
        let (gpu, steps) = self.together();
        Ok(steps.contribute(gpu, &line, step.order)?)
    }

    fn sums(&mut self) -> Result<Vec<Sums>, ModelError> {
        let (_, steps) = self.together();
        Ok(steps.table.wait(steps.advanced)?.0)
    }

    fn partial(&mut self, index: usize, to: &mut [f32]) -> Result<(), ModelError> {
        let Self { gpu, state, flat, registered, network, .. } = self;
        let together = state.as_ref().and_then(|state| state.together.as_ref());
        let Together { tree, partials, .. } = together.expect("the members have met");
        let first = (tree.own.start + index) * network.layout.len();
        match registered {
            Some(memory) if memory.holds(to) => memory.read(partials, first, to)?,
            _ => {
                gpu.download_part(partials, flat, first, to.len())?;
                to.copy_from_slice(flat.as_slice()?);
            }
        }
        Ok(())
    }

    fn use_memory(&mut self, memory: Option<Arc<dyn HostMemory>>) {
        self.registered = None;
        self.registered = memory.and_then(|memory| self.gpu.register(memory).ok());
    }

    fn advance(&mut self, wants_norm: bool) -> Result<Option<f64>, ModelError> {
        let (gpu, steps) = self.together();
        Ok(steps.advance(gpu, wants_norm)?)
    }
}
