//! One GPU as a member uses it: memory there, memory here that it reads by itself, and a stream
//! of copies between the two.

#![allow(unsafe_code, reason = "calls the CUDA runtime, and hands out memory that it allocates")]

use std::{
    ffi::{c_int, c_void},
    ops::Range,
    ptr, slice,
};

use collective::DeviceQueue;

use super::{
    communicator::Transfer,
    library::{Cuda, EITHER_WAY, NON_BLOCKING, NOT_READY, NcclError, SUCCESS},
};

const FLOAT_BYTES: usize = size_of::<f32>();

fn index(device: usize) -> c_int {
    c_int::try_from(device).unwrap_or(c_int::MAX)
}

/// A GPU, and a stream on it.
pub(super) struct Gpu {
    cuda: Cuda,
    device: c_int,
    stream: *mut c_void,
}

// SAFETY: a stream may be used from any thread, and the runtime orders what several of them do.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

impl Gpu {
    pub(super) fn open(cuda: Cuda, device: usize) -> Result<Self, NcclError> {
        let mut gpu = Self { cuda, device: index(device), stream: ptr::null_mut() };
        gpu.select()?;
        // SAFETY: the place for the stream is this one.
        let status = unsafe { (cuda.stream_create)(&raw mut gpu.stream, NON_BLOCKING) };
        cuda.check("cudaStreamCreateWithFlags", status)?;
        Ok(gpu)
    }

    /// Has the calling thread use this GPU.
    pub(super) fn select(&self) -> Result<(), NcclError> {
        // SAFETY: takes any number.
        let status = unsafe { (self.cuda.set_device)(self.device) };
        self.cuda.check("cudaSetDevice", status)
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
        let status = unsafe { (self.cuda.copy)(to, from, bytes, EITHER_WAY, stream) };
        self.cuda.check("cudaMemcpyAsync", status)
    }
}

impl DeviceQueue for Gpu {
    fn enter(&self) -> Result<(), String> {
        self.select().map_err(|error| error.to_string())
    }

    fn handle(&self) -> usize {
        self.stream as usize
    }

    fn is_idle(&self) -> Result<bool, String> {
        // SAFETY: the stream is there for as long as this value.
        match unsafe { (self.cuda.stream_query)(self.stream) } {
            SUCCESS => Ok(true),
            NOT_READY => Ok(false),
            status => {
                let checked = self.cuda.check("cudaStreamQuery", status);
                checked.map(|()| true).map_err(|error| error.to_string())
            }
        }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if !self.stream.is_null() {
            // SAFETY: nobody else uses the stream.
            let _error = unsafe { (self.cuda.stream_destroy)(self.stream) };
        }
    }
}

/// Floats in a GPU's memory.
pub(super) struct Memory {
    cuda: Cuda,
    place: *mut c_void,
    floats: usize,
    is_kept: bool,
}

// SAFETY: the memory is the process's, and this value its only owner.
unsafe impl Send for Memory {}

impl Memory {
    /// On the GPU that the calling thread uses.
    pub(super) fn new(cuda: Cuda, floats: usize) -> Result<Self, NcclError> {
        let mut memory = Self { cuda, place: ptr::null_mut(), floats, is_kept: false };
        let bytes = floats.max(1) * FLOAT_BYTES;
        // SAFETY: the place for the address is this one.
        let status = unsafe { (cuda.allocate)(&raw mut memory.place, bytes) };
        cuda.check("cudaMalloc", status)?;
        Ok(memory)
    }

    /// The address of a float on the GPU.
    fn at(&self, index: usize) -> *mut c_void {
        assert!(index <= self.floats, "beyond what is there");
        self.place.wrapping_byte_add(index * FLOAT_BYTES)
    }

    pub(super) fn floats(&self) -> usize {
        self.floats
    }

    /// What is to go to another member, or to come from it.
    pub(super) fn transfer(&self, range: Range<usize>, member: usize, goes: bool) -> Transfer {
        assert!(range.end <= self.floats, "beyond what is there");
        let (address, floats) = (self.at(range.start) as usize, range.len());
        Transfer { member, address, floats, goes }
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
            let _error = unsafe { (self.cuda.free)(self.place) };
        }
    }
}

/// Floats in this host's memory, where a GPU reads and writes them by itself.
pub(super) struct Pinned {
    cuda: Cuda,
    place: *mut c_void,
    floats: usize,
    is_kept: bool,
}

// SAFETY: the memory is the process's, and this value its only owner.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Zeros.
    pub(super) fn new(cuda: Cuda, floats: usize) -> Result<Self, NcclError> {
        let mut pinned = Self { cuda, place: ptr::null_mut(), floats, is_kept: false };
        let bytes = floats.max(1) * FLOAT_BYTES;
        // SAFETY: the place for the address is this one.
        let status = unsafe { (cuda.allocate_pinned)(&raw mut pinned.place, bytes, 0) };
        cuda.check("cudaHostAlloc", status)?;
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
            let _error = unsafe { (self.cuda.free_pinned)(self.place) };
        }
    }
}
