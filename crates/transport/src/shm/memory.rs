//! The mapping of a segment, and the only code that turns its bytes into references.
//!
//! The types here decide which member may access which memory, and when. Words are atomics, which
//! any process may access at any time. Vectors are plain floats; the barriers of a round decide who
//! may access them (see [`super`]). This file does not know the meaning of the words.

#![allow(unsafe_code, reason = "maps memory that other processes map too, and hands out slices")]

use std::{
    io,
    ops::Range,
    os::fd::{AsFd, OwnedFd},
    ptr::{self, NonNull},
    slice,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering, fence},
    },
};

use collective::{HostMemory, STATE_VECTORS, StateVectors, shared::Partials};
use rustix::{
    fs::{self, MemfdFlags, Mode, SealFlags},
    io::Errno,
    mm::{self, MapFlags, ProtFlags},
};

use super::{
    barrier::{Contributed, Summed, Unfilled},
    layout::{Layout, STATES, WORDS_AT},
};

/// With these seals the file keeps its size for ever, so no peer can cause a fault by truncating it.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// The atomics of a mapped segment.
#[derive(Debug)]
pub(super) struct Memory {
    base: NonNull<u8>,
    bytes: usize,
    words: usize,
}

// SAFETY: the mapping belongs to no thread, and a `Memory` gives access only to atomics.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl HostMemory for Memory {
    fn address(&self) -> usize {
        self.base.as_ptr() as usize
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The floats of a mapped segment, as one member may access them. Each mapping has exactly one.
#[derive(Debug)]
pub(super) struct Vectors {
    memory: Arc<Memory>,
    first: NonNull<f32>,
    stride: usize,
    length: usize,
    /// The number of partials. The vector after them is the sum, if there is one.
    partials: usize,
    has_sum: bool,
    /// The partials of this member.
    own: Range<usize>,
}

/// One of the two states of a segment, as one member may access it. Each mapping has exactly one for
/// each state.
#[derive(Debug)]
pub(super) struct Buffer {
    vectors: [NonNull<f32>; STATE_VECTORS],
    length: usize,
    /// Keeps the mapping alive as long as the floats.
    _memory: Arc<Memory>,
}

// SAFETY: the floats are accessed only through `&self` or `&mut self`, as those of a `Vec`.
unsafe impl Send for Vectors {}
// SAFETY: as above.
unsafe impl Sync for Vectors {}

// SAFETY: the floats are accessed only through `&self` or `&mut self`, as those of a `Vec`.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

/// A mapping, in pieces.
pub(super) struct Mapped {
    pub(super) memory: Arc<Memory>,
    pub(super) vectors: Vectors,
    /// The states, if the layout has any.
    pub(super) states: Option<[Buffer; STATES]>,
}

/// The words of a segment, read-only, for a process that is not a member.
#[derive(Debug)]
pub(super) struct Watched(Memory);

/// Creates a file without a name, with `bytes` zero bytes, whose memory is reserved. It lives as long
/// as a process has it open or mapped.
pub(super) fn create_file(name: &str, bytes: usize) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = match fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        // Older kernels do not know the flag.
        Err(Errno::INVAL) => fs::memfd_create(name, flags)?,
        created => created?,
    };
    fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?;
    // If memory is short, this call fails, instead of a fault in the middle of a round.
    fs::fallocate(&file, fs::FallocateFlags::empty(), 0, bytes as u64)?;
    fs::fcntl_add_seals(&file, SEALS)?;
    Ok(file)
}

/// Whether `file` is sealed, so that its size never changes.
pub(super) fn is_sealed(file: impl AsFd) -> bool {
    fs::fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SEALS))
}

