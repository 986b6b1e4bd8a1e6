//! A generation's segment: the leader creates it, the others open it, and all members check it.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

use collective::{Hosts, Plan};
use rustix::fs::{Mode, OFlags};
use thiserror::Error;

use super::{
    Rendezvous, Shm,
    barrier::Barrier,
    layout::{Layout, Results, STATES},
    memory,
    process::Process,
    takeover::{Kept, Origin},
};
use crate::{Group, GroupError};

/// The first word of a segment: "lockstep".
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"lockstep");

/// The version of the layout that this build uses.
pub(super) const VERSION: u64 = 2;

/// Most bytes of a run's id.
const RUN_ID_BYTES_MAX: usize = 128;

/// Why there is no segment.
#[derive(Debug, Error)]
pub enum SegmentError {
    /// The group cannot be a generation.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// Only the member with the lowest rank of its host creates a segment.
    #[error("rank {0} is not the first of its host")]
    NotTheFirst(collective::Rank),
    /// Some members cannot share the memory.
    #[error("the generation has members on {0} hosts")]
    SeveralHosts(usize),
    /// The run's id is too long.
    #[error("a run's id has at most {RUN_ID_BYTES_MAX} bytes, this one {0}")]
    RunId(usize),
    /// The memory cannot be reserved.
    #[error("cannot create {bytes} bytes of shared memory: {source}")]
    Create {
        /// The size of the segment.
        bytes: usize,
        /// The error of the system.
        source: io::Error,
    },
    /// The leader's segment cannot be opened: it is gone, or belongs to another user or host.
    #[error("cannot open the leader's segment {path}: {source}")]
    Open {
        /// The path through the leader's process.
        path: String,
        /// The error of the system.
        source: io::Error,
    },
    /// The opened file is not the segment of this generation.
    #[error("{path} is not this generation's segment: {reason}")]
    Foreign {
        /// The path through the leader's process.
        path: String,
        /// The difference.
        reason: String,
    },
    /// Another process has this rank's slot.
    #[error("rank {0} has opened the segment before")]
    Taken(collective::Rank),
}

/// The segment of a host's members in a generation, mapped by one of them. When it is dropped, the
/// others see that this member has left.
#[derive(Debug)]
pub struct Segment {
    pub(super) hosts: Hosts,
    /// The plan of this host's members among themselves.
    pub(super) plan: Plan,
    /// This member's index in it.
    pub(super) me: usize,
    pub(super) layout: Layout,
    pub(super) vectors: memory::Vectors,
    /// The members' state, if they share one.
    pub(super) states: Option<[Arc<Kept>; STATES]>,
    pub(super) barrier: Barrier,
    /// The leader's file, which the others open.
    pub(super) file: Option<Arc<OwnedFd>>,
}

