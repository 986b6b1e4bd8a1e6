//! One GPU as a member uses it: memory there, memory here that it reads by itself, and a stream
//! of copies between the two.

#![allow(unsafe_code, reason = "calls the CUDA runtime, and hands out memory that it allocates")]

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    ops::Range,
    ptr, slice, thread,
    time::{Duration, Instant},
};

use super::library::{EITHER_WAY, Libraries, NON_BLOCKING, NOT_READY, NcclError, SUCCESS};

/// Room for the text of a PCI bus id.
const PCI_BUS_ID_BYTES: usize = 32;

/// How long a GPU may take to finish what it was given: copies of some megabytes.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

const FLOAT_BYTES: usize = size_of::<f32>();

/// The name of a GPU, the same for every process on its host.
///
/// # Errors
/// [`NcclError::Refused`] where there is no such device.
pub fn name_of_gpu(libraries: Libraries, device: usize) -> Result<String, NcclError> {
    let mut text = [0 as c_char; PCI_BUS_ID_BYTES];
    let (room, device) = (PCI_BUS_ID_BYTES as c_int, index(device));
    // SAFETY: there is room for as much as it is told.
    let status = unsafe { (libraries.cuda.pci_bus_id)(text.as_mut_ptr(), room, device) };
    libraries.cuda("cudaDeviceGetPCIBusId", status)?;
    // SAFETY: it has written a C string there.
    Ok(unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned())
}

fn index(device: usize) -> c_int {
    c_int::try_from(device).unwrap_or(c_int::MAX)
}

/// A GPU, and a stream on it.
pub(super) struct Gpu {
    pub(super) libraries: Libraries,
    device: c_int,
    pub(super) stream: *mut c_void,
}

// SAFETY: a stream may be used from any thread, one at a time.
unsafe impl Send for Gpu {}

impl Gpu {
    pub(super) fn open(libraries: Libraries, device: usize) -> Result<Self, NcclError> {
        let mut gpu = Self { libraries, device: index(device), stream: ptr::null_mut() };
        gpu.enter()?;
        // SAFETY: the place for the stream is this one.
        let status = unsafe { (libraries.cuda.stream_create)(&raw mut gpu.stream, NON_BLOCKING) };
        libraries.cuda("cudaStreamCreateWithFlags", status)?;
        Ok(gpu)
    }

    /// Has the calling thread use this GPU.
    pub(super) fn enter(&self) -> Result<(), NcclError> {
        // SAFETY: takes any number.
        let status = unsafe { (self.libraries.cuda.set_device)(self.device) };
        self.libraries.cuda("cudaSetDevice", status)
    }

    /// Begins to copy floats to the GPU.
    pub(super) fn copy_in(
        &self,
        from: &Pinned,
        to: &Memory,
        range: Range<usize>,
    ) -> Result<(), NcclError> {
        assert!(range.end <= from.floats && range.end <= to.floats, "beyond what is there");
        self.copy(to.at(range.start), from.at(range.start), range.len())
    }

    /// Begins to copy floats back.
    pub(super) fn copy_out(
        &self,
        from: &Memory,
        to: &mut Pinned,
        range: Range<usize>,
    ) -> Result<(), NcclError> {
        assert!(range.end <= from.floats && range.end <= to.floats, "beyond what is there");
        self.copy(to.at(range.start), from.at(range.start), range.len())
    }

    fn copy(&self, to: *mut c_void, from: *const c_void, floats: usize) -> Result<(), NcclError> {
        let (bytes, stream) = (floats * FLOAT_BYTES, self.stream);
        // SAFETY: both places have that many floats, as was checked. They are freed only once the
        // stream has nothing left to do.
        let status = unsafe { (self.libraries.cuda.copy)(to, from, bytes, EITHER_WAY, stream) };
        self.libraries.cuda("cudaMemcpyAsync", status)
    }

    /// Waits, within a bound, until all that was begun is done. Says whether it is certain: if not,
    /// the GPU may still read and write the memory that it was given.
    pub(super) fn settle(&self) -> bool {
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        loop {
            match self.is_idle() {
                Ok(true) => return true,
                Ok(false) if Instant::now() < deadline => thread::yield_now(),
                Ok(false) | Err(_) => return false,
            }
        }
    }

