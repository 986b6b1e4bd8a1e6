//! Memory of a GPU, and host memory that a GPU reads and writes directly.

#![allow(unsafe_code, reason = "hands out slices of memory that the driver allocates")]

use std::{
    marker::PhantomData,
    slice,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use collective::{DeviceMemory, DeviceQueue};

use super::{
    GpuError,
    driver::{Driver, Handle, NOT_READY, call},
    meter::Meter,
};

/// A number that has the same representation on a GPU.
pub trait Plain: Copy + Default + Send + Sync + sealed::Sealed + 'static {}

mod sealed {
    pub trait Sealed {}
}

macro_rules! plain {
    ($($kind:ty),*) => { $(impl sealed::Sealed for $kind {} impl Plain for $kind {})* };
}
plain!(u8, u32, f32, f64);

/// An address in a GPU's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuAddress(pub(super) u64);

impl GpuAddress {
    /// The null address, for kernel arguments that are optional.
    pub const NULL: Self = Self(0);

    /// The address of the number `numbers` after this one.
    #[must_use]
    pub const fn offset<T: Plain>(self, numbers: usize) -> Self {
        Self(self.0 + (numbers * size_of::<T>()) as u64)
    }

    /// The address as two words, the low one first.
    #[must_use]
    pub const fn words(self) -> [u32; 2] {
        [self.0 as u32, (self.0 >> 32) as u32]
    }
}

/// A GPU's context and its one stream. All memory keeps it alive.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) driver: &'static Driver,
    pub(super) device: i32,
    pub(super) context: Handle,
    pub(super) stream: Handle,
    /// The number of copies started so far, and the number known to be done.
    pub(super) begun: AtomicU64,
    pub(super) done: AtomicU64,
    pub(super) meter: Meter,
}

impl Context {
    /// Makes this GPU current for the calling thread.
    pub(super) fn enter(&self) -> Result<(), GpuError> {
        call!(self.driver, context_set(self.context))
    }

    pub(super) fn wait(&self) -> Result<(), GpuError> {
        self.enter()?;
        let begun = self.begun.load(Ordering::Acquire);
        call!(self.driver, stream_wait(self.stream))?;
        self.done.fetch_max(begun, Ordering::AcqRel);
        Ok(())
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // If the GPU has failed, its user has got an error before; a second one here would reach nobody.
        let _failed = self.enter();
        for event in self.meter.events() {
            let _failed = call!(self.driver, event_destroy(event));
        }
        let _failed = call!(self.driver, stream_destroy(self.stream));
        let _failed = call!(self.driver, context_release(self.device));
    }
}

/// Numbers in a GPU's memory.
#[derive(Debug)]
pub struct Buffer<T> {
    context: Arc<Context>,
    address: u64,
    length: usize,
    _kind: PhantomData<T>,
}

impl<T: Plain> Buffer<T> {
    /// Allocates memory with all bits zero.
    pub(super) fn zeros(context: &Arc<Context>, length: usize) -> Result<Self, GpuError> {
        context.enter()?;
        let (driver, bytes, mut address) = (context.driver, bytes::<T>(length)?, 0);
        // The driver does not allocate zero bytes.
        driver.memory(bytes, call!(driver, memory_take(&raw mut address, bytes.max(1))))?;
        let buffer = Self {
            context: Arc::clone(context),
            address: address as u64,
            length,
            _kind: PhantomData,
        };
        call!(driver, memory_set(address, 0, bytes, context.stream))?;
        Ok(buffer)
    }

    /// The address of the first number.
    #[must_use]
    pub const fn address(&self) -> GpuAddress {
        GpuAddress(self.address)
    }

    /// The number of numbers.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether the buffer is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl DeviceQueue for Buffer<f32> {
    fn enter(&self) -> Result<(), String> {
        self.context.enter().map_err(|error| error.to_string())
    }

    fn handle(&self) -> usize {
        self.context.stream
    }

