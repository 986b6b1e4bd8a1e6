//! Threads that compute together, a piece of work after the other.
//!
//! Work comes in parts that do not depend on each other; the caller and its helpers each take
//! the next one until there are none. A part is computed the same way whoever takes it, so no
//! bit depends on how many threads there are, and a helper that is late is not waited for.
//! Allocates nothing. Does not know what the parts are: the caller cuts them.

#![allow(unsafe_code, reason = "helpers run a closure that lives on the caller's stack")]

use std::{
    cell::UnsafeCell,
    fmt, mem,
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use crate::gemm;

/// How often a helper looks for work before it sleeps: some 50 microseconds, longer than the
/// gaps between the matrix products of a step.
const LOOKS: u32 = 2000;

/// How often the caller looks whether the helpers are done before it lets others run.
const LOOKS_AT_END: u32 = 10_000;

/// The bits of [`Shared::state`]: how many helpers work on the job, ..
const AT_WORK: u64 = 0xffff;
/// .. whether more may begin, ..
const OPEN: u64 = 1 << 16;
/// .. whether helpers are to end, and above that the number of the job.
const OVER: u64 = 1 << 17;
const NEXT_JOB: u64 = 1 << 18;

/// A caller's threads; the caller is one of them.
pub struct Team {
    shared: Arc<Shared>,
    helpers: Vec<thread::JoinHandle<()>>,
    /// Held while a job runs: there is room for one.
    caller: Mutex<()>,
}

struct Shared {
    state: AtomicU64,
    /// Written only while no helper is at work and none may begin.
    job: UnsafeCell<Job>,
    panicked: AtomicBool,
}

type Job = &'static (dyn Fn() + Sync);

// SAFETY: `job` is all that is not `Sync` by itself. It is written by the caller while no
// helper is at work and the state is not open, and read by helpers at work; entering and
// leaving work are acquire and release operations on `state`.
unsafe impl Sync for Shared {}

impl fmt::Debug for Team {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Team").field("threads", &self.threads()).finish_non_exhaustive()
    }
}

impl Default for Team {
    /// The caller alone.
    fn default() -> Self {
        Self::new(1)
    }
}

impl Team {
    /// A team of so many threads, or of fewer where the system has no room for them.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(&|| {}),
            panicked: AtomicBool::new(false),
        });
        let (starting, started) = mpsc::channel::<()>();
        let start = |_| {
            let (shared, starting) = (Arc::clone(&shared), starting.clone());
            let help = move || {
                // libtorch has a setting for each thread: a part of a product must not start
                // threads of its own.
                tch::set_num_threads(1);
                // A helper may come to its first product late; no step is to allocate for it.
                gemm::prepare_thread();
                drop(starting);
                shared.help();
            };
            thread::Builder::new().name("helper".into()).spawn(help).ok()
        };
        // More than that do not fit the count of those at work.
        let helpers = (1..threads.min(AT_WORK as usize)).map_while(start).collect();
        drop(starting);
        // Says that no sender is left: what a thread allocates as it starts belongs to no step.
        let _all_started = started.recv();
        Self { shared, helpers, caller: Mutex::new(()) }
    }

    /// How many threads compute.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Does `work` on each of the parts, in any order, and returns when all are done.
    ///
    /// # Panics
    ///
    /// Where `work` does.
    pub fn each<T: Send>(&self, parts: impl Iterator<Item = T> + Send, work: impl Fn(T) + Sync) {
        if self.helpers.is_empty() {
            return parts.for_each(work);
        }
        let parts = Mutex::new(parts);
        let next = || parts.lock().unwrap_or_else(PoisonError::into_inner).next();
        self.run(&|| {
            while let Some(part) = next() {
                work(part);
            }
        });
    }

    /// Has every thread that is free run `job`, the caller among them.
    fn run(&self, job: &(dyn Fn() + Sync)) {
        let _turn = self.caller.lock().unwrap_or_else(PoisonError::into_inner);
        let Shared { state, job: place, panicked } = &*self.shared;
        // SAFETY: only the lifetime changes. The job is called by helpers at work alone, and
        // `Closing` waits for them, even when the caller's own part panics.
        let job_of_helpers = unsafe { mem::transmute::<&(dyn Fn() + Sync), Job>(job) };
        // SAFETY: the last job is closed and nobody is at work, so nobody else looks at it.
        unsafe { *place.get() = job_of_helpers };
        panicked.store(false, Ordering::Relaxed);
        let last = state.load(Ordering::Relaxed);
        state.store((last + NEXT_JOB) | OPEN, Ordering::Release);
        for helper in &self.helpers {
            helper.thread().unpark();
        }
        let closing = Closing(state);
        job();
        drop(closing);
        assert!(!panicked.load(Ordering::Relaxed), "a helper has panicked");
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.state.fetch_or(OVER, Ordering::Release);
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            // Panics of jobs were told to the caller.
            let _ended = helper.join();
        }
    }
}

