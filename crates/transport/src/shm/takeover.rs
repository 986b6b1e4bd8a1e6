//! Copies the state of a segment in a process of the same host that is not a member: a worker that is
//! about to join, or a worker that is behind after its generation broke.
//!
//! A member gives the file and the buffer of its state ([`StatePlace`]). The other process opens the file
//! for reading, copies the buffer, and then checks that the buffer still had this state. As argued in
//! [`super`], the buffer of step `t` is written to only after all members have arrived at `A(t + 1)`.
//! A member that has the state of `t` after `n` arrivals reaches `A(t + 1)` with its third further
//! arrival, or later if evaluations or other hosts' sums come between. So *the copy is complete if,
//! after copying, some member has arrived fewer than `n + 3` times*. No member waits for the copy or
//! knows of it.
//!
//! A member may write to the buffer while it is copied. So the copy reads the file, not a mapping.

use std::{
    fmt,
    fs::File,
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use collective::{STATE_VECTORS, StateVectors};
use thiserror::Error;
use zerocopy::IntoBytes as _;

use super::{
    barrier::ARRIVALS,
    layout::{Layout, STATES},
    memory::{Buffer, Watched},
    process::Process,
    segment::{self, MAGIC, VERSION},
};

/// The number of arrivals after which the buffer of a state may be written to, counted from the
/// arrival after which a member has the state.
const ARRIVALS_KEPT: u64 = 3;

/// Most bytes of a place as text.
const PLACE_BYTES_MAX: usize = 256;

/// A bound of the members of a host.
const MEMBERS_MAX: u64 = 1 << 20;

const PREFIX: &str = "lockstep-state/1";

/// The file of a segment, as one member has it open.
#[derive(Debug)]
pub(super) struct Origin {
    file: Arc<OwnedFd>,
    process: Process,
    nonce: u128,
    members: usize,
}

impl Origin {
    pub(super) fn new(
        file: &Arc<OwnedFd>,
        process: Process,
        nonce: u128,
        members: usize,
    ) -> Arc<Self> {
        Arc::new(Self { file: Arc::clone(file), process, nonce, members })
    }
}

/// A buffer, and the place where other processes find it.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) buffer: Buffer,
    origin: Arc<Origin>,
    /// Bytes before the first vector, and bytes from one vector's beginning to the next.
    at: u64,
    stride: u64,
    /// The first word of the members' slots, and the number of words of a slot.
    slots: u64,
    slot_words: u64,
    /// The state is kept until all members have arrived so many times.
    until: AtomicU64,
}

impl Kept {
    /// Both buffers of a layout, with their places.
    pub(super) fn both(
        buffers: Option<[Buffer; STATES]>,
        origin: &Arc<Origin>,
        layout: &Layout,
    ) -> Option<[Arc<Self>; STATES]> {
        let places = layout.states()?;
        let stride = (layout.stride * size_of::<f32>()) as u64;
        let slots = layout.slot(0);
        let mut places = places.into_iter();
        Some(buffers?.map(|buffer| {
            let vector = places.next().unwrap_or_default() as u64;
            Arc::new(Self {
                buffer,
                origin: Arc::clone(origin),
                at: layout.vectors_at as u64 + vector * stride,
                stride,
                slots: slots.start as u64,
                slot_words: slots.len() as u64,
                until: AtomicU64::new(0),
            })
        }))
    }

    /// Notes the number of arrivals after which this member has this state.
    pub(super) fn note_arrivals(&self, arrivals: u64) {
        self.until.store(arrivals + ARRIVALS_KEPT, Relaxed);
    }
}

impl StateVectors for Kept {
    fn vectors(&self) -> [&[f32]; STATE_VECTORS] {
        self.buffer.vectors()
    }

    fn place(&self) -> Option<String> {
        let Self { origin, at, stride, slots, slot_words, until, .. } = self;
        let place = StatePlace {
            pid: origin.process.pid,
            descriptor: u32::try_from(origin.file.as_raw_fd()).ok()?,
            nonce: origin.nonce,
            at: *at,
            stride: *stride,
            slots: *slots,
            slot_words: *slot_words,
            members: origin.members as u64,
            until: until.load(Relaxed),
        };
        Some(place.to_string())
    }
}

/// The place of a member's state, for other processes of its host. It is sent as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatePlace {
    pid: u32,
    descriptor: u32,
    nonce: u128,
    at: u64,
    stride: u64,
    slots: u64,
    slot_words: u64,
    members: u64,
    until: u64,
}

impl fmt::Display for StatePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, descriptor, nonce, at, stride, slots, slot_words, members, until } = self;
        write!(f, "{PREFIX} {pid} {descriptor} {nonce:032x} {at} {stride} {slots} {slot_words} ")?;
        write!(f, "{members} {until}")
    }
}

/// A text that is not the place of a state.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("not the place of a state in shared memory")]
pub struct ParseStatePlaceError;

impl FromStr for StatePlace {
    type Err = ParseStatePlaceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut words = (text.len() <= PLACE_BYTES_MAX).then(|| text.split(' '))?;
            let is_known = words.next() == Some(PREFIX);
            let pid = words.next()?.parse().ok()?;
            let descriptor = words.next()?.parse().ok()?;
            let nonce = words.next().filter(|digits| digits.len() == 32)?;
            let nonce = u128::from_str_radix(nonce, 16).ok()?;
            let mut number = || words.next()?.parse::<u64>().ok();
            let [at, stride] = [number()?, number()?];
            let [slots, slot_words] = [number()?, number()?];
            let members = number()?.min(MEMBERS_MAX);
            let until = number()?;
            (is_known && words.next().is_none()).then_some(Self {
                pid,
                descriptor,
                nonce,
                at,
                stride,
                slots,
                slot_words,
                members,
                until,
            })
        };
        parse().ok_or(ParseStatePlaceError)
    }
}

