//! NCCL's communicator of one generation: its sends and receives, and the waits for them, each of which an
//! abort ends. The members of a generation that ends well destroy the communicator together; a member that
//! has lost another one, or has failed, aborts it.

#![allow(unsafe_code, reason = "calls NCCL")]

use std::{
    ffi::{c_int, c_void},
    fmt, mem, ptr,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use collective::DeviceQueue;

use super::library::{
    Collectives, Config, FLOAT, ID_BYTES, IN_PROGRESS, Id, Libraries, NcclError, SUCCESS,
};

/// How long the members may take to come together.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the members may take to leave together. One of them may still wait for its disk.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long NCCL may take to free a communicator, once all members have left.
const DESTROY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a GPU may take to finish what it was given: a step, and copies of some megabytes.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a condition is checked without a pause; then other threads may run between two checks.
const SPINS: u32 = 100;

/// The name of a generation's communicator, by which its members find each other. One of them makes the
/// name, which travels as text, two hexadecimal digits a byte.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct UniqueId([u8; ID_BYTES]);

/// Text that is no [`UniqueId`].
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("that is not NCCL's unique id")]
pub struct ParseUniqueIdError;

impl UniqueId {
    /// A new name. From now on this process answers members that use it.
    ///
    /// # Errors
    /// What NCCL says, as when it finds no network interface.
    pub fn new(libraries: Libraries) -> Result<Self, NcclError> {
        let mut id = Id([0; ID_BYTES]);
        // SAFETY: `id` has room for an id.
        let status = unsafe { (libraries.nccl.unique_id)(&raw mut id) };
        libraries.nccl.check("ncclGetUniqueId", status)?;
        Ok(Self(id.0))
    }
}

impl fmt::Display for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UniqueId").finish_non_exhaustive()
    }
}

impl FromStr for UniqueId {
    type Err = ParseUniqueIdError;

    fn from_str(text: &str) -> Result<Self, ParseUniqueIdError> {
        let mut id = [0; ID_BYTES];
        if text.len() != 2 * ID_BYTES || !text.is_ascii() {
            return Err(ParseUniqueIdError);
        }
        for (byte, index) in id.iter_mut().zip((0..text.len()).step_by(2)) {
            let digits = &text[index..index + 2];
            *byte = u8::from_str_radix(digits, 16).map_err(|_| ParseUniqueIdError)?;
        }
        Ok(Self(id))
    }
}

/// Floats in the GPU's memory that pass between this member and another one. Whoever makes a transfer checks
/// that the memory has so many floats there.
pub(super) struct Transfer {
    pub(super) member: usize,
    pub(super) address: usize,
    pub(super) floats: usize,
    /// Whether the floats go to the other member; otherwise they come from it.
    pub(super) goes: bool,
}

/// The members' connection between their GPUs.
pub(super) struct Communicator {
    comm: *mut c_void,
    nccl: Collectives,
    queue: Arc<dyn DeviceQueue>,
}

// SAFETY: a communicator may be used from any thread, one at a time.
unsafe impl Send for Communicator {}

impl Communicator {
    /// Waits, within a bound, for all members. Later transfers go through the queue.
    pub(super) fn join(
        nccl: Collectives,
        queue: Arc<dyn DeviceQueue>,
        id: &UniqueId,
        members: usize,
        me: usize,
        aborted: &AtomicBool,
    ) -> Result<Self, NcclError> {
        queue.enter().map_err(NcclError::Gpu)?;
        let mut communicator = Self { comm: ptr::null_mut(), nccl, queue };
        let (members, me) = (members as c_int, me as c_int);
        let mut config = Config::NON_BLOCKING;
        let (comm, id) = (&raw mut communicator.comm, Id(id.0));
        // SAFETY: `communicator.comm` has room for the communicator, and `config` is a configuration.
        let status = unsafe { (nccl.join)(comm, members, id, me, &raw mut config) };
        nccl.check("ncclCommInitRankConfig", status)?;
        let absent = || NcclError::Absent { seconds: JOIN_TIMEOUT.as_secs() };
        communicator.settle_within(JOIN_TIMEOUT, aborted, absent)?;
        Ok(communicator)
    }

    /// Begins all of these transfers together, behind the work that is in the queue. Nothing may be put into
    /// the queue until [`Communicator::settle`] has returned.
    pub(super) fn begin(&self, transfers: &[Transfer]) -> Result<(), NcclError> {
        let nccl = self.nccl;
        // SAFETY: takes nothing.
        nccl.check("ncclGroupStart", unsafe { (nccl.group_start)() })?;
        let queued = transfers.iter().try_for_each(|transfer| self.queue(transfer));
        // SAFETY: takes nothing.
        let ended = nccl.check("ncclGroupEnd", unsafe { (nccl.group_end)() });
        queued.and(ended)
    }

    fn queue(&self, transfer: &Transfer) -> Result<(), NcclError> {
        let Transfer { member, address, floats, goes } = *transfer;
        if floats == 0 {
            return Ok(());
        }
        let (place, queue) = (address as *mut c_void, self.queue.handle() as *mut c_void);
        let peer = member as c_int;
        // SAFETY: the memory has that many floats there, and is freed only once this value is closed.
        let (call, status) = unsafe {
            let Collectives { send, receive, .. } = self.nccl;
            if goes {
                ("ncclSend", send(place, floats, FLOAT, peer, self.comm, queue))
            } else {
                ("ncclRecv", receive(place, floats, FLOAT, peer, self.comm, queue))
            }
        };
        self.nccl.check(call, status)
    }

