//! Threads that compute together, one job after the other.
//!
//! A job has parts that do not depend on each other. The caller and its helpers each take
//! the next part until none is left. The result of a part does not depend on the thread, so no
//! bit depends on the number of threads, and nobody waits for a helper that starts late.
//! A job allocates nothing. This file does not know what the parts are: the caller divides the work.

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

/// How often a helper looks for a job before it sleeps: about 50 microseconds, longer than the
/// gaps between the matrix products of a step.
const LOOKS: u32 = 2000;

/// How often the caller looks whether the helpers are done before it yields its core.
const LOOKS_AT_END: u32 = 10_000;

/// The bits of [`Shared::state`]: the number of helpers that work on the job, ..
const AT_WORK: u64 = 0xffff;
/// .. whether more helpers may begin, ..
const OPEN: u64 = 1 << 16;
/// .. whether helpers must end, and above that the number of the job.
const OVER: u64 = 1 << 17;
const NEXT_JOB: u64 = 1 << 18;

/// The threads of a caller, who is one of them.
pub struct Team {
    shared: Arc<Shared>,
    helpers: Vec<thread::JoinHandle<()>>,
    /// Held while a job runs, because only one job can run at a time.
    caller: Mutex<()>,
}

struct Shared {
    state: AtomicU64,
    /// Written only while no helper works and none may begin.
    job: UnsafeCell<Job>,
    panicked: AtomicBool,
}

type Job = &'static (dyn Fn() + Sync);

// SAFETY: only `job` is not `Sync` by itself. The caller writes it while no helper
// works and the state is not open; helpers read it while they work. Beginning and
// ending work are acquire and release operations on `state`.
unsafe impl Sync for Shared {}

impl fmt::Debug for Team {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Team").field("threads", &self.threads()).finish_non_exhaustive()
    }
}

impl Default for Team {
    /// A team of the caller alone.
    fn default() -> Self {
        Self::new(1)
    }
}

impl Team {
    /// A team of `threads` threads, or of fewer if the system cannot start them.
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
                // A helper may begin its first product late, and no step may allocate memory for it.
                gemm::prepare_thread();
                drop(starting);
                shared.help();
            };
            thread::Builder::new().name("helper".into()).spawn(help).ok()
        };
        // More helpers do not fit the count in the state.
        let helpers = (1..threads.min(AT_WORK as usize)).map_while(start).collect();
        drop(starting);
        // Waits until every helper has dropped its sender, so that allocations at its start belong to no step.
        let _all_started = started.recv();
        Self { shared, helpers, caller: Mutex::new(()) }
    }

    /// The number of threads that compute.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Runs `work` on each of the parts, in any order, and returns when all are done.
    ///
    /// # Panics
    ///
    /// If `work` panics.
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

    /// Makes the caller and every free helper run `job`.
    fn run(&self, job: &(dyn Fn() + Sync)) {
        let _turn = self.caller.lock().unwrap_or_else(PoisonError::into_inner);
        let Shared { state, job: place, panicked } = &*self.shared;
        // SAFETY: only the lifetime changes. Only helpers at work call the job, and
        // `Closing` waits for them, even if the caller's own part panics.
        let job_of_helpers = unsafe { mem::transmute::<&(dyn Fn() + Sync), Job>(job) };
        // SAFETY: the last job is closed and no helper is at work, so no other thread reads it.
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
            // Panics of jobs were reported to the caller.
            let _ended = helper.join();
        }
    }
}

/// When this is dropped, no helper may begin any more, and helpers at work are waited for.
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
    /// The main loop of a helper.
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

    /// Counts this helper as at work, unless the state has changed.
    fn begin(&self, state: u64) -> bool {
        let (success, failure) = (Ordering::Acquire, Ordering::Relaxed);
        self.state.compare_exchange_weak(state, state + 1, success, failure).is_ok()
    }

    fn work(&self) {
        // SAFETY: this helper is at work, so the caller waits and does not write the job.
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
        // Each of the two parts waits for the other, so two threads must run them.
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
