//! The VAE on a GPU. In f32 it has the same bits as `pass.rs` on a CPU: the kernels follow ARITHMETIC.md.
//! In bf16 tensor cores multiply, and each kind of GPU has its own bits. `cuda/README.md` describes the kernels.
//!
//! The data set is copied to the GPU once, noise is made there, and a batch is one graph of kernels. A member
//! keeps the state there too (`cuda/resident.rs`). Several members exchange their partials from GPU to GPU
//! (`cuda/together.rs`), or copy their gradients to the host and exchange them there.

mod digest;
mod kernels;
mod line;
mod pass;
mod resident;
mod sources;
mod table;
mod together;

use std::{collections::HashMap, fmt, sync::Arc};

use data::{Batch, Stream};
use images::Images;
use vae_options::{Binarize, ModelConfig};

use model::{
    Layout, Model, ModelError, Resident, StepContext, Sums, Team,
    cuda::{self, Buffer, Gpu, GpuAddress, GpuError, Graph, Pinned, Registered},
    initialise_linear,
};

pub use self::kernels::Tiles;
use self::{
    kernels::{Kernels, Step},
    line::{LINE_WORDS, Line, Shape},
    pass::{Ends, Work},
    resident::State,
};
use crate::{
    Settings,
    network::{Network, side},
    vae::{SAMPLES_MAX, TERMS},
};

/// The most batch sizes that are prepared at once: whole batches and last batches of training and
/// evaluation.
const SIZES: usize = 8;

/// The most data sets that are kept on the GPU, such as a training and a test set.
const SETS: usize = 4;

/// Words before a batch's indices: the cursor, an unused word, and the line of the table.
const HEAD_WORDS: usize = 2 + LINE_WORDS;

/// The model with its memory on the GPU.
pub struct Vae {
    network: Network,
    beta: f64,
    settings: Settings,
    samples: usize,
    team: Arc<Team>,
    kernels: Kernels,
    parameters: Buffer<f32>,
    gradient: Buffer<f32>,
    /// Pinned memory for parameters on the way to the GPU, and the gradient on the way back.
    flat: Pinned<f32>,
    sums: (Buffer<f64>, Pinned<f64>),
    /// The merges of the one group that a batch is.
    merges: Buffer<u8>,
    sizes: HashMap<usize, Size>,
    /// The state, after it was loaded.
    state: Option<State>,
    /// Host memory that holds gradients and their sum.
    registered: Option<Registered>,
    /// The data sets on the GPU. Each entry keeps its images alive, so that no other set can have the same address.
    sets: Vec<(Images, Buffer<u8>)>,
    gpu: Gpu,
}

/// The memory and graphs for batches of one size.
struct Size {
    /// The head, and the indices of the images.
    inputs: (Buffer<u32>, Pinned<u32>),
    work: Work,
    graphs: HashMap<Source, Graphs>,
}

/// The inputs of a batch's computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Source {
    /// The data set, by its index in the list.
    set: usize,
    /// Whether the parameters are those of the state; otherwise the host provides them.
    from_state: bool,
}

struct Graphs {
    forward: Graph,
    /// The graph of the forward and the backward pass.
    both: Graph,
}

/// Checks that this program has kernels for a GPU. Kernels that are not embedded are compiled, once in a process.
///
/// # Errors
///
/// [`GpuError`] if the GPU or its driver is too old, or there are no kernels.
pub fn check(device: usize) -> Result<(), GpuError> {
    sources::image(cuda::capability(device)?).map(drop)
}

impl Vae {
    /// Checks the sizes, and allocates memory for the flat vectors.
    ///
    /// # Errors
    ///
    /// As [`crate::Vae::with`], and [`ModelError::Gpu`].
    pub fn new(
        config: &ModelConfig,
        settings: Settings,
        device: usize,
    ) -> Result<Self, ModelError> {
        Self::with_tiles(config, settings, device, Tiles::Auto)
    }

