//! The VAE on a GPU, computed by hand as `pass.rs` does on a CPU: for f32, the bernoulli
//! likelihood, and one latent an image. Parameters come from the host and the gradient goes
//! back there for every batch, since that is where members exchange it; the rest is one graph.

mod gpu;

use std::{collections::HashMap, fmt, sync::Arc};

use cudarc::driver::{CudaGraph, CudaSlice, PinnedHostSlice};
use data::{Batch, Stream};
use images::Images;
use vae_options::{Likelihood, ModelConfig};

use model::{
    Isa, Layout, Model, ModelError, StepContext, Sums, Team, cuda::GpuError, initialise_linear,
    noise,
};

use self::gpu::{Gpu, Matrix, Place};
use crate::{
    Settings, element,
    network::{Linear, Network},
    vae::TERMS,
};

/// Batches of so many sizes are prepared for at once: in training and evaluation, whole ones
/// and the last.
const SIZES: usize = 8;

/// The model with its memory on the GPU.
pub struct Vae {
    network: Network,
    beta: f64,
    settings: Settings,
    team: Arc<Team>,
    parameters: CudaSlice<f32>,
    gradient: CudaSlice<f32>,
    /// Parameters on their way there, the gradient on its way back.
    flat: PinnedHostSlice<f32>,
    sizes: HashMap<usize, Size>,
    /// Last, for it outlives what lies on it.
    gpu: Gpu,
}

/// What it takes to compute batches of one size.
struct Size {
    /// Beta, then noise `[n, latent]`.
    noise: (PinnedHostSlice<f32>, CudaSlice<f32>),
    grey: (PinnedHostSlice<u8>, CudaSlice<u8>),
    sums: (PinnedHostSlice<f64>, CudaSlice<f64>),
    forward: CudaGraph,
    /// Forward and backward.
    both: CudaGraph,
    _work: CudaSlice<f32>,
}

/// Where everything is while a batch is computed; matrices are `[n, width]`.
struct Pass<'a> {
    network: &'a Network,
    images: usize,
    parameters: Place,
    gradient: Place,
    grey: Place,
    beta: Place,
    noise: Place,
    sums: Place,
    /// Pixels, and what follows them.
    x: Place,
    encoder: [Place; 2],
    stats: Place,
    deviation: Place,
    z: Place,
    decoder: [Place; 2],
    /// Logits, then their gradient.
    y: Place,
    losses: Place,
    divergences: Place,
    d_hidden: [Place; 2],
    dz: Place,
    d_stats: Place,
}

impl Vae {
    /// Whether this model is for such a run; [`crate::vae_autograd`] is for all.
    #[must_use]
    pub fn suits(config: &ModelConfig, settings: Settings) -> bool {
        settings.samples == 1 && config.likelihood == Likelihood::Bernoulli
    }

    /// Checks the sizes, and takes memory for the flat vectors.
    ///
    /// # Errors
    ///
    /// As [`crate::Vae::new`], and [`ModelError::Gpu`].
    pub fn new(
        config: &ModelConfig,
        settings: Settings,
        device: usize,
    ) -> Result<Self, ModelError> {
        let network = Network::new(config)?;
        let (gpu, length) = (Gpu::open(device)?, network.layout.len());
        Ok(Self {
            beta: config.beta,
            settings,
            team: Arc::default(),
            parameters: gpu.zeros(length)?,
            gradient: gpu.zeros(length)?,
            flat: gpu.pinned(length)?,
            sizes: HashMap::new(),
            network,
            gpu,
        })
    }

    /// Sees to it that batches of so many images can be computed.
    fn prepare_for(&mut self, images: usize) -> Result<(), GpuError> {
        self.gpu.enter()?;
        if !self.sizes.contains_key(&images) {
            if self.sizes.len() >= SIZES {
                self.sizes.clear();
            }
            let size = self.prepare(images)?;
            self.sizes.insert(images, size);
        }
        Ok(())
    }