/// Maps `file`, which is sealed and `layout.bytes` long, for the member whose partials are
/// `own`.
pub(super) fn map(file: impl AsFd, layout: &Layout, own: Range<usize>) -> io::Result<Mapped> {
    // Any layout is correct, as long as its offsets stay within the file.
    let size = fs::fstat(&file)?.st_size;
    let vectors_end = layout.vectors_at + layout.vectors() * layout.stride * size_of::<f32>();
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
    let states = layout.states().map(|states| {
        states.map(|index| {
            // SAFETY: by the assertion above all vectors of the layout lie within the mapping.
            let vector = |offset| unsafe { first.add((index + offset) * stride) };
            let vectors = std::array::from_fn(vector);
            Buffer { vectors, length, _memory: Arc::clone(&memory) }
        })
    });
    let has_sum = layout.has_sum();
    let vectors =
        Vectors { memory: Arc::clone(&memory), first, stride, length, partials, has_sum, own };
    Ok(Mapped { memory, vectors, states })
}

impl Watched {
    /// Maps the first `words` words of a segment's file.
    pub(super) fn map(file: impl AsFd, words: usize) -> io::Result<Self> {
        let size = u64::try_from(fs::fstat(&file)?.st_size).unwrap_or_default();
        let bytes = WORDS_AT + words * size_of::<u64>();
        if !is_sealed(&file) || (bytes as u64) > size {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // SAFETY: as in `map`; the file is sealed and long enough.
        let base = unsafe {
            mm::mmap(ptr::null_mut(), bytes, ProtFlags::READ, MapFlags::SHARED, file, 0)?
        };
        let base = NonNull::new(base.cast::<u8>()).ok_or(Errno::NOMEM)?;
        Ok(Self(Memory { base, bytes, words }))
    }

    /// The current value of a word. All reads before this call are ordered before this read.
    pub(super) fn load(&self, word: usize) -> u64 {
        fence(Ordering::Acquire);
        // Memory that is mapped for reading alone permits relaxed loads only.
        let value = self.0.words()[word].load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        value
    }
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
/// Within this process a vector is accessed only through the one `Vectors` of its mapping, so the
/// borrow checker keeps references apart. Another member in the same process has its own mapping,
/// with other addresses.
///
/// Another process might write to floats to which a reference exists here. The barriers exclude
/// this, as argued in [`super`], if every member keeps to them:
///
/// - `partial_mut` and `sum` are called between rounds, when other members read no partial
///   and write no sum;
/// - `reduction` needs the proof that all members have contributed to the round, and its caller is
///   inside the round: no member writes to a partial, and each member writes only to its own segment
///   of the sum.
///
/// After an interrupted round other members may not have stopped yet, and a broken peer may write
/// at any time. Such a write changes the value of a float that is not used any more. Every bit
/// pattern is a float, no length, index or pointer is computed from a float, and floats are moved by
/// plain loads of aligned words.
impl Vectors {
    fn vector(&self, index: usize) -> NonNull<f32> {
        let vectors = self.partials + usize::from(self.has_sum);
        assert!(index < vectors, "no vector {index}");
        // SAFETY: `map` has checked that all vectors of the layout lie within the mapping.
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

    /// The first partial; with a single member it is the sum.
    pub(super) fn first_partial(&self) -> &[f32] {
        self.read(0)
    }

    fn read(&self, index: usize) -> &[f32] {
        // SAFETY: as in `partial_mut`; shared, and nobody writes: see above.
        unsafe { slice::from_raw_parts(self.vector(index).as_ptr(), self.length) }
    }

    /// All partials.
    pub(super) fn partials(&self, _contributed: &Contributed) -> Gathered<'_> {
        Gathered(self)
    }

    /// The sum that all members have written, in the place of partials.
    pub(super) fn summed<'a>(&'a self, _summed: &Summed) -> WrittenSum<'a> {
        WrittenSum(self.sum())
    }