/// When dropped, no helper begins any more, and those at work have ended.
struct Closing<'a>(&'a AtomicU64);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.fetch_and(!OPEN, Ordering::Relaxed);
        let mut looks = 0;
        while self.0.load(Ordering::Acquire) & AT_WORK != 0 {
            looks += 1;
            if looks < LOOKS_AT_END { std::hint::spin_loop() } else { thread::yield_now() }
        }
    }
}

impl Shared {
    /// The life of a helper.
    fn help(&self) {
        let mut done = 0;
        let mut looks = 0;
        loop {
            let state = self.state.load(Ordering::Relaxed);
            if state & OVER != 0 {
                return;
            }
            let job = state / NEXT_JOB;
            if state & OPEN != 0 && job != done {
                if self.begin(state) {
                    (done, looks) = (job, 0);
                    self.work();
                }
            } else if looks < LOOKS {
                looks += 1;
                std::hint::spin_loop();
            } else {
                looks = 0;
                thread::park();
            }
        }
    }

    /// Counts a helper as at work, unless the state has changed.
    fn begin(&self, state: u64) -> bool {
        let (success, failure) = (Ordering::Acquire, Ordering::Relaxed);
        self.state.compare_exchange_weak(state, state + 1, success, failure).is_ok()
    }

    fn work(&self) {
        // SAFETY: this helper is at work, so the caller waits and writes nothing.
        let job = unsafe { *self.job.get() };
        if panic::catch_unwind(AssertUnwindSafe(job)).is_err() {
            self.panicked.store(true, Ordering::Relaxed);
        }
        self.state.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_done_once_by_any_number_of_threads() {
        for threads in [1, 2, 3, 8] {
            let team = Team::new(threads);
            assert_eq!(team.threads(), threads);
            let mut counts = vec![0_u32; 1000];
            for round in 1..=500 {
                team.each(counts.chunks_mut(7), |part| part.iter_mut().for_each(|n| *n += 1));
                assert!(counts.iter().all(|n| *n == round));
            }
        }
    }

    #[test]
    fn helpers_that_sleep_are_woken_and_share_the_work() {
        let team = Team::new(2);
        let seen = Mutex::new(std::collections::HashSet::new());
        // Each of the two parts waits for the other, so two threads must take them.
        let meeting = std::sync::Barrier::new(2);
        for _ in 0..3 {
            team.each(0..2, |_| {
                meeting.wait();
                seen.lock().unwrap().insert(thread::current().id());
            });
        }
        assert_eq!(seen.lock().unwrap().len(), 2);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        let team = Team::new(3);
        for _ in 0..10 {
            let caught = panic::catch_unwind(AssertUnwindSafe(|| {
                team.each(0..100, |part| assert!(part != 50, "part 50"));
            }));
            assert!(caught.is_err());
            let sum = AtomicU64::new(0);
            team.each(0..100_u64, |part| {
                sum.fetch_add(part, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 4950);
        }
    }

    #[test]
    fn two_callers_take_turns() {
        let team = Team::new(2);
        let sum = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        team.each(0..10_u64, |part| {
                            sum.fetch_add(part, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 2 * 200 * 45);
    }
}