    /// Whether all that was begun is done.
    pub(super) fn is_idle(&self) -> Result<bool, NcclError> {
        // SAFETY: the stream is there for as long as this value.
        match unsafe { (self.libraries.cuda.stream_query)(self.stream) } {
            SUCCESS => Ok(true),
            NOT_READY => Ok(false),
            status => self.libraries.cuda("cudaStreamQuery", status).map(|()| true),
        }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if !self.stream.is_null() {
            // SAFETY: nobody else uses the stream.
            let _error = unsafe { (self.libraries.cuda.stream_destroy)(self.stream) };
        }
    }
}

/// Floats in a GPU's memory.
pub(super) struct Memory {
    libraries: Libraries,
    place: *mut c_void,
    floats: usize,
    is_kept: bool,
}

// SAFETY: the memory is the process's, and this value its only owner.
unsafe impl Send for Memory {}

impl Memory {
    /// On the GPU that the calling thread uses.
    pub(super) fn new(libraries: Libraries, floats: usize) -> Result<Self, NcclError> {
        let mut memory = Self { libraries, place: ptr::null_mut(), floats, is_kept: false };
        let bytes = floats.max(1) * FLOAT_BYTES;
        // SAFETY: the place for the address is this one.
        let status = unsafe { (libraries.cuda.allocate)(&raw mut memory.place, bytes) };
        libraries.cuda("cudaMalloc", status)?;
        Ok(memory)
    }

    /// The address of a float on the GPU.
    pub(super) fn at(&self, index: usize) -> *mut c_void {
        assert!(index <= self.floats, "beyond what is there");
        self.place.wrapping_byte_add(index * FLOAT_BYTES)
    }

    pub(super) fn floats(&self) -> usize {
        self.floats
    }

    /// Has the memory stay allocated for as long as the process runs.
    pub(super) fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if !self.place.is_null() && !self.is_kept {
            // SAFETY: nobody else uses the memory.
            let _error = unsafe { (self.libraries.cuda.free)(self.place) };
        }
    }
}

/// Floats in this host's memory, where a GPU reads and writes them by itself.
pub(super) struct Pinned {
    libraries: Libraries,
    place: *mut c_void,
    floats: usize,
    is_kept: bool,
}

// SAFETY: the memory is the process's, and this value its only owner.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Zeros.
    pub(super) fn new(libraries: Libraries, floats: usize) -> Result<Self, NcclError> {
        let mut pinned = Self { libraries, place: ptr::null_mut(), floats, is_kept: false };
        let bytes = floats.max(1) * FLOAT_BYTES;
        // SAFETY: the place for the address is this one.
        let status = unsafe { (libraries.cuda.allocate_pinned)(&raw mut pinned.place, bytes, 0) };
        libraries.cuda("cudaHostAlloc", status)?;
        // SAFETY: that many bytes were allocated; zeros are floats.
        unsafe { ptr::write_bytes(pinned.place.cast::<u8>(), 0, bytes) };
        Ok(pinned)
    }

    fn at(&self, index: usize) -> *mut c_void {
        self.place.wrapping_byte_add(index * FLOAT_BYTES)
    }

    pub(super) fn floats(&self) -> &[f32] {
        // SAFETY: that many floats were allocated and set, aligned to pages. A copy that writes
        // to them takes them mutably, and is waited for before they are looked at.
        unsafe { slice::from_raw_parts(self.place.cast::<f32>(), self.floats) }
    }

    pub(super) fn floats_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and this value is the only owner.
        unsafe { slice::from_raw_parts_mut(self.place.cast::<f32>(), self.floats) }
    }

    /// Has the memory stay allocated for as long as the process runs.
    pub(super) fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if !self.place.is_null() && !self.is_kept {
            // SAFETY: nobody else uses the memory.
            let _error = unsafe { (self.libraries.cuda.free_pinned)(self.place) };
        }
    }
}