    fn prepare(&mut self, images: usize) -> Result<Size, GpuError> {
        let Self { gpu, network, parameters, gradient, .. } = self;
        let (pixels, hidden, latent) = (network.pixels, network.hidden, network.latent);
        let mut noise = gpu.zeros::<f32>(1 + images * latent)?;
        let mut grey = gpu.zeros::<u8>(images * pixels)?;
        let mut sums = gpu.zeros::<f64>(TERMS)?;
        let mut work = gpu.zeros::<f32>(images * (2 * pixels + 6 * hidden + 7 * latent + 2))?;
        let mut end = gpu.place(&mut work);
        let mut take = |width: usize| {
            let place = end;
            end = end.offset(images * width);
            place
        };
        let beta = gpu.place(&mut noise);
        let pass = Pass {
            network,
            images,
            parameters: gpu.place(parameters),
            gradient: gpu.place(gradient),
            grey: gpu.place(&mut grey),
            beta,
            noise: beta.offset(1),
            sums: gpu.place(&mut sums),
            x: take(pixels),
            encoder: [take(hidden), take(hidden)],
            stats: take(2 * latent),
            deviation: take(latent),
            z: take(latent),
            decoder: [take(hidden), take(hidden)],
            y: take(pixels),
            losses: take(1),
            divergences: take(1),
            d_hidden: [take(hidden), take(hidden)],
            dz: take(latent),
            d_stats: take(2 * latent),
        };
        let forward = gpu.record(|gpu| pass.forward(gpu))?;
        let both = gpu.record(|gpu| {
            pass.forward(gpu);
            pass.backward(gpu);
        })?;
        Ok(Size {
            noise: (gpu.pinned(1 + images * latent)?, noise),
            grey: (gpu.pinned(images * pixels)?, grey),
            sums: (gpu.pinned(TERMS)?, sums),
            forward,
            both,
            _work: work,
        })
    }

    /// Computes a batch; the gradient too where there is a place for it.
    fn compute(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        stream: Stream,
        kl_weight: f64,
        gradient: Option<&mut [f32]>,
    ) -> Result<Sums, GpuError> {
        if batch.is_empty() {
            gradient.into_iter().for_each(|gradient| gradient.fill(0.0));
            return Ok(Sums::default());
        }
        self.prepare_for(batch.len())?;
        let beta = (self.beta * kl_weight) as f32;
        let (latent, binarize) = (self.network.latent, self.settings.binarize);
        let Self { gpu, team, flat, sizes, .. } = self;
        let size = sizes.get_mut(&batch.len()).expect("it was prepared");

        copy(team, parameters, flat.as_mut_slice()?);
        gpu.upload(flat, &mut self.parameters)?;
        let grey = size.grey.0.as_mut_slice()?;
        element::gather_rows(batch, binarize, grey, |greys, row| row.copy_from_slice(greys));
        gpu.upload(&size.grey.0, &mut size.grey.1)?;
        let inputs = size.noise.0.as_mut_slice()?;
        inputs[0] = beta;
        noise::normals(Isa::best(), stream, &mut inputs[1..=batch.len() * latent]);
        gpu.upload(&size.noise.0, &mut size.noise.1)?;

        let graph = if gradient.is_some() { &size.both } else { &size.forward };
        graph.launch()?;
        gpu.download(&size.sums.1, &mut size.sums.0)?;
        if gradient.is_some() {
            gpu.download(&self.gradient, flat)?;
        }
        gpu.wait()?;
        if let Some(gradient) = gradient {
            copy(team, flat.as_slice()?, gradient);
        }
        let mut sums = Sums::default();
        sums.terms[..TERMS].copy_from_slice(size.sums.0.as_slice()?);
        Ok(sums)
    }
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
        Ok(self.prepare_for(images)?)
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
        Ok(self.compute(parameters, batch, random, kl_weight, Some(gradient))?)
    }

    fn evaluate(
        &mut self,
        parameters: &[f32],
        batch: &Batch<'_, Images>,
        random: Stream,
    ) -> Result<Sums, ModelError> {
        Ok(self.compute(parameters, batch, random, 1.0, None)?)
    }
}

impl Drop for Vae {
    fn drop(&mut self) {
        // After an error, copies may still be under way, and the memory that they use goes next.
        let _failed_device = self.gpu.wait();
    }
}

impl fmt::Debug for Vae {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vae").field("gpu", &self.gpu).finish_non_exhaustive()
    }
}