    /// Waits until all transfers that were begun are in the queue.
    pub(super) fn settle(&self, aborted: &AtomicBool) -> Result<(), NcclError> {
        self.poll(aborted, Self::is_settled)
    }

    /// The same with a time limit. After the limit, `late` makes the error.
    fn settle_within(
        &self,
        bound: Duration,
        aborted: &AtomicBool,
        late: impl Fn() -> NcclError,
    ) -> Result<(), NcclError> {
        let deadline = Instant::now() + bound;
        self.poll(aborted, |communicator| {
            if Instant::now() > deadline { Err(late()) } else { communicator.is_settled() }
        })
    }

    /// Waits until all work in the queue is done.
    pub(super) fn finish(&self, aborted: &AtomicBool) -> Result<(), NcclError> {
        self.poll(aborted, |communicator| {
            Ok(communicator.is_settled()?
                && communicator.queue.is_idle().map_err(NcclError::Gpu)?)
        })
    }

    /// Waits until a condition holds, or an error or an abort says that it never will. The coordinator aborts
    /// a generation in which a member hangs.
    fn poll(
        &self,
        aborted: &AtomicBool,
        holds: impl Fn(&Self) -> Result<bool, NcclError>,
    ) -> Result<(), NcclError> {
        let mut checks = 0;
        while !holds(self)? {
            if aborted.load(Ordering::Relaxed) {
                return Err(NcclError::Aborted);
            }
            checks += 1;
            if checks < SPINS { std::hint::spin_loop() } else { thread::yield_now() }
        }
        Ok(())
    }

    /// Whether NCCL has put all that it was asked for into the queue.
    fn is_settled(&self) -> Result<bool, NcclError> {
        let mut status = SUCCESS;
        // SAFETY: the communicator is there for as long as this value.
        let asked = unsafe { (self.nccl.status)(self.comm, &raw mut status) };
        self.nccl.check("ncclCommGetAsyncError", asked)?;
        self.nccl.check("NCCL", status)?;
        Ok(status != IN_PROGRESS)
    }
}

impl Communicator {
    /// Leaves together with the other members, after their last round. If one of them does not leave, this
    /// member aborts the communicator. The result means the same as that of [`Communicator::close`].
    pub(super) fn leave(mut self, aborted: &AtomicBool) -> bool {
        if let Err(error) = self.finalize(aborted).and_then(|()| self.destroy()) {
            tracing::debug!("the communicator of NCCL is not destroyed: {error}");
        }
        self.close()
    }

    /// Waits, within a bound, until all members have left.
    fn finalize(&self, aborted: &AtomicBool) -> Result<(), NcclError> {
        self.queue.enter().map_err(NcclError::Gpu)?;
        // SAFETY: the communicator is there for as long as this value.
        let status = unsafe { (self.nccl.finalize)(self.comm) };
        self.nccl.check("ncclCommFinalize", status)?;
        let late = || NcclError::NotLeft { seconds: LEAVE_TIMEOUT.as_secs() };
        self.settle_within(LEAVE_TIMEOUT, aborted, late)
    }

    /// Frees a finalized communicator. NCCL's call may wait for the other members of this host, and nothing
    /// can interrupt the call. So another thread makes the call, and this thread waits for it within a bound.
    fn destroy(&mut self) -> Result<(), NcclError> {
        let (nccl, comm) = (self.nccl, mem::replace(&mut self.comm, ptr::null_mut()) as usize);
        let (sender, answer) = mpsc::channel();
        let destroying = thread::Builder::new().name("nccl-destroy".into()).spawn(move || {
            // SAFETY: nobody else has the communicator any more.
            let status = unsafe { (nccl.destroy)(comm as *mut c_void) };
            // The receiver may have given up.
            let _unheard = sender.send(status);
        });
        let status = destroying.ok().and_then(|_| answer.recv_timeout(DESTROY_TIMEOUT).ok());
        let late = NcclError::NotLeft { seconds: DESTROY_TIMEOUT.as_secs() };
        self.nccl.check("ncclCommDestroy", status.ok_or(late)?)
    }

    /// Ends what is under way, unless the communicator was destroyed before. Tells whether it is certain
    /// that the GPU no longer uses the memory that it was given.
    pub(super) fn close(mut self) -> bool {
        self.abort();
        self.is_at_rest()
    }

    /// Waits, within a bound, until all that was begun is done. Says whether it is certain: if not,
    /// the GPU may still read and write the memory that it was given.
    fn is_at_rest(&self) -> bool {
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        loop {
            match self.queue.is_idle() {
                Ok(true) => return true,
                Ok(false) if Instant::now() < deadline => thread::yield_now(),
                Ok(false) | Err(_) => return false,
            }
        }
    }

    fn abort(&mut self) {
        let comm = mem::replace(&mut self.comm, ptr::null_mut());
        if !comm.is_null() {
            // SAFETY: nobody else uses the communicator. What NCCL does ends with it; copies that
            // were begun do not.
            let _error = unsafe { (self.nccl.abort)(comm) };
        }
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        self.abort();
    }
}
