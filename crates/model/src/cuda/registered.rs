//! Host memory that another part of the program allocated, and that a GPU reads and writes directly.

#![allow(unsafe_code, reason = "has the driver copy to and from slices")]

use std::sync::Arc;

use collective::HostMemory;

use super::{
    GpuError,
    driver::{Driver, Handle, call},
    memory::{Buffer, Context},
};

/// Memory that is registered with the driver until this value is dropped.
#[derive(Debug)]
pub struct Registered {
    context: Arc<Context>,
    memory: Arc<dyn HostMemory>,
}

impl Registered {
    pub(super) fn new(
        context: &Arc<Context>,
        memory: Arc<dyn HostMemory>,
    ) -> Result<Self, GpuError> {
        context.enter()?;
        call!(context.driver, host_register(memory.address(), memory.bytes(), 0))?;
        Ok(Self { context: Arc::clone(context), memory })
    }

    /// Whether these floats are in the memory.
    #[must_use]
    pub fn holds(&self, floats: &[f32]) -> bool {
        let (start, end) = (self.memory.address(), self.memory.address() + self.memory.bytes());
        let place = floats.as_ptr_range();
        start <= place.start as usize && place.end as usize <= end
    }

    /// Copies floats of a GPU, beginning at `first`, to `to`, and waits.
    ///
    /// # Errors
    /// [`GpuError`] if the GPU has failed.
    ///
    /// # Panics
    /// If the buffer has too few floats, or `to` is not in this memory.
    pub fn read(&self, from: &Buffer<f32>, first: usize, to: &mut [f32]) -> Result<(), GpuError> {
        assert!(self.holds(to) && first + to.len() <= from.len(), "{} floats", to.len());
        self.context.enter()?;
        self.context.meter.note_copy_out(size_of_val(to));
        let Context { driver, stream, .. } = *self.context;
        let address = from.address().offset::<f32>(first).0 as Handle;
        call!(driver, copy_out(to.as_mut_ptr() as Handle, address, size_of_val(to), stream))?;
        self.context.wait()
    }

    /// Copies floats to a GPU, and waits.
    ///
    /// # Errors
    /// [`GpuError`] if the GPU has failed.
    ///
    /// # Panics
    /// If the buffer has too little room, or `from` is not in this memory.
    pub fn write(&self, from: &[f32], to: &mut Buffer<f32>) -> Result<(), GpuError> {
        assert!(self.holds(from) && from.len() <= to.len(), "{} floats", from.len());
        self.context.enter()?;
        self.context.meter.note_copy_in(size_of_val(from));
        let Context { driver, stream, .. } = *self.context;
        let address = to.address().0 as Handle;
        call!(driver, copy_in(address, from.as_ptr() as Handle, size_of_val(from), stream))?;
        self.context.wait()
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // See `Context::drop`. No copy is running, because every copy is waited for.
        let _failed = self.context.enter();
        let _failed = call!(self.context.driver, host_unregister(self.memory.address()));
    }
}
