//! One GPU: memory, kernels, and graphs of kernels, all on one stream. This file knows neither layers nor
//! batches.

#![allow(unsafe_code, reason = "starts kernels")]

use std::{
    ffi::{CStr, c_uint},
    sync::{Arc, atomic::AtomicU64},
};

use collective::HostMemory;

use super::{
    GpuError,
    driver::{Driver, Handle, call},
    memory::{Buffer, Context, Event, GpuAddress, Pinned, Plain},
    meter::{Meter, Time, Timed, Traffic},
    registered::Registered,
};

/// The flag of a stream that does not wait for the default stream.
const NON_BLOCKING: c_uint = 1;

/// The capture mode that records only the calls of this thread, and lets other threads continue.
const CAPTURE_THREAD_LOCAL: i32 = 1;

/// Numbers that are copied together.
const PIECE: usize = 4 << 20;

/// A GPU, and the one stream that orders all its work.
#[derive(Debug)]
pub struct Gpu {
    context: Arc<Context>,
    capability: u32,
}

impl Gpu {
    /// Creates a context on the GPU with this index.
    ///
    /// # Errors
    /// [`GpuError`] if there is no such GPU, or it is too old.
    pub fn open(index: usize) -> Result<Self, GpuError> {
        let driver = Driver::get()?;
        let device = driver.device(index)?;
        let capability = driver.capability(index)?;
        let (mut context, mut stream) = (0, 0);
        call!(driver, context_retain(&raw mut context, device))
            .map_err(|error| driver.no_context(index, device, error))?;
        let made = call!(driver, context_set(context))
            .and_then(|()| call!(driver, stream_create(&raw mut stream, NON_BLOCKING)));
        if let Err(error) = made {
            let _failed = call!(driver, context_release(device));
            return Err(error);
        }
        let (begun, done) = (AtomicU64::new(0), AtomicU64::new(0));
        let meter = Meter::default();
        let context = Context { driver, device, context, stream, begun, done, meter };
        Ok(Self { context: Arc::new(context), capability })
    }

    /// The compute capability, times ten.
    #[must_use]
    pub const fn capability(&self) -> u32 {
        self.capability
    }

    /// Makes this GPU current for the calling thread. All methods do this themselves, except those of [`Kernel`] and
    /// [`Graph`].
    ///
    /// # Errors
    /// [`GpuError`] if the GPU has failed.
    pub fn enter(&self) -> Result<(), GpuError> {
        self.context.enter()
    }

    /// Allocates memory of the GPU, filled with zeros.
    ///
    /// # Errors
    /// [`GpuError::Memory`] if there is not enough.
    pub fn zeros<T: Plain>(&self, length: usize) -> Result<Buffer<T>, GpuError> {
        Buffer::zeros(&self.context, length)
    }

    /// Allocates pinned host memory, which the GPU reads and writes directly, filled with zeros.
    ///
    /// # Errors
    /// As [`Gpu::zeros`].
    pub fn pinned<T: Plain>(&self, length: usize) -> Result<Pinned<T>, GpuError> {
        Pinned::new(&self.context, length)
    }

    /// Starts a copy to the GPU.
    ///
    /// # Errors
    /// [`GpuError`] if the GPU has failed.
    pub fn upload<T: Plain>(
        &self,
        from: &mut Pinned<T>,
        to: &mut Buffer<T>,
    ) -> Result<(), GpuError> {
        let count = to.len();
        from.copy_in(to, 0, count)
    }

    /// Starts to copy the first `count` numbers to the GPU, to the place that begins at `first`.
    ///
    /// # Errors
    /// [`GpuError`] if the GPU has failed.
    ///
    /// # Panics
    /// If either side has too few numbers.
    pub fn upload_part<T: Plain>(
        &self,
        from: &mut Pinned<T>,
        to: &mut Buffer<T>,
        first: usize,
        count: usize,
    ) -> Result<(), GpuError> {
        from.copy_in(to, first, count)
    }