impl Pass<'_> {
    /// From grey values and noise to the sums and the gradient of the logits.
    fn forward(&self, gpu: &Gpu) {
        let Self { network, images, x, stats, noise, deviation, z, y, .. } = *self;
        gpu.pixels(self.grey, x, images * network.pixels);
        self.half_forward(gpu, &network.encoder, x, self.encoder, stats);
        let bias = self.parameters.offset(network.encoder[2].bias.start);
        let latent = network.latent;
        gpu.sample([stats, bias, noise], [deviation, z, self.divergences], latent, images);
        self.half_forward(gpu, &network.decoder, z, self.decoder, y);
        let bias = self.parameters.offset(network.decoder[2].bias.start);
        gpu.bernoulli([y, bias, x, self.losses], network.pixels, images);
        gpu.totals([self.losses, self.divergences, self.beta, self.sums], images);
    }

    /// From the gradient of the logits to that of the parameters.
    fn backward(&self, gpu: &Gpu) {
        let Self { network, images, x, z, y, dz, d_stats, .. } = *self;
        self.half_backward(gpu, &network.decoder, [z, y], self.decoder, Some(dz));
        let places = [dz, self.noise, self.stats, self.deviation, self.beta, d_stats];
        gpu.sample_backward(places, network.latent, images);
        self.half_backward(gpu, &network.encoder, [x, d_stats], self.encoder, None);
    }

    /// Takes `x` through the encoder or decoder; the last bias is for the kernel that follows.
    fn half_forward(&self, gpu: &Gpu, layers: &[Linear; 3], x: Place, h: [Place; 2], y: Place) {
        let [first, second, third] = layers;
        self.hidden_layer(gpu, first, x, h[0]);
        self.hidden_layer(gpu, second, h[0], h[1]);
        self.product(gpu, third, h[1], y);
    }

    /// From the gradient of what it made to that of its parameters, and of what went in.
    fn half_backward(
        &self,
        gpu: &Gpu,
        layers: &[Linear; 3],
        [x, dy]: [Place; 2],
        h: [Place; 2],
        dx: Option<Place>,
    ) {
        let Self { images, d_hidden: [da, db], .. } = *self;
        let [first, second, third] = layers;
        gpu.column_sums(dy, self.bias_gradient(third), third.outputs, images);
        self.layer_backward(gpu, third, h[1], dy, Some(da));
        gpu.relu_backward([da, h[1], self.bias_gradient(second)], second.outputs, images);
        self.layer_backward(gpu, second, h[0], da, Some(db));
        gpu.relu_backward([db, h[0], self.bias_gradient(first)], first.outputs, images);
        self.layer_backward(gpu, first, x, db, dx);
    }

    /// Writes relu(x W' + b) to `out`.
    fn hidden_layer(&self, gpu: &Gpu, layer: &Linear, x: Place, out: Place) {
        self.product(gpu, layer, x, out);
        let bias = self.parameters.offset(layer.bias.start);
        gpu.add_bias_relu(out, bias, layer.outputs, self.images);
    }

    /// Writes x W' to `y`.
    fn product(&self, gpu: &Gpu, layer: &Linear, x: Place, y: Place) {
        gpu.multiply(Matrix::new(x, self.images, layer.inputs), self.weight(layer).t(), y);
    }

    /// Writes the weight's gradient dy' x, and the input's dy W to `dx`.
    fn layer_backward(&self, gpu: &Gpu, layer: &Linear, x: Place, dy: Place, dx: Option<Place>) {
        let dy = Matrix::new(dy, self.images, layer.outputs);
        let x = Matrix::new(x, self.images, layer.inputs);
        gpu.multiply(dy.t(), x, self.gradient.offset(layer.weight.start));
        if let Some(dx) = dx {
            gpu.multiply(dy, self.weight(layer), dx);
        }
    }

    fn weight(&self, layer: &Linear) -> Matrix {
        let place = self.parameters.offset(layer.weight.start);
        Matrix::new(place, layer.outputs, layer.inputs)
    }

    const fn bias_gradient(&self, layer: &Linear) -> Place {
        self.gradient.offset(layer.bias.start)
    }
}
