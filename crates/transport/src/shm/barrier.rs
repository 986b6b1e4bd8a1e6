//! Waits until every member has reached the same point, or until it is known that one never will.
//!
//! Each member counts its arrivals in its own word. A waiting member reads the others' counts for a
//! few turns, and then sleeps on the gate. The last member to arrive sees all counts and opens the
//! gate. This file does not know vectors and headers; [`super`] argues why the counts order the
//! accesses to them.

use std::{
    hint,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::thread::futex;

use super::{layout::Layout, memory::Memory, process::Process};

/// Turns in which a waiting member reads the others' counts before it yields. With more members than
/// cores, every turn takes time from a member with work: 4 KB among 4 members on 2 cores take 6 us
/// with 20 turns, and 15 us with 150 turns.
const SPINS: u32 = 20;

/// Times that a waiting member yields before it sleeps. With too few cores, the scheduler then runs
/// the awaited members, at a tenth of the cost of a sleep and a wake (60 us for the same 4 KB). With
/// enough cores, the member polls for about 20 us, which avoids the wake of an idle core (70 us).
const YIELDS: u32 = 50;

/// The longest sleep before the member checks that the awaited processes live. It is short compared
/// with the time in which a coordinator notices a loss, and long compared with a check (10 us a member).
const CHECK_EVERY: Duration = Duration::from_millis(50);

/// How long a member may take to map the segment while another member waits for it.
const ATTENDANCE_TIMEOUT: Duration =
    if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(10) };

/// The indices of a slot's words.
pub(super) const ARRIVALS: usize = 0;
const STATE: usize = 1;
const PID: usize = 2;
const STARTED: usize = 3;

/// The states of a slot. Zero, the initial value, means that no member has come.
const CLAIMED: u64 = 1;
const PRESENT: u64 = 2;
const LEFT: u64 = 3;

/// Why a generation has ended. The first cause counts for all members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The generation was ended from outside.
    Aborted,
    /// The member's process is gone.
    Died(usize),
    /// The member has unmapped the segment.
    Left(usize),
    /// The member never mapped the segment.
    Absent(usize),
    /// The member wrote a value that no correct member writes.
    Broke(usize),
}

impl Cause {
    fn to_word(self) -> u64 {
        let (kind, member) = match self {
            Self::Aborted => (1, 0),
            Self::Died(member) => (2, member),
            Self::Left(member) => (3, member),
            Self::Absent(member) => (4, member),
            Self::Broke(member) => (5, member),
        };
        kind << 32 | member as u64
    }

    /// The cause in `word`, for the member `me`; none while the word is zero.
    fn from_word(word: u64, me: usize, members: usize) -> Option<Self> {
        let member = (word & u64::from(u32::MAX)) as usize;
        let cause = match word >> 32 {
            0 if word == 0 => return None,
            2 => Self::Died(member),
            3 => Self::Left(member),
            4 => Self::Absent(member),
            5 => Self::Broke(member),
            _ => Self::Aborted,
        };
        // A member that the others declared dead gets `Aborted`; so does every member if the index in
        // the word is that of no member.
        Some(if member == me || member >= members { Self::Aborted } else { cause })
    }
}

/// Wakes the sleepers of a segment.
#[derive(Clone, Debug)]
pub(super) struct Bell {
    memory: Arc<Memory>,
    sleepers: usize,
    cause: usize,
}

impl Bell {
    pub(super) fn new(memory: &Arc<Memory>, layout: &Layout) -> Self {
        Self { memory: memory.clone(), sleepers: layout.sleepers, cause: layout.cause }
    }

    fn sleepers(&self) -> &AtomicU64 {
        &self.memory.words()[self.sleepers]
    }

    /// Wakes all sleeping members.
    fn ring(&self) {
        if self.sleepers().load(SeqCst) > 0 {
            self.memory.gate().fetch_add(1, SeqCst);
            // This cannot fail for a mapped word; besides, a sleeper wakes after its timeout.
            let _woken = futex::wake(self.memory.gate(), futex::Flags::empty(), i32::MAX as u32);
        }
    }