    fn is_idle(&self) -> Result<bool, String> {
        let Context { driver, stream, .. } = *self.context;
        match call!(driver, stream_query(stream)) {
            Ok(()) => Ok(true),
            Err(GpuError::Driver { status: NOT_READY, .. }) => Ok(false),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl DeviceMemory for Buffer<f32> {
    fn address(&self) -> usize {
        self.address as Handle
    }

    fn floats(&self) -> usize {
        self.length
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        // See `Context::drop`. The driver waits for work that still uses the memory.
        let _failed = self.context.enter();
        let _failed = call!(self.context.driver, memory_free(self.address as Handle));
    }
}

/// Pinned host memory, which a GPU reads and writes directly. An access by the host waits for the copies
/// that are still running.
#[derive(Debug)]
pub struct Pinned<T> {
    context: Arc<Context>,
    address: Handle,
    length: usize,
    /// The last copy from or to this memory.
    copy: u64,
    _kind: PhantomData<T>,
}

impl<T: Plain> Pinned<T> {
    pub(super) fn new(context: &Arc<Context>, length: usize) -> Result<Self, GpuError> {
        context.enter()?;
        let (driver, bytes, mut address) = (context.driver, bytes::<T>(length)?, 0);
        driver.memory(bytes, call!(driver, host_take(&raw mut address, bytes.max(1), 0)))?;
        let context = Arc::clone(context);
        let mut memory = Self { context, address, length, copy: 0, _kind: PhantomData };
        memory.as_mut_slice()?.fill(T::default());
        Ok(memory)
    }

    /// The numbers, after all copies to this memory are done.
    ///
    /// # Errors
    /// [`GpuError`] if the GPU has failed.
    pub fn as_slice(&self) -> Result<&[T], GpuError> {
        self.settle()?;
        // SAFETY: the memory is that long, was filled in `new`, and no copy writes it now.
        Ok(unsafe { slice::from_raw_parts(self.address as *const T, self.length) })
    }

    /// The numbers for writing, after all copies from and to this memory are done.
    ///
    /// # Errors
    /// As [`Pinned::as_slice`].
    pub fn as_mut_slice(&mut self) -> Result<&mut [T], GpuError> {
        self.settle()?;
        // SAFETY: as in `as_slice`; any bits are a number of these kinds.
        Ok(unsafe { slice::from_raw_parts_mut(self.address as *mut T, self.length) })
    }

    /// Starts to copy the first `count` numbers to a GPU, to the place that begins at `first`.
    pub(super) fn copy_in(
        &mut self,
        to: &mut Buffer<T>,
        first: usize,
        count: usize,
    ) -> Result<(), GpuError> {
        assert!(count <= self.length && first + count <= to.length, "{count} of {}", to.length);
        let bytes = bytes::<T>(count)?;
        self.begin()?;
        self.context.meter.note_copy_in(bytes);
        let Context { driver, stream, .. } = *self.context;
        let address = to.address().offset::<T>(first).0 as Handle;
        call!(driver, copy_in(address, self.address, bytes, stream))
    }

    /// Starts to copy `count` of a GPU's numbers, beginning at `first`, to this memory.
    pub(super) fn copy_out(
        &mut self,
        from: &Buffer<T>,
        first: usize,
        count: usize,
    ) -> Result<(), GpuError> {
        assert!(count <= self.length && first + count <= from.length, "{count} of {}", from.length);
        let bytes = bytes::<T>(count)?;
        self.begin()?;
        self.context.meter.note_copy_out(bytes);
        let Context { driver, stream, .. } = *self.context;
        let address = from.address().offset::<T>(first).0 as Handle;
        call!(driver, copy_out(self.address, address, bytes, stream))
    }

    fn begin(&mut self) -> Result<(), GpuError> {
        self.context.enter()?;
        self.copy = self.context.begun.fetch_add(1, Ordering::AcqRel) + 1;
        Ok(())
    }

    fn settle(&self) -> Result<(), GpuError> {
        if self.copy > self.context.done.load(Ordering::Acquire) {
            self.context.wait()?;
        }
        Ok(())
    }
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        // See `Context::drop`.
        if self.copy > self.context.done.load(Ordering::Acquire) {
            let _failed = self.context.wait();
        }
        let _failed = self.context.enter();
        let _failed = call!(self.context.driver, host_free(self.address));
    }
}

/// A point in the order of a GPU's work. The host can wait for it while the GPU continues with later work.
#[derive(Debug)]
pub struct Event {
    context: Arc<Context>,
    event: Handle,
    /// Copies that were started before the event.
    begun: u64,
}

impl Event {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self, GpuError> {
        /// The flag of an event without a time stamp.
        const WITHOUT_TIME: u32 = 2;
        context.enter()?;
        let mut event = 0;
        call!(context.driver, event_create(&raw mut event, WITHOUT_TIME))?;
        Ok(Self { context: Arc::clone(context), event, begun: 0 })
    }

    /// Moves the event to the point after all work started so far.
    ///
    /// # Errors
    /// [`GpuError`] if the GPU has failed.
    pub fn record(&mut self) -> Result<(), GpuError> {
        self.context.enter()?;
        self.begun = self.context.begun.load(Ordering::Acquire);
        call!(self.context.driver, event_record(self.event, self.context.stream))
    }

    /// Waits for all work started before the event.
    ///
    /// # Errors
    /// [`GpuError`] if the GPU has failed.
    pub fn wait(&self) -> Result<(), GpuError> {
        self.context.enter()?;
        call!(self.context.driver, event_wait(self.event))?;
        self.context.done.fetch_max(self.begun, Ordering::AcqRel);
        Ok(())
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // See `Context::drop`.
        let _failed = self.context.enter();
        let _failed = call!(self.context.driver, event_destroy(self.event));
    }
}

fn bytes<T>(length: usize) -> Result<usize, GpuError> {
    let bytes = length.checked_mul(size_of::<T>());
    bytes.ok_or(GpuError::Memory { bytes: u64::MAX, free: 0 })
}
