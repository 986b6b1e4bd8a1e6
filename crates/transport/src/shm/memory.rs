//! The mapping of a segment, and the only place that turns its bytes into references.
//!
//! What is told apart here is who may touch what, and when: words are atomics, which anybody
//! may touch at any time; vectors are plain floats, which the two barriers of a round hand to
//! and fro (see [`super`]). Which word means what is not known here.

#![allow(unsafe_code, reason = "maps memory that other processes map too, and hands out slices")]

use std::{
    io,
    ops::Range,
    os::fd::{AsFd, OwnedFd},
    ptr::{self, NonNull},
    slice,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64},
    },
};

use rustix::{
    fs::{self, MemfdFlags, Mode, SealFlags},
    io::Errno,
    mm::{self, MapFlags, ProtFlags},
};

use super::{
    barrier::Contributed,
    layout::{Layout, WORDS_AT},
};

/// Once set, the file keeps its size for ever: no peer can make an access fault by
/// truncating it.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// The atomics of a mapped segment.
#[derive(Debug)]
pub(super) struct Memory {
    base: NonNull<u8>,
    bytes: usize,
    words: usize,
}

// SAFETY: the mapping belongs to no thread, and through a `Memory` only atomics are reached.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// The floats of a mapped segment, as one member may touch them. There is one for a mapping.
#[derive(Debug)]
pub(super) struct Vectors {
    memory: Arc<Memory>,
    first: NonNull<f32>,
    stride: usize,
    length: usize,
    partials: usize,
    /// The partials of this member.
    own: Range<usize>,
}

// SAFETY: the floats are reached by way of `&self` or `&mut self` only, as those of a `Vec`.
unsafe impl Send for Vectors {}
// SAFETY: as above.
unsafe impl Sync for Vectors {}

/// Creates a file without a name, `bytes` long, all zero, whose memory is reserved. It lives
/// as long as somebody has it open or mapped.
pub(super) fn create_file(name: &str, bytes: usize) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = match fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        // The flag is younger than the call.
        Err(Errno::INVAL) => fs::memfd_create(name, flags)?,
        created => created?,
    };
    fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?;
    // Where memory is short this says so, instead of a fault in the midst of a round.
    fs::fallocate(&file, fs::FallocateFlags::empty(), 0, bytes as u64)?;
    fs::fcntl_add_seals(&file, SEALS)?;
    Ok(file)
}

/// Whether `file` is one that can never be shorter than it is.
pub(super) fn is_sealed(file: impl AsFd) -> bool {
    fs::fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SEALS))
}

/// Maps `file`, which is sealed and `layout.bytes` long, for the member whose partials are
/// `own`.
pub(super) fn map(
    file: impl AsFd,
    layout: &Layout,
    own: Range<usize>,
) -> io::Result<(Arc<Memory>, Vectors)> {
    // The offsets below are right for any layout; what they must not do is leave the file.
    let size = fs::fstat(&file)?.st_size;
    let vectors_end = layout.vectors_at + (layout.partials + 1) * layout.stride * size_of::<f32>();
    assert!(
        is_sealed(&file)
            && usize::try_from(size) == Ok(layout.bytes)
            && vectors_end <= layout.bytes
            && WORDS_AT + layout.words * size_of::<u64>() <= layout.vectors_at
            && layout.vectors_at.is_multiple_of(align_of::<u64>())
            && layout.length <= layout.stride
            && own.end <= layout.partials,
        "a layout that the file does not have"
    );
    let (protection, flags) =
        (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::POPULATE);
    // SAFETY: the kernel chooses an address that nothing else uses. The file is sealed, so the
    // whole mapping stays backed by it.
    let base = unsafe { mm::mmap(ptr::null_mut(), layout.bytes, protection, flags, file, 0)? };
    let base = NonNull::new(base.cast::<u8>()).ok_or(Errno::NOMEM)?;
    let memory = Arc::new(Memory { base, bytes: layout.bytes, words: layout.words });
    // SAFETY: by the assertion above this lies within the mapping.
    let first = unsafe { base.add(layout.vectors_at) }.cast();
    let Layout { stride, length, partials, .. } = *layout;
    Ok((memory.clone(), Vectors { memory, first, stride, length, partials, own }))
}