    /// Copies to the GPU through a piece of pinned memory, and waits for the copy.
    ///
    /// # Errors
    /// [`GpuError`] if the GPU has failed.
    pub fn copy<T: Plain>(&self, from: &[T], to: &mut Buffer<T>) -> Result<(), GpuError> {
        assert_eq!(from.len(), to.len(), "as many numbers as there is room for");
        let mut piece = self.pinned(from.len().min(PIECE))?;
        for (index, numbers) in from.chunks(PIECE).enumerate() {
            piece.as_mut_slice()?[..numbers.len()].copy_from_slice(numbers);
            piece.copy_in(to, index * PIECE, numbers.len())?;
        }
        self.wait()
    }

    /// Starts a copy from the GPU; [`Pinned::as_slice`] waits for it.
    ///
    /// # Errors
    /// [`GpuError`] if the GPU has failed.
    pub fn download<T: Plain>(&self, from: &Buffer<T>, to: &mut Pinned<T>) -> Result<(), GpuError> {
        to.copy_out(from, 0, from.len())
    }

    /// Starts a copy of `count` numbers that begin at `first`.
    ///
    /// # Errors
    /// [`GpuError`] if the GPU has failed.
    ///
    /// # Panics
    /// If either side has too few numbers.
    pub fn download_part<T: Plain>(
        &self,
        from: &Buffer<T>,
        to: &mut Pinned<T>,
        first: usize,
        count: usize,
    ) -> Result<(), GpuError> {
        to.copy_out(from, first, count)
    }

    /// Lets the GPU directly read and write host memory that another part of the program has allocated.
    ///
    /// # Errors
    /// [`GpuError`] if the driver refuses.
    pub fn register(&self, memory: Arc<dyn HostMemory>) -> Result<Registered, GpuError> {
        Registered::new(&self.context, memory)
    }

    /// An event to wait for. It must be recorded first.
    ///
    /// # Errors
    /// [`GpuError`] if the GPU has failed.
    pub fn event(&self) -> Result<Event, GpuError> {
        Event::new(&self.context)
    }

    /// Waits for all work that was started.
    ///
    /// # Errors
    /// [`GpuError`] if the GPU has failed.
    pub fn wait(&self) -> Result<(), GpuError> {
        self.context.wait()
    }

    /// Loads kernels from a cubin, or from PTX that ends with a zero byte.
    ///
    /// # Errors
    /// [`GpuError`] if they are not for this GPU.
    pub fn load(&self, image: &[u8]) -> Result<Module, GpuError> {
        self.enter()?;
        let mut module = 0;
        let driver = self.context.driver;
        call!(driver, module_load(&raw mut module, image.as_ptr()))
            .map_err(|error| driver.no_module(error))?;
        Ok(Module { context: Arc::clone(&self.context), module })
    }

    /// Records the work as a graph, which is launched with one call.
    ///
    /// # Errors
    /// The error of the work, or [`GpuError`] if the driver refuses.
    pub fn record(&self, work: impl FnOnce() -> Result<(), GpuError>) -> Result<Graph, GpuError> {
        self.wait()?;
        let Context { driver, stream, .. } = *self.context;
        call!(driver, capture_begin(stream, CAPTURE_THREAD_LOCAL))?;
        self.context.note_recording(true);
        let worked = self.context.time(Timed::Graphs, "graph", work);
        self.context.note_recording(false);
        let (mut graph, mut executable) = (0, 0);
        let recorded = call!(driver, capture_end(stream, &raw mut graph));
        worked?;
        recorded?;
        let made = call!(driver, graph_instantiate(&raw mut executable, graph, 0));
        let _failed = call!(driver, graph_destroy(graph));
        made?;
        Ok(Graph { context: Arc::clone(&self.context), executable })
    }

    /// Measures the time of work that is recorded from now on.
    pub fn measure(&self, timed: Timed) {
        self.context.meter.begin(timed);
    }

    /// For each graph that was recorded since [`Gpu::measure`] and was launched: the times of its parts
    /// in the last launch.
    ///
    /// # Errors
    /// [`GpuError`] if the GPU has failed.
    pub fn times(&self) -> Result<Vec<Vec<Time>>, GpuError> {
        self.context.times()
    }

    /// The amount that was copied so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.context.meter.traffic()
    }
}

/// Kernels that are loaded on a GPU.
#[derive(Debug)]
pub struct Module {
    context: Arc<Context>,
    module: Handle,
}