    /// The floats of all partials and of the sum in this member's `segment`.
    pub(super) fn reduction<'a>(
        &'a mut self,
        contributed: &Contributed,
        segment: Range<usize>,
    ) -> (impl Fn(usize) -> &'a [f32] + use<'a>, &'a mut [f32]) {
        let this: &'a Self = self;
        assert!(segment.end <= self.length, "no segment {segment:?}");
        let partials: Gathered<'a> = this.partials(contributed);
        let vector = this.vector(this.partials);
        // SAFETY: within the vector of the sum, which is none of the partials; exclusive by
        // `&mut self` and as above.
        let sum =
            unsafe { slice::from_raw_parts_mut(vector.add(segment.start).as_ptr(), segment.len()) };
        (move |index| partials.floats(index, segment.clone()), sum)
    }

    /// The words of the same mapping.
    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }
}

/// All partials of a round to which all members have contributed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gathered<'a>(&'a Vectors);

impl<'a> Gathered<'a> {
    fn floats(self, index: usize, range: Range<usize>) -> &'a [f32] {
        let Self(vectors) = self;
        assert!(index < vectors.partials, "no partial {index}");
        assert!(range.start <= range.end && range.end <= vectors.length, "no range {range:?}");
        let vector = vectors.vector(index);
        // SAFETY: within the vector; shared, and nobody writes: see `Vectors`.
        unsafe { slice::from_raw_parts(vector.add(range.start).as_ptr(), range.len()) }
    }
}

/// A sum that takes the place of partials.
#[derive(Clone, Copy, Debug)]
pub(super) struct WrittenSum<'a>(&'a [f32]);

impl Partials for WrittenSum<'_> {
    fn partial(&self, _index: usize, range: Range<usize>) -> &[f32] {
        &self.0[range]
    }
}

impl Partials for Gathered<'_> {
    fn partial(&self, index: usize, range: Range<usize>) -> &[f32] {
        self.floats(index, range)
    }
}

/// # Why handing out slices is sound
///
/// Within this process a `Buffer` is read through `&self` and written through `&mut self`. While its
/// `Arc` has another owner, there is no `&mut`. Another process writes to a buffer only in two cases,
/// both within its own segment:
///
/// - `fill`, before the state was brought in. Nobody has read the buffer then: `held` gives a buffer
///   away only later, and all calls before need `&mut`.
/// - `segment_mut`, in a round to which every member has contributed, this one too. Before it
///   contributed, this member has checked that nobody here holds the buffer that will be written to.
///   The buffer is given away only after all members have written, at the barrier that ends the round.
///
/// A process that is not a member has no `Buffer`: it reads the file ([`super::takeover`]).
///
/// For an interrupted round or a broken peer, the argument at [`Vectors`] holds here too. An
/// interrupted member never contributes again, so no other member writes to the buffer that it has.
impl Buffer {
    /// The floats of this member's `segment`, to bring the state in.
    pub(super) fn fill(
        &mut self,
        _unfilled: &Unfilled,
        segment: Range<usize>,
    ) -> [&mut [f32]; STATE_VECTORS] {
        self.slices_mut(segment)
    }

    /// The floats of this member's `segment`, in a round to which all members have contributed.
    pub(super) fn segment_mut(
        &mut self,
        _contributed: &Contributed,
        segment: Range<usize>,
    ) -> [&mut [f32]; STATE_VECTORS] {
        self.slices_mut(segment)
    }

    fn slices_mut(&mut self, segment: Range<usize>) -> [&mut [f32]; STATE_VECTORS] {
        assert!(segment.end <= self.length, "no segment {segment:?}");
        let (start, length) = (segment.start, segment.len());
        self.vectors.map(|vector| {
            // SAFETY: within the vector, which is within the mapping that `_memory` keeps alive;
            // the vectors do not overlap; for exclusiveness see above.
            unsafe { slice::from_raw_parts_mut(vector.add(start).as_ptr(), length) }
        })
    }
}

impl StateVectors for Buffer {
    fn vectors(&self) -> [&[f32]; STATE_VECTORS] {
        // SAFETY: within the mapping that `_memory` keeps alive; shared, and nobody writes: see
        // above.
        self.vectors.map(|vector| unsafe { slice::from_raw_parts(vector.as_ptr(), self.length) })
    }
}
