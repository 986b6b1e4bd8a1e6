//! A stand-in for NCCL and the CUDA runtime in `tests/over_grpc/nccl.rs`, because few machines have
//! GPUs. It is a library with their functions; its GPUs are memory of this process, and its members
//! are threads. Queued work is done later, when its state is queried, as with the real libraries;
//! freeing memory before that ends the process. Two of the GPUs fail in the middle of their work.
//!
//! It knows nothing of Lockstep. It cannot show the times of the real libraries, or the differences
//! between their versions.

#![allow(unsafe_code, reason = "functions that C declares")]

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    ffi::{c_char, c_int, c_uint, c_void},
    mem, ptr, slice,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

/// The number of simulated GPUs.
const GPUS: c_int = 10;

/// The GPU that reports a failure once, and then finishes its copies after a while.
const FAILING: c_int = 8;

/// The GPU that reports a failure for ever.
const LOST: c_int = 9;

/// How often the failing GPU is queried until its copies are done.
const LOOKS: u32 = 100;

const SUCCESS: c_int = 0;
const NOT_READY: c_int = 600;
const LAUNCH_FAILURE: c_int = 719;
const INVALID_DEVICE: c_int = 101;
const INVALID_USAGE: c_int = 5;
const IN_PROGRESS: c_int = 7;

const ID_BYTES: usize = 128;
const CONFIG_MAGIC: c_uint = 0xcafe_beef;

/// `ncclUniqueId`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Id([u8; ID_BYTES]);

/// The beginning of `ncclConfig_t`.
#[derive(Debug)]
#[repr(C)]
pub struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
}

/// Floats sent between two members, in order: by id, sender and receiver.
type Mail = HashMap<(Id, c_int, c_int), VecDeque<Vec<f32>>>;

#[derive(Default)]
struct World {
    /// Memory and streams, by address.
    allocated: HashMap<usize, Box<[u64]>>,
    /// The number of members that have joined.
    joined: HashMap<Id, c_int>,
    /// The number of members that have finalized.
    leaving: HashMap<Id, c_int>,
    mail: Mail,
    communicators: HashMap<usize, Communicator>,
    streams: HashMap<usize, Stream>,
    /// Copies whose streams were destroyed before they were done.
    orphans: Vec<Copy>,
    /// Whether a communicator has been queried since it got work.
    seen: HashMap<usize, bool>,
    last_id: u64,
}

#[derive(Default)]
struct Stream {
    gpu: c_int,
    /// Copies still to be done.
    copies: Vec<Copy>,
    /// How often the stream was queried since it got work.
    looks: u32,
}

struct Copy {
    to: usize,
    from: usize,
    bytes: usize,
}

impl Copy {
    fn uses(&self, memory: &[u64]) -> bool {
        let (start, end) = (memory.as_ptr() as usize, memory.as_ptr_range().end as usize);
        [self.to, self.from].iter().any(|place| *place < end && start < *place + self.bytes)
    }
}

impl Stream {
    fn copy_all(&mut self) {
        for Copy { to, from, bytes } in self.copies.drain(..) {
            // SAFETY: the caller gives two places that do not overlap and are not freed yet.
            unsafe { ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes) };
        }
    }
}

struct Communicator {
    id: Id,
    me: c_int,
    members: c_int,
    /// Sender, destination and number of floats.
    expected: VecDeque<(c_int, usize, usize)>,
    is_leaving: bool,
}

impl Communicator {
    /// Whether all members leave, if this one does.
    fn may_leave(&self, leaving: &HashMap<Id, c_int>) -> bool {
        !self.is_leaving || leaving[&self.id] == self.members
    }
}

/// A send or receive of the current group.
struct Part {
    communicator: usize,
    peer: c_int,
    place: usize,
    floats: usize,
    stream: usize,
    goes: bool,
}

thread_local! {
    static GPU: Cell<c_int> = const { Cell::new(0) };
    static GROUP: RefCell<Vec<Part>> = const { RefCell::new(Vec::new()) };
}