    /// [`Vae::new`] with a chosen kind of tiles for products; the bits are the same for all.
    ///
    /// # Errors
    ///
    /// As [`Vae::new`].
    pub fn with_tiles(
        config: &ModelConfig,
        settings: Settings,
        device: usize,
        tiles: Tiles,
    ) -> Result<Self, ModelError> {
        let network = Network::new(config)?;
        let samples = side("importance_samples", settings.samples, SAMPLES_MAX)?;
        let (gpu, length) = (Gpu::open(device)?, network.layout.len());
        Ok(Self {
            beta: config.beta,
            settings,
            samples,
            team: Arc::default(),
            kernels: Kernels::load(&gpu, tiles, settings.precision)?,
            parameters: gpu.zeros(length)?,
            gradient: gpu.zeros(length)?,
            flat: gpu.pinned(length)?,
            sums: (gpu.zeros(TERMS)?, gpu.pinned(TERMS)?),
            merges: gpu.zeros(1)?,
            sizes: HashMap::new(),
            state: None,
            registered: None,
            sets: Vec::new(),
            network,
            gpu,
        })
    }

    /// The GPU, for queries about its work.
    #[must_use]
    pub const fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    fn shape(&self, images: usize) -> Result<Shape, GpuError> {
        let shape = Shape::of(&self.network, images, self.samples);
        // Kernels use 32-bit row numbers.
        let rows = images as u64 * self.samples as u64;
        if rows > i32::MAX as u64 {
            return Err(GpuError::Size { what: "the number of rows of a batch", value: rows });
        }
        Ok(shape)
    }

    /// Prepares the computation of batches of `images` images.
    fn prepare_for(&mut self, images: usize) -> Result<(), GpuError> {
        if self.sizes.contains_key(&images) {
            return Ok(());
        }
        if self.sizes.len() >= SIZES {
            self.sizes.clear();
        }
        let shape = self.shape(images)?;
        let (gpu, words) = (&self.gpu, HEAD_WORDS + images);
        let size = Size {
            inputs: (gpu.zeros(words)?, gpu.pinned(words)?),
            work: Work::new(gpu, &self.network, &shape)?,
            graphs: HashMap::new(),
        };
        self.sizes.insert(images, size);
        Ok(())
    }

    /// The index of a data set in the list. A new set is copied to the GPU.
    fn set(&mut self, images: &Images) -> Result<usize, GpuError> {
        let is_it = |known: &Images| known.bytes().as_ptr_range() == images.bytes().as_ptr_range();
        if let Some(found) = self.sets.iter().position(|(known, _)| is_it(known)) {
            return Ok(found);
        }
        if self.sets.len() >= SETS {
            self.sizes.values_mut().for_each(|size| size.graphs.clear());
            self.state.iter_mut().for_each(State::forget_steps);
            self.sets.clear();
        }
        let mut buffer = self.gpu.zeros(images.bytes().len())?;
        self.gpu.copy(images.bytes(), &mut buffer)?;
        self.sets.push((images.clone(), buffer));
        Ok(self.sets.len() - 1)
    }

    /// Records the kernels of a batch, unless they are recorded already.
    fn record(&mut self, images: usize, source: Source) -> Result<(), GpuError> {
        let shape = self.shape(images)?;
        let size = self.sizes.get_mut(&images).expect("it was prepared");
        if size.graphs.contains_key(&source) {
            return Ok(());
        }
        let state = self.state.as_ref().filter(|_| source.from_state);
        let inputs = size.inputs.0.address();
        let step = Step { cursor: inputs, table: inputs.offset::<u32>(2), shape };
        let ends = Ends {
            images: self.sets[source.set].1.address(),
            order: inputs.offset::<u32>(HEAD_WORDS),
            parameters: state.map_or(self.parameters.address(), State::parameters),
            gradient: self.gradient.address(),
            sums: self.sums.0.address(),
            stopped: GpuAddress::NULL,
            merges: self.merges.address(),
            nodes: 1,
            binarize: self.settings.binarize != Binarize::None,
        };
        let pass = size.work.pass(&self.network, &self.kernels, step, ends);
        let forward = self.gpu.record(|| {
            pass.forward()?;
            pass.totals()
        })?;
        let both = self.gpu.record(|| {
            pass.forward()?;
            pass.backward()?;
            pass.totals()
        })?;
        size.graphs.insert(source, Graphs { forward, both });
        Ok(())
    }

