//! Workers that take too long are evicted.
//!
//! A heartbeat does not prove that a worker makes progress. So its step is watched too: a worker
//! that makes no step while the others wait for it is evicted.

use std::{collections::VecDeque, mem, time::Duration};

use super::{Ending, Engine, State};
use crate::{
    Command, Loss, Outcome, Phase, WorkerId,
    roster::{Activity, Slot},
};

/// A worker may always stall for the time of this many steps.
const STALL_STEPS: u32 = 20;

/// A worker may copy a state for this many times the stall timeout. The time is long, because the
/// worker itself notices when no data arrives.
const FETCH_TIMEOUTS: u32 = 10;

/// The most step times that are kept.
const PACES: usize = 31;

/// The recent step times.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Pace {
    recent: VecDeque<Duration>,
}

impl Pace {
    pub(super) fn note(&mut self, steps: u64, took: Duration) {
        if self.recent.len() == PACES {
            self.recent.pop_front();
        }
        self.recent.push_back(took / u32::try_from(steps).unwrap_or(u32::MAX).max(1));
    }

    fn median(&self) -> Duration {
        let mut sorted: Vec<Duration> = self.recent.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }
}

impl Engine {
    /// How long a worker may keep the others waiting.
    pub(super) fn stall_timeout(&self) -> Duration {
        self.settings.stall_after.max(self.pace.median() * STALL_STEPS)
    }

    pub(super) fn tick(&mut self, now: Duration) -> Vec<Command> {
        let mut commands = self.evict_silent(now);
        match self.state {
            State::Gathering { deadline } if now >= deadline => {
                commands.extend(self.gathered_too_long(now));
            }
            // The next generation may have been delayed after a failed one.
            State::Gathering { .. } => commands.extend(self.form(now)),
            State::Running { .. } | State::Settling { .. }
                if now >= self.absent_until && !self.absent.is_empty() =>
            {
                self.absent.clear();
                commands.extend(self.break_generation(now));
            }
            State::Running { .. } => {
                commands.extend(self.watch_progress(now));
                commands.extend(self.bring_in(now));
            }
            State::Settling { deadline } if now >= deadline => {
                let timeout = self.stall_timeout();
                let members = self.roster.members();
                commands.extend(self.evict_all(&members, &Loss::Unresponsive(timeout), now));
            }
            State::Persisting { by, deadline } if now >= deadline => {
                let loss = Loss::Unresponsive(self.settings.persist_timeout);
                commands.extend(self.evict(by, loss, now));
            }
            State::Settling { .. } | State::Persisting { .. } | State::Ended => {}
        }
        let timeout = self.stall_timeout() * FETCH_TIMEOUTS;
        let late = self.find(|slot| match slot.activity {
            Activity::Fetching { since, .. } => now.saturating_sub(since) > timeout,
            _ => false,
        });
        commands.extend(self.evict_all(&late, &Loss::Unresponsive(timeout), now));
        commands
    }

    fn gathered_too_long(&mut self, now: Duration) -> Vec<Command> {
        let commands = self.form(now);
        let is_waiting = matches!(self.state, State::Gathering { .. }) && !self.is_fetching(now);
        if !commands.is_empty() || !is_waiting {
            return commands;
        }
        let (needed, flag) = if self.has_begun() {
            (self.settings.min_workers, "min-workers")
        } else {
            (self.settings.workers, "workers")
        };
        let ready = self.roster.positions().len();
        let present = u32::try_from(ready).unwrap_or(u32::MAX);
        let waited = self.settings.join_timeout;
        let cause = None;
        let missing = Outcome::WorkersMissing { present, needed, flag, waited, cause };
        self.end(Ending::Fault(missing), now)
    }

    fn evict_silent(&mut self, now: Duration) -> Vec<Command> {
        let limit = self.settings.dead_after;
        let since = now.saturating_sub(mem::replace(&mut self.last_tick, now));
        if since > limit / 2 {
            // The coordinator itself stood still and received no heartbeats, so silence proves
            // nothing.
            for (_, slot) in self.roster.iter_mut() {
                slot.last_seen = now;
                slot.progress = slot.progress.map(|(progress, _)| (progress, now));
            }
            self.absent_until = self.absent_until.max(now + limit);
        }
        let silent = self.find(|slot| now.saturating_sub(slot.last_seen) > limit);
        let mut commands = Vec::new();
        for worker in silent {
            let Some(slot) = self.roster.get(worker) else { continue };
            let silence = now.saturating_sub(slot.last_seen);
            commands.extend(self.evict(worker, Loss::Silent(silence), now));
        }
        commands
    }

    /// If all members stall, evicts those that do not wait for others; aborts the generation if all
    /// of them wait.
    fn watch_progress(&mut self, now: Duration) -> Vec<Command> {
        let timeout = self.stall_timeout();
        let stalls = |slot: &Slot| {
            slot.progress.is_some_and(|(_, since)| now.saturating_sub(since) > timeout)
        };
        let waits = |slot: &Slot| slot.progress.is_some_and(|(p, _)| p.phase == Phase::Waiting);
        let members = self.roster.members().len();
        if members == 0
            || self.find(|slot| slot.activity == Activity::Member && stalls(slot)).len() < members
        {
            return Vec::new();
        }
        let culprits = self.find(|slot| slot.activity == Activity::Member && !waits(slot));
        if culprits.is_empty() {
            return self.break_generation(now);
        }
        self.evict_all(&culprits, &Loss::Stalled(timeout), now)
    }

    fn find(&self, condition: impl Fn(&Slot) -> bool) -> Vec<WorkerId> {
        self.roster.iter().filter(|(_, slot)| condition(slot)).map(|(worker, _)| worker).collect()
    }

    fn evict_all(&mut self, workers: &[WorkerId], loss: &Loss, now: Duration) -> Vec<Command> {
        let mut commands = Vec::new();
        for worker in workers {
            commands.extend(self.evict(*worker, loss.clone(), now));
        }
        commands
    }
}