fn world() -> MutexGuard<'static, World> {
    static WORLD: LazyLock<Mutex<World>> = LazyLock::new(Mutex::default);
    WORLD.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    fn allocate(&mut self, bytes: usize) -> *mut c_void {
        let mut memory = vec![0_u64; bytes.div_ceil(size_of::<u64>())].into_boxed_slice();
        let place = memory.as_mut_ptr();
        self.allocated.insert(place as usize, memory);
        place.cast()
    }

    /// Whether a communicator was queried before; at the first query it is still at work.
    fn is_done(&mut self, handle: *mut c_void) -> bool {
        mem::replace(self.seen.entry(handle as usize).or_default(), true)
    }

    /// Delivers the floats that have arrived for a communicator; tells whether all have arrived.
    fn deliver(&mut self, handle: usize) -> bool {
        let Some(communicator) = self.communicators.get_mut(&handle) else { return true };
        let may_leave = communicator.may_leave(&self.leaving);
        let Communicator { id, me, members, expected, .. } = communicator;
        if self.joined[id] < *members || !may_leave {
            return false;
        }
        while let Some((peer, place, floats)) = expected.front().copied() {
            let Some(sent) = self.mail.get_mut(&(*id, peer, *me)).and_then(VecDeque::pop_front)
            else {
                return false;
            };
            assert_eq!(sent.len(), floats, "both sides mean the same");
            // SAFETY: the receiver guarantees room for so many floats.
            unsafe { ptr::copy_nonoverlapping(sent.as_ptr(), place as *mut f32, floats) };
            expected.pop_front();
        }
        true
    }
}

/// # Safety
/// As for the CUDA function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaGetErrorString(status: c_int) -> *const c_char {
    let text = if status == LAUNCH_FAILURE {
        c"unspecified launch failure"
    } else {
        c"invalid device ordinal"
    };
    text.as_ptr()
}

/// # Safety
/// As for the CUDA function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaSetDevice(device: c_int) -> c_int {
    GPU.set(device);
    if (0..GPUS).contains(&device) { SUCCESS } else { INVALID_DEVICE }
}

/// # Safety
/// As for the CUDA function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaStreamCreateWithFlags(
    stream: *mut *mut c_void,
    _flags: c_uint,
) -> c_int {
    let mut world = world();
    let handle = world.allocate(1);
    world.streams.insert(handle as usize, Stream { gpu: GPU.get(), ..Stream::default() });
    // SAFETY: the caller's place for the stream.
    unsafe { *stream = handle };
    SUCCESS
}

/// # Safety
/// As for the CUDA function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaStreamQuery(stream: *mut c_void) -> c_int {
    let mut world = world();
    let Some(stream) = world.streams.get_mut(&(stream as usize)) else { return INVALID_USAGE };
    stream.looks += 1;
    match (stream.gpu, stream.looks, stream.copies.is_empty()) {
        (LOST, _, false) | (FAILING, 1, false) => LAUNCH_FAILURE,
        (FAILING, ..LOOKS, false) | (_, 1, _) => NOT_READY,
        _ => {
            stream.copy_all();
            SUCCESS
        }
    }
}

/// # Safety
/// As for the CUDA function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaStreamDestroy(stream: *mut c_void) -> c_int {
    let mut world = world();
    let Some(found) = world.streams.remove(&(stream as usize)) else { return INVALID_USAGE };
    world.orphans.extend(found.copies);
    drop(world);
    // SAFETY: as for this function.
    unsafe { cudaFree(stream) }
}

/// # Safety
/// As for the CUDA function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaMalloc(place: *mut *mut c_void, bytes: usize) -> c_int {
    // SAFETY: the caller's place for the address.
    unsafe { *place = world().allocate(bytes) };
    SUCCESS
}

/// # Safety
/// As for the CUDA function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaFree(place: *mut c_void) -> c_int {
    let mut world = world();
    let found = world.allocated.remove(&(place as usize));
    let memory = found.expect("freed once, and only what was allocated");
    let waiting = world.streams.values().flat_map(|stream| &stream.copies);
    let mut copies = waiting.chain(&world.orphans);
    assert!(copies.all(|copy| !copy.uses(&memory)), "freed before its last copy was done");
    SUCCESS
}

/// # Safety
/// As for the CUDA function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaHostAlloc(
    place: *mut *mut c_void,
    bytes: usize,
    _flags: c_uint,
) -> c_int {
    // SAFETY: as for this function.
    unsafe { cudaMalloc(place, bytes) }
}

/// # Safety
/// As for the CUDA function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaFreeHost(place: *mut c_void) -> c_int {
    // SAFETY: as for this function.
    unsafe { cudaFree(place) }
}

/// # Safety
/// As for the CUDA function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaMemcpyAsync(
    to: *mut c_void,
    from: *const c_void,
    bytes: usize,
    _direction: c_int,
    stream: *mut c_void,
) -> c_int {
    let mut world = world();
    let Some(stream) = world.streams.get_mut(&(stream as usize)) else { return INVALID_USAGE };
    stream.copies.push(Copy { to: to as usize, from: from as usize, bytes });
    stream.looks = 0;
    SUCCESS
}

/// # Safety
/// As for the NCCL function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetErrorString(_status: c_int) -> *const c_char {
    c"invalid usage".as_ptr()
}