/// Why a state cannot be taken over from its place.
#[derive(Debug, Error)]
pub enum TakeoverError {
    /// The file cannot be read: the member is gone, or belongs to another user.
    #[error("cannot read the state at {path}: {source}")]
    Read {
        /// The path through the member's process.
        path: String,
        /// The error of the system.
        source: io::Error,
    },
    /// The opened file is not the segment.
    #[error("{path} is not the segment of the state: {reason}")]
    Foreign {
        /// The path through the member's process.
        path: String,
        /// The difference.
        reason: String,
    },
}

/// The opened state of another process.
#[derive(Debug)]
pub struct Takeover {
    place: StatePlace,
    path: String,
    file: File,
    words: Watched,
}

impl Takeover {
    /// Opens the state at this place.
    ///
    /// # Errors
    /// [`TakeoverError`] when the file cannot be read, or is not the segment.
    pub fn open(place: StatePlace) -> Result<Self, TakeoverError> {
        let path = format!("/proc/{}/fd/{}", place.pid, place.descriptor);
        let unreachable = |source| TakeoverError::Read { path: path.clone(), source };
        let foreign = |reason: String| TakeoverError::Foreign { path: path.clone(), reason };
        let file = segment::open_file(&path, false).map_err(unreachable)?;
        segment::check_owner(&file).map_err(unreachable)?.map_err(foreign)?;
        let words = place.slot_words.checked_mul(place.members);
        let words = words.and_then(|words| words.checked_add(place.slots));
        let words = words.filter(|words| *words <= u64::from(u32::MAX));
        let words = words.ok_or_else(|| foreign("it cannot have so many slots".into()))?;
        let words = Watched::map(&file, words as usize).map_err(unreachable)?;
        let identity = [MAGIC, VERSION, place.nonce as u64, (place.nonce >> 64) as u64];
        let is_own = place.slots >= identity.len() as u64
            && (0..).zip(identity).all(|(word, expected)| words.load(word) == expected);
        if !is_own {
            return Err(foreign("it belongs to another generation".into()));
        }
        Ok(Self { place, path, file, words })
    }

    /// Copies the state into `vectors`, which have its length already.
    ///
    /// # Errors
    /// [`TakeoverError::Read`].
    pub fn copy(&self, vectors: &mut [Vec<f32>; STATE_VECTORS]) -> Result<(), TakeoverError> {
        for (vector, index) in vectors.iter_mut().zip(0..) {
            let start = self.place.stride.saturating_mul(index).saturating_add(self.place.at);
            let read = self.file.read_exact_at(vector.as_mut_bytes(), start);
            read.map_err(|source| TakeoverError::Read { path: self.path.clone(), source })?;
            crashpoint::reach!("transfer.copying");
        }
        Ok(())
    }

    /// Whether the state was still at its place when this was called.
    #[must_use]
    pub fn is_there(&self) -> bool {
        let StatePlace { slots, slot_words, members, until, .. } = self.place;
        let arrivals = |member| self.words.load((slots + member * slot_words) as usize + ARRIVALS);
        (0..members).any(|member| arrivals(member) < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let most = u64::from(u32::MAX);
        let place = StatePlace {
            pid: u32::MAX,
            descriptor: u32::MAX,
            nonce: 77,
            at: u64::MAX,
            stride: u64::MAX,
            slots: most,
            slot_words: most,
            members: MEMBERS_MAX,
            until: u64::MAX,
        };
        let text = place.to_string();
        assert!(text.len() <= PLACE_BYTES_MAX, "{}", text.len());
        assert_eq!(text.parse(), Ok(place.clone()));
        for wrong in ["", "lockstep-state/1 1 2", &text[..text.len() - 21], &format!("{text} 9")] {
            assert_eq!(wrong.parse::<StatePlace>(), Err(ParseStatePlaceError), "{wrong}");
        }
        let [tail, path] = [text.split_once(' ').unwrap().1, "../1"];
        let elsewhere = format!("{PREFIX} {}", tail.replacen(&u32::MAX.to_string(), path, 1));
        assert_eq!(elsewhere.parse::<StatePlace>(), Err(ParseStatePlaceError));
    }

    #[test]
    fn a_file_that_is_no_segment_is_refused() {
        let file = File::open("/proc/self/exe").unwrap();
        let place = StatePlace {
            pid: std::process::id(),
            descriptor: u32::try_from(file.as_raw_fd()).unwrap(),
            nonce: 7,
            at: 0,
            stride: 64,
            slots: 16,
            slot_words: 16,
            members: 2,
            until: 3,
        };
        let error = Takeover::open(place.clone()).unwrap_err().to_string();
        assert!(error.contains("sealed"), "{error}");
        let nowhere = StatePlace { descriptor: u32::MAX, ..place };
        let error = Takeover::open(nowhere).unwrap_err().to_string();
        assert!(error.starts_with("cannot read the state at /proc/"), "{error}");
    }
}