impl Module {
    /// One of the kernels. It keeps the module loaded.
    ///
    /// # Errors
    /// [`GpuError`] if there is no kernel of that name.
    pub fn kernel(self: &Arc<Self>, name: &'static CStr) -> Result<Kernel, GpuError> {
        self.context.enter()?;
        let mut function = 0;
        call!(self.context.driver, module_function(&raw mut function, self.module, name.as_ptr()))?;
        Ok(Kernel { module: Arc::clone(self), function, name })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // An error here can be reported to nobody.
        let _failed = self.context.enter();
        let _failed = call!(self.context.driver, module_unload(self.module));
    }
}

/// A kernel of a loaded module.
#[derive(Debug)]
pub struct Kernel {
    module: Arc<Module>,
    function: Handle,
    name: &'static CStr,
}

impl Kernel {
    /// Launches the kernel with this number of blocks, in x and y, of `threads` threads each.
    ///
    /// # Safety
    /// The arguments are those that the kernel declares, and the memory that it reads and writes through
    /// them stays allocated until the work is done.
    ///
    /// # Errors
    /// [`GpuError::Size`] for too many blocks, or the driver's error.
    pub unsafe fn start(
        &self,
        (across, down): (u64, u64),
        threads: u32,
        arguments: &mut Arguments,
    ) -> Result<(), GpuError> {
        const ACROSS_MAX: u64 = i32::MAX as u64;
        const DOWN_MAX: u64 = u16::MAX as u64;
        for (what, value, max) in
            [("the number of blocks", across, ACROSS_MAX), ("the number of groups", down, DOWN_MAX)]
        {
            if value > max {
                return Err(GpuError::Size { what, value });
            }
        }
        let context = &self.module.context;
        let Context { driver, stream, .. } = **context;
        let mut pointers = arguments.pointers();
        let (grid, block) = ((across as u32, down as u32), threads);
        let name = self.name.to_string_lossy();
        let launch = || {
            call!(
                driver,
                kernel_start(
                    self.function,
                    grid.0,
                    grid.1,
                    1,
                    block,
                    1,
                    1,
                    0,
                    stream,
                    pointers.as_mut_ptr(),
                    std::ptr::null_mut(),
                )
            )
        };
        context.time(Timed::Kernels, &name, launch)
    }
}

/// A kernel's arguments, in the order of its parameters.
#[derive(Debug, Default)]
pub struct Arguments {
    /// Each argument begins at a multiple of eight bytes.
    words: Vec<[u32; 2]>,
    starts: Vec<usize>,
}

impl Arguments {
    /// Adds a pointer.
    #[must_use]
    pub fn address(self, address: GpuAddress) -> Self {
        self.words(&address.words())
    }

    /// Adds a number of 32 bits.
    #[must_use]
    pub fn word(self, word: u32) -> Self {
        self.words(&[word])
    }

    /// Adds a structure of 32-bit numbers.
    #[must_use]
    pub fn words(mut self, words: &[u32]) -> Self {
        self.starts.push(self.words.len());
        let pairs = words.chunks(2).map(|pair| [pair[0], pair.get(1).copied().unwrap_or_default()]);
        self.words.extend(pairs);
        self
    }

    fn pointers(&mut self) -> Vec<Handle> {
        let first = self.words.as_mut_ptr();
        self.starts.iter().map(|start| first.wrapping_add(*start) as Handle).collect()
    }
}

/// Recorded work.
#[derive(Debug)]
pub struct Graph {
    context: Arc<Context>,
    executable: Handle,
}

impl Graph {
    /// Launches the recorded work.
    ///
    /// # Safety
    /// As for the kernels in the graph: the memory that they read and write is still allocated.
    ///
    /// # Errors
    /// [`GpuError`] if the GPU has failed.
    pub unsafe fn launch(&self) -> Result<(), GpuError> {
        self.context.enter()?;
        call!(self.context.driver, graph_launch(self.executable, self.context.stream))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // An error here can be reported to nobody.
        let _failed = self.context.enter();
        let _failed = call!(self.context.driver, executable_destroy(self.executable));
    }
}