    /// Computes a batch, with the state's parameters if none are given. Computes the gradient too if `gradient` is
    /// given.
    fn compute(
        &mut self,
        parameters: Option<&[f32]>,
        batch: &Batch<'_, Images>,
        noise: Stream,
        kl_weight: f64,
        gradient: Option<&mut [f32]>,
    ) -> Result<Sums, GpuError> {
        let images = batch.len();
        if images == 0 {
            gradient.into_iter().for_each(|gradient| gradient.fill(0.0));
            return Ok(sums_of_nothing());
        }
        self.prepare_for(images)?;
        let source = Source { set: self.set(batch.data)?, from_state: parameters.is_none() };
        self.record(images, source)?;
        let beta = self.beta * kl_weight;
        let Self { gpu, team, flat, sizes, .. } = self;
        let size = sizes.get_mut(&images).expect("it was prepared");
        let graphs = size.graphs.get(&source).expect("it was recorded");

        if let Some(parameters) = parameters {
            copy(team, parameters, flat.as_mut_slice()?);
            gpu.upload(flat, &mut self.parameters)?;
        }
        let positions = (0, images as u32);
        let pass = batch.pass;
        let line = Line { noise, noise_stride: 0, pass, positions, beta, update: None };
        let (inputs, pinned) = &mut size.inputs;
        let words = pinned.as_mut_slice()?;
        words[..2].fill(0);
        words[2..HEAD_WORDS].copy_from_slice(&line.words());
        words[HEAD_WORDS..].copy_from_slice(batch.indices);
        gpu.upload(pinned, inputs)?;

        kernels::launch(if gradient.is_some() { &graphs.both } else { &graphs.forward })?;
        gpu.download(&self.sums.0, &mut self.sums.1)?;
        if let Some(gradient) = gradient {
            gpu.download(&self.gradient, flat)?;
            copy(team, flat.as_slice()?, gradient);
        }
        let mut sums = Sums::default();
        sums.terms[..TERMS].copy_from_slice(self.sums.1.as_slice()?);
        Ok(sums)
    }
}

/// The sums over no images: zeros with the same sign as on a CPU.
fn sums_of_nothing() -> Sums {
    Sums::of([std::iter::empty::<f64>().sum(); TERMS])
}

/// Copies a long vector with all threads.
fn copy(team: &Team, from: &[f32], to: &mut [f32]) {
    let part = from.len().div_ceil(team.threads()).max(1);
    let parts = from.chunks(part).zip(to.chunks_mut(part));
    team.each(parts, |(from, to)| to.copy_from_slice(from));
}

impl Model for Vae {
    type Data = Images;

    fn layout(&self) -> &Layout {
        &self.network.layout
    }

    fn initialise(&self, seed: u64, parameters: &mut [f32]) {
        initialise_linear(self.layout(), seed, parameters);
    }

    fn set_team(&mut self, team: Arc<Team>) {
        self.team = team;
    }

    fn reserve(&mut self, images: usize) -> Result<(), ModelError> {
        if images > 0 {
            self.prepare_for(images)?;
        }
        Ok(())
    }

    fn factors(&self, context: &StepContext) -> Vec<(&'static str, f64)> {
        vec![("kl_weight", self.beta * self.settings.kl_weight(context))]
    }

    fn gradient(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        context: &StepContext,
        gradient: &mut [f32],
    ) -> Result<Sums, ModelError> {
        let length = self.network.layout.len();
        assert_eq!(parameters.len(), length, "parameters and layout differ in length");
        assert_eq!(gradient.len(), length, "gradient and layout differ in length");
        let (random, kl_weight) = (context.random, self.settings.kl_weight(context));
        Ok(self.compute(Some(parameters), batch, random, kl_weight, Some(gradient))?)
    }

    fn evaluate(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        random: Stream,
    ) -> Result<Sums, ModelError> {
        assert_eq!(parameters.len(), self.network.layout.len(), "parameters and layout differ");
        Ok(self.compute(Some(parameters), batch, random, 1.0, None)?)
    }

    fn resident(&mut self) -> Option<&mut dyn Resident<Data = Images>> {
        Some(self)
    }
}

impl fmt::Debug for Vae {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vae").field("gpu", &self.gpu).finish_non_exhaustive()
    }
}