    /// Ends the generation for all members, unless it has ended already.
    pub(super) fn end(&self, cause: Cause) {
        let word = &self.memory.words()[self.cause];
        // If there is a cause already, that one stays.
        let _ended = word.compare_exchange(0, cause.to_word(), SeqCst, SeqCst);
        self.ring();
    }
}

/// The proof that every member has contributed to the current round. The barrier that ends the round
/// takes it back.
#[derive(Debug)]
pub(crate) struct Contributed(());

/// The proof that every member has written its part of the sum of the current round. The barrier that
/// ends the round takes it back.
#[derive(Debug)]
pub(crate) struct Summed(Contributed);

impl Summed {
    /// The proof that all members have contributed.
    pub(super) fn contributed(&self) -> &Contributed {
        &self.0
    }
}

/// The proof that the members' state was not brought in yet. The barrier after bringing it in takes it
/// back.
#[derive(Debug)]
pub(super) struct Unfilled(());

impl Unfilled {
    /// The proof for a segment that was just mapped.
    pub(super) const fn new() -> Self {
        Self(())
    }
}

/// A member's place at the barrier. When it is dropped, the others see that the member has left.
#[derive(Debug)]
pub(super) struct Barrier {
    bell: Bell,
    layout: Layout,
    me: usize,
    members: usize,
    /// Arrivals of this member.
    arrivals: u64,
}

impl Barrier {
    /// Takes the slot of the member `me`; none if another process has taken it.
    pub(super) fn take_slot(
        memory: &Arc<Memory>,
        layout: &Layout,
        me: usize,
        members: usize,
        process: Process,
    ) -> Option<Self> {
        let slot = &memory.words()[layout.slot(me)];
        slot[STATE].compare_exchange(0, CLAIMED, SeqCst, SeqCst).ok()?;
        slot[PID].store(process.pid.into(), SeqCst);
        slot[STARTED].store(process.started, SeqCst);
        slot[STATE].store(PRESENT, SeqCst);
        let (bell, layout) = (Bell::new(memory, layout), layout.clone());
        Some(Self { bell, layout, me, members, arrivals: 0 })
    }

    /// How often this member has arrived.
    pub(super) fn arrivals(&self) -> u64 {
        self.arrivals
    }

    pub(super) fn bell(&self) -> &Bell {
        &self.bell
    }

    fn slot(&self, member: usize) -> &[AtomicU64] {
        &self.bell.memory.words()[self.layout.slot(member)]
    }

    /// Why the generation has ended, if it has.
    pub(super) fn cause(&self) -> Option<Cause> {
        let word = self.bell.memory.words()[self.bell.cause].load(SeqCst);
        Cause::from_word(word, self.me, self.members)
    }

    /// Waits until all members have written their segments of the state.
    pub(super) fn pass_filled(&mut self, _spent: Unfilled) -> Result<(), Cause> {
        self.pass()
    }

    /// Waits until all members have written their contributions.
    pub(super) fn pass_contributed(&mut self) -> Result<Contributed, Cause> {
        self.pass().map(|()| Contributed(()))
    }

    /// Waits until all members have written their parts of the sum, in a round that then goes on.
    pub(super) fn pass_summed(&mut self, contributed: Contributed) -> Result<Summed, Cause> {
        self.pass().map(|()| Summed(contributed))
    }

    /// Waits until all members have written their segments of the next state.
    pub(super) fn pass_advanced(&mut self, _spent: Summed) -> Result<(), Cause> {
        self.pass()
    }

    /// Waits until all members have added up their segments.
    pub(super) fn pass_reduced(&mut self, _spent: Contributed) -> Result<(), Cause> {
        self.pass()
    }

    fn pass(&mut self) -> Result<(), Cause> {
        self.arrivals += 1;
        self.slot(self.me)[ARRIVALS].store(self.arrivals, SeqCst);
        let mut arrived = 0;
        let met = self.meet(&mut arrived);
        if met == Ok(true) {
            self.bell.ring();
        }
        self.wait(met, arrived).map_err(|cause| {
            self.bell.end(cause);
            self.cause().unwrap_or(cause)
        })
    }