impl Memory {
    /// The futex word.
    pub(super) fn gate(&self) -> &AtomicU32 {
        // SAFETY: the first bytes of the mapping, which lives as long as `self`; aligned to a
        // page. Nothing else refers to them, in any process.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().cast()) }
    }

    /// The words.
    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: `map` has checked that they lie within the mapping, before the vectors and
        // behind the gate, and that they are aligned. Any bits are an `AtomicU64`, and every
        // process treats them as that.
        unsafe { slice::from_raw_parts(self.base.add(WORDS_AT).cast().as_ptr(), self.words) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this size; all references into it borrow from `self`
        // or from a `Vectors`, which keeps `self` alive.
        let unmapped = unsafe { mm::munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

/// # Why handing out slices is sound
///
/// Within this process a vector is reached only through the one `Vectors` of its mapping, so
/// the borrow checker keeps references apart; that another member may live in this process
/// too does not matter, for it has a mapping, and so addresses, of its own.
///
/// What remains is another process that writes to floats to which a reference exists here.
/// The barriers exclude it, as argued in [`super`], once every member keeps to them:
///
/// - `partial_mut` and `sum` are called between rounds, when other members read no partial
///   and write no sum;
/// - `reduction` asks for the proof that all members have contributed to the round, and its
///   caller is inside the round: none writes to a partial, and each writes to its own segment
///   of the sum only.
///
/// After an interrupted round the others may not have stopped yet, and a broken peer may write
/// at any time. Such a write changes the value of a float that then is of no use anyway: every
/// pattern of bits is a float, no length, index or pointer is made from one, and they are moved
/// by plain loads of aligned words.
impl Vectors {
    fn vector(&self, index: usize) -> NonNull<f32> {
        assert!(index <= self.partials, "no vector {index}");
        // SAFETY: `map` has checked that all `partials + 1` vectors lie within the mapping.
        unsafe { self.first.add(index * self.stride) }
    }

    /// The partial of this member's node with this index.
    pub(super) fn partial_mut(&mut self, index: usize) -> &mut [f32] {
        assert!(index < self.own.len(), "no node {index}");
        let vector = self.vector(self.own.start + index);
        // SAFETY: within the mapping, which `self.memory` keeps alive; for exclusiveness see
        // above.
        unsafe { slice::from_raw_parts_mut(vector.as_ptr(), self.length) }
    }

    /// The sum.
    pub(super) fn sum(&self) -> &[f32] {
        self.read(self.partials)
    }

    /// The first partial, which is that of a lone member.
    pub(super) fn first_partial(&self) -> &[f32] {
        self.read(0)
    }

    fn read(&self, index: usize) -> &[f32] {
        // SAFETY: as in `partial_mut`; shared, and nobody writes: see above.
        unsafe { slice::from_raw_parts(self.vector(index).as_ptr(), self.length) }
    }

    /// All partials' and the sum's floats in `segment`, which is this member's.
    pub(super) fn reduction<'a>(
        &'a mut self,
        _contributed: &Contributed,
        segment: Range<usize>,
    ) -> (impl Fn(usize) -> &'a [f32], &'a mut [f32]) {
        let this: &'a Self = self;
        let (start, length) = (segment.start, segment.len());
        assert!(segment.end <= self.length, "no segment {segment:?}");
        // SAFETY: `start` is within the vector.
        let floats = move |index| unsafe { this.vector(index).add(start) };
        // SAFETY: within the vector of the sum, which is none of the partials; exclusive by
        // `&mut self` and as above.
        let sum = unsafe { slice::from_raw_parts_mut(floats(this.partials).as_ptr(), length) };
        let partial = move |index| {
            assert!(index < this.partials, "no partial {index}");
            // SAFETY: within the vector; shared, and nobody writes: see above.
            unsafe { slice::from_raw_parts(floats(index).as_ptr(), length) }
        };
        (partial, sum)
    }

    /// The words of the same mapping.
    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }
}
