//! One GPU as a model uses it: memory, matrix products, kernels, and graphs of them, all on one
//! stream. It knows neither layers nor batches.

#![allow(unsafe_code, reason = "calls cuBLAS, starts kernels, and opens libraries")]

use std::{cell::RefCell, ffi::c_int, sync::Arc};

use cudarc::{
    cublas::{
        self, CudaBlas,
        sys::cublasOperation_t::{self, CUBLAS_OP_N, CUBLAS_OP_T},
    },
    driver::{
        CudaContext, CudaFunction, CudaGraph, CudaModule, CudaSlice, CudaStream, DeviceRepr,
        LaunchConfig, PinnedHostSlice, PushKernelArg as _, ValidAsZeroBits,
        sys::{CUgraphInstantiate_flags, CUstreamCaptureMode},
    },
    nvrtc,
};
use model::cuda::{self, GpuError};

/// What the compiler opens by name, without looking where it lies itself.
const COMPILER_PART: &str = "libnvrtc-builtins.so.13.0";

const SOURCE: &str = include_str!("kernels.cu");

/// What NVIDIA advises for cuBLAS on its largest GPUs. It is ours, so that products do not
/// depend on what else is in the process.
const WORKSPACE_BYTES: usize = 32 << 20;

/// Threads of a block of an elementwise kernel.
const THREADS: usize = 256;
/// Side of a block of threads that adds up columns.
const TILE: usize = 32;

/// The address of a matrix or vector of floats on the GPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place(u64);

impl Place {
    pub(super) const fn offset(self, floats: usize) -> Self {
        Self(self.0 + (floats * size_of::<f32>()) as u64)
    }
}

/// A row-major matrix on the GPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix {
    place: Place,
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl Matrix {
    pub(super) const fn new(place: Place, rows: usize, columns: usize) -> Self {
        Self { place, rows, columns, transposed: false }
    }

    pub(super) const fn t(self) -> Self {
        let Self { place, rows, columns, transposed } = self;
        Self { place, rows: columns, columns: rows, transposed: !transposed }
    }

    /// The distance of two rows as it lies in memory.
    const fn stride(&self) -> usize {
        if self.transposed { self.rows } else { self.columns }
    }

    const fn operation(&self) -> cublasOperation_t {
        if self.transposed { CUBLAS_OP_T } else { CUBLAS_OP_N }
    }
}

#[derive(Debug)]
struct Kernels {
    pixels: CudaFunction,
    add_bias_relu: CudaFunction,
    sample: CudaFunction,
    bernoulli: CudaFunction,
    totals: CudaFunction,
    column_sums: CudaFunction,
    relu_backward: CudaFunction,
    sample_backward: CudaFunction,
}

#[derive(Debug)]
pub(super) struct Gpu {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    blas: CudaBlas,
    kernels: Kernels,
    _workspace: CudaSlice<u8>,
    /// The first refusal since the last look.
    refusal: RefCell<Option<GpuError>>,
}

/// Starts a kernel; the arguments are those of `kernels.cu`, in its order.
macro_rules! start {
    ($gpu:expr, $kernel:ident, $grid:expr, $block:expr; $($argument:expr),+) => {{
        let mut call = $gpu.stream.launch_builder(&$gpu.kernels.$kernel);
        $(let argument = $argument; call.arg(&argument);)+
        let (grid_dim, block_dim) = ((index($grid) as u32, 1, 1), $block);
        // SAFETY: whoever passes places vouches for their sizes; the arguments have the types
        // that the kernel declares.
        let started = unsafe {
            call.launch(LaunchConfig { grid_dim, block_dim, shared_mem_bytes: 0 })
        };
        $gpu.note(started);
    }};
}