    fn wait(&self, mut met: Result<bool, Cause>, mut arrived: usize) -> Result<(), Cause> {
        for turn in 0..SPINS + YIELDS {
            if met? {
                return Ok(());
            }
            if turn < SPINS {
                hint::spin_loop();
            } else {
                thread::yield_now();
            }
            met = self.meet(&mut arrived);
        }
        let begun = Instant::now();
        let mut checked = begun;
        while !self.meet(&mut arrived)? {
            self.sleep(&mut arrived)?;
            // An arrival counts even if a death or an abort came after it, because an arrived member
            // has written everything that the others need.
            if self.meet(&mut arrived)? {
                break;
            }
            if let Some(cause) = self.cause() {
                return Err(cause);
            }
            let due = checked.elapsed() >= CHECK_EVERY;
            for member in arrived..self.members {
                self.check(member, due, begun)?;
            }
            if due {
                checked = Instant::now();
            }
        }
        Ok(())
    }

    /// Whether all members have arrived. The members below `arrived` are known to have arrived.
    fn meet(&self, arrived: &mut usize) -> Result<bool, Cause> {
        while *arrived < self.members {
            match self.slot(*arrived)[ARRIVALS].load(SeqCst) {
                count if count < self.arrivals => return Ok(false),
                // Another member may have reached the next barrier, but cannot pass it without this one.
                count if count > self.arrivals + 1 => return Err(Cause::Broke(*arrived)),
                _ => *arrived += 1,
            }
        }
        Ok(true)
    }

    /// Sleeps until the gate opens, or it is time for a check.
    fn sleep(&self, arrived: &mut usize) -> Result<(), Cause> {
        let gate = self.bell.memory.gate();
        let ticket = gate.load(SeqCst);
        self.bell.sleepers().fetch_add(1, SeqCst);
        // A member that arrives after this check finds a sleeper, and changes the gate, whose old
        // value is `ticket`.
        let met = self.meet(arrived);
        if met == Ok(false) && self.cause().is_none() && !self.someone_left(*arrived) {
            let timeout = futex::Timespec { tv_sec: 0, tv_nsec: CHECK_EVERY.subsec_nanos().into() };
            // However the wait ends, the caller checks again.
            let _end = futex::wait(gate, futex::Flags::empty(), ticket, Some(&timeout));
        }
        self.bell.sleepers().fetch_sub(1, SeqCst);
        met.map(|_| ())
    }

    fn someone_left(&self, arrived: usize) -> bool {
        (arrived..self.members).any(|member| self.slot(member)[STATE].load(SeqCst) == LEFT)
    }

    /// Checks that a member that has not arrived may still arrive; checks its process only if `due`.
    fn check(&self, member: usize, due: bool, begun: Instant) -> Result<(), Cause> {
        let slot = self.slot(member);
        if slot[ARRIVALS].load(SeqCst) >= self.arrivals {
            return Ok(());
        }
        let cause = match slot[STATE].load(SeqCst) {
            LEFT => Cause::Left(member),
            PRESENT if due => {
                let started = slot[STARTED].load(SeqCst);
                match u32::try_from(slot[PID].load(SeqCst)) {
                    Ok(pid) if Process { pid, started }.is_gone() => Cause::Died(member),
                    Ok(_) => return Ok(()),
                    Err(_) => Cause::Broke(member),
                }
            }
            0 | CLAIMED if begun.elapsed() >= ATTENDANCE_TIMEOUT => Cause::Absent(member),
            0 | CLAIMED | PRESENT => return Ok(()),
            _ => Cause::Broke(member),
        };
        // The member may have arrived before it left or died.
        let arrived = slot[ARRIVALS].load(SeqCst) >= self.arrivals;
        if arrived { Ok(()) } else { Err(cause) }
    }
}

impl Drop for Barrier {
    fn drop(&mut self) {
        self.slot(self.me)[STATE].store(LEFT, SeqCst);
        self.bell.ring();
    }
}