impl Segment {
    /// Creates the segment of the members of `group` on this host. The caller is the first of them.
    /// The others can open the segment until the first round is over.
    ///
    /// # Errors
    /// [`SegmentError`] when this member is not the first, or there is not enough memory.
    pub fn create(group: &Group) -> Result<(Self, Rendezvous), SegmentError> {
        let (hosts, plan, me) = among_neighbours(group)?;
        if me != 0 {
            return Err(SegmentError::NotTheFirst(group.rank));
        }
        let mut nonce = [0; 16];
        let random = rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty());
        let nonce = u128::from_ne_bytes(nonce);
        let identity = identity(group, &plan, nonce);
        let layout = Layout::new(&plan, identity.len(), results(group, &hosts, &plan));
        let failed = |source| SegmentError::Create { bytes: layout.bytes, source };
        random.map_err(|error| failed(error.into()))?;
        let name = format!("lockstep-{}-{}", group.run_id, group.generation);
        let file = memory::create_file(&name, layout.bytes).map_err(failed)?;
        let descriptor = u32::try_from(file.as_raw_fd()).unwrap_or_default();
        let process = Process::this().map_err(failed)?;
        let own = own_partials(&plan, me);
        let mapped = memory::map(&file, &layout, own).map_err(failed)?;
        let memory::Mapped { memory: words, vectors, states } = mapped;
        let file = Arc::new(file);
        let states =
            Kept::both(states, &Origin::new(&file, process, nonce, plan.members()), &layout);
        // The magic number is written last: a segment that has it is complete.
        for (word, value) in words.words().iter().zip(&identity).rev() {
            word.store(*value, Release);
        }
        let barrier = Barrier::take_slot(&words, &layout, me, plan.members(), process)
            .ok_or(SegmentError::Taken(group.rank))?;
        let rendezvous = Rendezvous { pid: process.pid, descriptor, nonce };
        let file = Some(file);
        Ok((Self { hosts, plan, me, layout, vectors, states, barrier, file }, rendezvous))
    }

    /// Opens the segment that the first member of this host has created for `group`.
    ///
    /// # Errors
    /// [`SegmentError`] when it cannot be reached, or is not the segment of this generation.
    pub fn open(group: &Group, rendezvous: &Rendezvous) -> Result<Self, SegmentError> {
        let (hosts, plan, me) = among_neighbours(group)?;
        let identity = identity(group, &plan, rendezvous.nonce);
        let layout = Layout::new(&plan, identity.len(), results(group, &hosts, &plan));
        let path = format!("/proc/{}/fd/{}", rendezvous.pid, rendezvous.descriptor);
        let unreachable = |source| SegmentError::Open { path: path.clone(), source };
        let foreign = |reason| SegmentError::Foreign { path: path.clone(), reason };
        let file = open_file(&path, true).map_err(unreachable)?;
        check_file(&file, &layout).map_err(unreachable)?.map_err(foreign)?;
        let process = Process::this().map_err(unreachable)?;
        let own = own_partials(&plan, me);
        let mapped = memory::map(&file, &layout, own).map_err(unreachable)?;
        let memory::Mapped { memory: words, vectors, states } = mapped;
        let origin = Origin::new(&Arc::new(file.into()), process, rendezvous.nonce, plan.members());
        let states = Kept::both(states, &origin, &layout);
        check_identity(words.words(), &identity).map_err(foreign)?;
        let barrier = Barrier::take_slot(&words, &layout, me, plan.members(), process)
            .ok_or(SegmentError::Taken(group.rank))?;
        Ok(Self { hosts, plan, me, layout, vectors, states, barrier, file: None })
    }

    /// The all-reduce over this segment, for the training thread. The first round waits some seconds
    /// for members that have not opened the segment yet.
    ///
    /// # Errors
    /// [`SegmentError::SeveralHosts`] when not all members are on this host.
    pub fn into_all_reduce(self) -> Result<Shm, SegmentError> {
        match self.hosts.count() {
            1 => Ok(Shm::new(self)),
            hosts => Err(SegmentError::SeveralHosts(hosts)),
        }
    }

    /// This host's part of an all-reduce between hosts.
    pub(crate) fn into_level(self) -> Shm {
        Shm::new(self)
    }
}

/// The results that this host's members compute. They share their state only if there are several.
fn results(group: &Group, hosts: &Hosts, plan: &Plan) -> Results {
    match (group.shares_state && plan.members() > 1, hosts.count()) {
        (false, _) => Results::Sum,
        (true, 1) => Results::States,
        (true, _) => Results::SumAndStates,
    }
}

/// All hosts, the plan of this host's members, and this member's index in the plan.
fn among_neighbours(group: &Group) -> Result<(Hosts, Plan, usize), SegmentError> {
    if group.run_id.len() > RUN_ID_BYTES_MAX {
        return Err(SegmentError::RunId(group.run_id.len()));
    }
    let (hosts, member) = group.hosts()?;
    let plan = hosts.plan_within(hosts.host(member));
    let me = plan.member(group.rank).ok_or(GroupError::NotAMember(group.rank))?;
    Ok((hosts, plan, me))
}