impl Gpu {
    pub(super) fn open(device: usize) -> Result<Self, GpuError> {
        cuda::load()?;
        cuda::open(COMPILER_PART);
        // cudarc panics where a library is missing; what does not open here is named instead.
        // SAFETY: opens libraries whose opening does nothing else.
        let (blas, compiler) =
            unsafe { (cublas::sys::is_culib_present(), nvrtc::sys::is_culib_present()) };
        for (present, name) in [(blas, "libcublas"), (compiler, "libnvrtc")] {
            if !present {
                return Err(GpuError::Missing(name));
            }
        }
        let context = CudaContext::new(device)?;
        // SAFETY: everything happens on one stream, in its order, and `wait` ends it.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream()?;
        let blas = CudaBlas::new(Arc::clone(&stream))?;
        let mut workspace = stream.alloc_zeros::<u8>(WORKSPACE_BYTES)?;
        let place = address(&mut workspace, &stream) as *mut _;
        // SAFETY: the workspace lives as long as the handle, and is of that size.
        unsafe { cublas::sys::cublasSetWorkspace_v2(*blas.handle(), place, WORKSPACE_BYTES) }
            .result()?;
        let kernels = Kernels::compile(&context)?;
        let refusal = RefCell::new(None);
        Ok(Self { context, stream, blas, kernels, _workspace: workspace, refusal })
    }

    /// Has the calling thread use this GPU.
    pub(super) fn enter(&self) -> Result<(), GpuError> {
        Ok(self.context.bind_to_thread()?)
    }

    pub(super) fn zeros<T: DeviceRepr + ValidAsZeroBits>(
        &self,
        length: usize,
    ) -> Result<CudaSlice<T>, GpuError> {
        Ok(self.stream.alloc_zeros(length)?)
    }

    /// Memory of the host that the GPU reads and writes by itself.
    pub(super) fn pinned<T: DeviceRepr + ValidAsZeroBits + Copy + Default>(
        &self,
        length: usize,
    ) -> Result<PinnedHostSlice<T>, GpuError> {
        // SAFETY: it is written before anybody reads it.
        let mut memory = unsafe { self.context.alloc_pinned_with_flags(length, 0)? };
        memory.as_mut_slice()?.fill(T::default());
        Ok(memory)
    }

    pub(super) fn place<T>(&self, memory: &mut CudaSlice<T>) -> Place {
        Place(address(memory, &self.stream))
    }

    /// Begins to copy to the GPU. What is copied must stay as it is until [`Gpu::wait`].
    pub(super) fn upload<T: DeviceRepr>(
        &self,
        from: &PinnedHostSlice<T>,
        to: &mut CudaSlice<T>,
    ) -> Result<(), GpuError> {
        Ok(self.stream.memcpy_htod(from, to)?)
    }

    /// Begins to copy from the GPU; it is there after [`Gpu::wait`].
    pub(super) fn download<T: DeviceRepr>(
        &self,
        from: &CudaSlice<T>,
        to: &mut PinnedHostSlice<T>,
    ) -> Result<(), GpuError> {
        Ok(self.stream.memcpy_dtoh(from, to)?)
    }

    /// Waits until all that was begun is done.
    pub(super) fn wait(&self) -> Result<(), GpuError> {
        Ok(self.stream.synchronize()?)
    }

    /// Does the work once, which has the libraries load what they need, and records it: then
    /// it is started as one.
    pub(super) fn record(&self, work: impl Fn(&Self)) -> Result<CudaGraph, GpuError> {
        work(self);
        self.wait()?;
        self.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        work(self);
        let graph = self.stream.end_capture(CUgraphInstantiate_flags(0));
        self.look()?;
        graph?.ok_or(GpuError::NoGraph)
    }

    /// Writes the product of `a` and `b`.
    pub(super) fn multiply(&self, a: Matrix, b: Matrix, out: Place) {
        assert_eq!(a.columns, b.rows, "factors that do not fit");
        // What is row-major to us is transposed to cuBLAS: out' = b' a'.
        let (one, zero) = (1.0_f32, 0.0_f32);
        // SAFETY: whoever passes places vouches for their sizes.
        let multiplied = unsafe {
            cublas::result::sgemm(
                *self.blas.handle(),
                b.operation(),
                a.operation(),
                index(b.columns),
                index(a.rows),
                index(a.columns),
                &raw const one,
                b.place.0 as *const f32,
                index(b.stride()),
                a.place.0 as *const f32,
                index(a.stride()),
                &raw const zero,
                out.0 as *mut f32,
                index(b.columns),
            )
        };
        self.note(multiplied);
    }