/// # Safety
/// As for the NCCL function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetUniqueId(id: *mut Id) -> c_int {
    let mut world = world();
    world.last_id += 1;
    let mut bytes = [0; ID_BYTES];
    bytes[..8].copy_from_slice(&world.last_id.to_le_bytes());
    // SAFETY: the caller's place for the id.
    unsafe { *id = Id(bytes) };
    SUCCESS
}

/// # Safety
/// As for the NCCL function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitRankConfig(
    place: *mut *mut c_void,
    members: c_int,
    id: Id,
    me: c_int,
    config: *mut Config,
) -> c_int {
    // SAFETY: the caller's configuration.
    let Config { magic, blocking, .. } = unsafe { &*config };
    if *magic != CONFIG_MAGIC || *blocking != 0 || !(0..members).contains(&me) {
        return INVALID_USAGE;
    }
    let mut world = world();
    let handle = world.allocate(1);
    *world.joined.entry(id).or_default() += 1;
    let expected = VecDeque::new();
    let communicator = Communicator { id, me, members, expected, is_leaving: false };
    world.communicators.insert(handle as usize, communicator);
    // SAFETY: the caller's place for the communicator.
    unsafe { *place = handle };
    IN_PROGRESS
}

/// # Safety
/// As for the NCCL function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommGetAsyncError(handle: *mut c_void, status: *mut c_int) -> c_int {
    let mut world = world();
    let is_settled = world.is_done(handle) && world.deliver(handle as usize);
    // SAFETY: the caller's place for the status.
    unsafe { *status = if is_settled { SUCCESS } else { IN_PROGRESS } };
    SUCCESS
}

/// # Safety
/// As for the NCCL function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGroupStart() -> c_int {
    GROUP.with_borrow_mut(Vec::clear);
    SUCCESS
}

/// # Safety
/// As for the NCCL function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGroupEnd() -> c_int {
    let mut world = world();
    for Part { communicator, peer, place, floats, stream, goes } in GROUP.take() {
        world.seen.insert(communicator, false);
        // Earlier work of the stream is done first.
        world.streams.entry(stream).or_default().copy_all();
        let Some(found) = world.communicators.get_mut(&communicator) else { return INVALID_USAGE };
        if goes {
            let address = (found.id, found.me, peer);
            // SAFETY: the sender guarantees so many floats at its place.
            let sent = unsafe { slice::from_raw_parts(place as *const f32, floats) }.to_vec();
            world.mail.entry(address).or_default().push_back(sent);
        } else {
            found.expected.push_back((peer, place, floats));
        }
    }
    IN_PROGRESS
}

/// # Safety
/// As for the NCCL function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclSend(
    place: *const c_void,
    floats: usize,
    _kind: c_int,
    peer: c_int,
    communicator: *mut c_void,
    stream: *mut c_void,
) -> c_int {
    let (communicator, place, stream) = (communicator as usize, place as usize, stream as usize);
    GROUP.with_borrow_mut(|group| {
        group.push(Part { communicator, peer, place, floats, stream, goes: true });
    });
    SUCCESS
}

/// # Safety
/// As for the NCCL function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclRecv(
    place: *mut c_void,
    floats: usize,
    _kind: c_int,
    peer: c_int,
    communicator: *mut c_void,
    stream: *mut c_void,
) -> c_int {
    let (communicator, place, stream) = (communicator as usize, place as usize, stream as usize);
    GROUP.with_borrow_mut(|group| {
        group.push(Part { communicator, peer, place, floats, stream, goes: false });
    });
    SUCCESS
}

/// # Safety
/// As for the NCCL function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommFinalize(communicator: *mut c_void) -> c_int {
    let mut world = world();
    let World { communicators, leaving, seen, .. } = &mut *world;
    let Some(found) = communicators.get_mut(&(communicator as usize)) else { return INVALID_USAGE };
    assert!(found.expected.is_empty() && !found.is_leaving, "finalized once, when all is done");
    found.is_leaving = true;
    *leaving.entry(found.id).or_default() += 1;
    seen.insert(communicator as usize, false);
    IN_PROGRESS
}

/// # Safety
/// As for the NCCL function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommDestroy(communicator: *mut c_void) -> c_int {
    let mut world = world();
    let found = world.communicators.remove(&(communicator as usize)).expect("destroyed once");
    assert!(found.is_leaving && found.may_leave(&world.leaving), "destroyed after all have left");
    drop(world);
    // SAFETY: nobody uses it any more.
    unsafe { cudaFree(communicator) }
}

/// # Safety
/// As for the NCCL function of this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommAbort(communicator: *mut c_void) -> c_int {
    let found = world().communicators.remove(&(communicator as usize));
    assert!(found.is_some(), "aborted once");
    // SAFETY: nobody uses it any more.
    unsafe { cudaFree(communicator) }
}