/// The partials of `member` among all, which are in shard order.
fn own_partials(plan: &Plan, member: usize) -> std::ops::Range<usize> {
    let start = (0..member).map(|before| plan.nodes(before).len()).sum();
    start..start + plan.nodes(member).len()
}

/// Opens another process's descriptor, to write to it only if `writes`.
pub(super) fn open_file(path: &str, writes: bool) -> io::Result<File> {
    // The descriptor may belong to another file by now. With these flags, opening it does no harm.
    let harmless = OFlags::NONBLOCK | OFlags::NOCTTY;
    OpenOptions::new().read(true).write(writes).custom_flags(harmless.bits() as i32).open(path)
}

/// Checks that the file belongs to this user, and is as long as the layout says.
fn check_file(file: &File, layout: &Layout) -> io::Result<Result<(), String>> {
    let (found, expected) = (file.metadata()?.len(), layout.bytes);
    Ok(check_owner(file)?.and_then(|()| {
        let is_whole = usize::try_from(found) == Ok(expected);
        is_whole.then_some(()).ok_or_else(|| format!("it has {found} bytes instead of {expected}"))
    }))
}

/// Checks that the file belongs to this user, that only this user may access it, and that its size is
/// sealed.
pub(super) fn check_owner(file: &File) -> io::Result<Result<(), String>> {
    if !memory::is_sealed(file) {
        return Ok(Err("its size is not sealed".into()));
    }
    let stat = rustix::fs::fstat(file)?;
    let mode = Mode::from_raw_mode(stat.st_mode);
    let user = rustix::process::geteuid().as_raw();
    Ok(if stat.st_uid != user || mode != Mode::RUSR | Mode::WUSR {
        Err(format!("it belongs to user {} with mode {:o}", stat.st_uid, mode.as_raw_mode()))
    } else {
        Ok(())
    })
}

/// The words that distinguish one generation's segment from any other.
fn identity(group: &Group, plan: &Plan, nonce: u128) -> Vec<u64> {
    let mut run_id = group.run_id.as_bytes().to_vec();
    run_id.resize(RUN_ID_BYTES_MAX, 0);
    let (run_words, _) = run_id.as_chunks();
    let shares = (0..plan.members()).flat_map(|member| {
        let shards = plan.shards(member);
        let shards = u64::from(shards.start) << 32 | u64::from(shards.end);
        [plan.rank(member).0.into(), shards]
    });
    [MAGIC, VERSION, nonce as u64, (nonce >> 64) as u64]
        .into_iter()
        .chain([group.run_id.len() as u64])
        .chain(run_words.iter().map(|bytes| u64::from_le_bytes(*bytes)))
        .chain([group.generation.0])
        .chain([group.shards.into(), group.length as u64, plan.members() as u64])
        .chain([group.shares_state.into()])
        .chain(shares)
        .collect()
}

fn check_identity(words: &[AtomicU64], identity: &[u64]) -> Result<(), String> {
    const RUN: usize = 4;
    const GENERATION: usize = RUN + 1 + RUN_ID_BYTES_MAX / size_of::<u64>();
    let differs = |(word, expected): (&AtomicU64, &u64)| word.load(Acquire) != *expected;
    let Some(index) = words.iter().zip(identity).position(differs) else { return Ok(()) };
    let found = words[index].load(Relaxed);
    Err(match index {
        0 => "it has no magic number".to_owned(),
        1 => format!("it has version {found}, this build speaks {VERSION}"),
        2..RUN => "it has another nonce".to_owned(),
        RUN..GENERATION => "it belongs to another run".to_owned(),
        GENERATION => format!("it is that of generation {found}"),
        _ => "it has another plan".to_owned(),
    })
}

#[cfg(test)]
mod tests;