    pub(super) fn pixels(&self, grey: Place, x: Place, count: usize) {
        start!(self, pixels, count.div_ceil(THREADS), (THREADS as u32, 1, 1);
            grey.0, x.0, index(count));
    }

    pub(super) fn add_bias_relu(&self, y: Place, bias: Place, width: usize, rows: usize) {
        let count = width * rows;
        start!(self, add_bias_relu, count.div_ceil(THREADS), (THREADS as u32, 1, 1);
            y.0, bias.0, index(width), index(count));
    }

    pub(super) fn sample(
        &self,
        [stats, bias, noise]: [Place; 3],
        [deviation, z, divergences]: [Place; 3],
        latent: usize,
        rows: usize,
    ) {
        start!(self, sample, rows, (TILE as u32, 1, 1);
            stats.0, bias.0, noise.0, deviation.0, z.0, divergences.0, index(latent));
    }

    pub(super) fn bernoulli(&self, [y, bias, x, losses]: [Place; 4], width: usize, rows: usize) {
        start!(self, bernoulli, rows, (THREADS as u32, 1, 1);
            y.0, bias.0, x.0, losses.0, index(width));
    }

    pub(super) fn totals(&self, [losses, divergences, beta, sums]: [Place; 4], rows: usize) {
        start!(self, totals, 1, (THREADS as u32, 1, 1);
            losses.0, divergences.0, beta.0, sums.0, index(rows));
    }

    pub(super) fn column_sums(&self, d: Place, out: Place, width: usize, rows: usize) {
        start!(self, column_sums, width.div_ceil(TILE), (TILE as u32, TILE as u32, 1);
            d.0, out.0, index(width), index(rows));
    }

    pub(super) fn relu_backward(
        &self,
        [d, activation, out]: [Place; 3],
        width: usize,
        rows: usize,
    ) {
        start!(self, relu_backward, width.div_ceil(TILE), (TILE as u32, TILE as u32, 1);
            d.0, activation.0, out.0, index(width), index(rows));
    }

    pub(super) fn sample_backward(
        &self,
        [dz, noise, stats, deviation, beta, out]: [Place; 6],
        latent: usize,
        rows: usize,
    ) {
        let count = latent * rows;
        start!(self, sample_backward, count.div_ceil(THREADS), (THREADS as u32, 1, 1);
            dz.0, noise.0, stats.0, deviation.0, beta.0, out.0, index(latent), index(count));
    }

    fn note<T, E: Into<GpuError>>(&self, answer: Result<T, E>) {
        if let Err(error) = answer {
            self.refusal.borrow_mut().get_or_insert_with(|| error.into());
        }
    }

    /// What was refused since the last look.
    fn look(&self) -> Result<(), GpuError> {
        self.refusal.take().map_or(Ok(()), Err)
    }
}

impl Kernels {
    fn compile(context: &Arc<CudaContext>) -> Result<Self, GpuError> {
        let (major, minor) = context.compute_capability()?;
        let options = nvrtc::CompileOptions {
            options: vec![format!("--gpu-architecture=compute_{major}{minor}")],
            ..Default::default()
        };
        let compiled = nvrtc::compile_ptx_with_opts(SOURCE, options)
            .map_err(|error| GpuError::Kernels(error.to_string()))?;
        let module: Arc<CudaModule> = context.load_module(compiled)?;
        Ok(Self {
            pixels: module.load_function("pixels")?,
            add_bias_relu: module.load_function("add_bias_relu")?,
            sample: module.load_function("sample")?,
            bernoulli: module.load_function("bernoulli")?,
            totals: module.load_function("totals")?,
            column_sums: module.load_function("column_sums")?,
            relu_backward: module.load_function("relu_backward")?,
            sample_backward: module.load_function("sample_backward")?,
        })
    }
}

fn address<T>(memory: &mut CudaSlice<T>, stream: &CudaStream) -> u64 {
    use cudarc::driver::DevicePtrMut as _;
    memory.device_ptr_mut(stream).0
}

/// As the libraries count; sizes were checked where the network was made.
fn index(value: usize) -> c_int {
    c_int::try_from(value).expect("a size that the matrix kernels can index")
}
